"""Several bundles searched as one find what one bundle of all their photos finds."""

import dataclasses
import os
import shutil
from collections.abc import Sequence
from pathlib import Path

import h5py
import numpy as np
import pytest

from imgrank.bundle import probe
from imgrank.config import RerankSettings, SearchSettings, TokenSettings
from imgrank.errors import InputError, MismatchError, MissingGroupError, NotABundleError, SettingsError, StaleGroupError
from imgrank.results import Ranking, tsv_header
from imgrank.steps.build_index import build_index
from imgrank.steps.cache_tokens import cache_tokens
from imgrank.steps.collection import open_collection
from imgrank.steps.embed import embed
from imgrank.steps.rerank import Reranker, rerank_rankings
from imgrank.steps.search import Searcher
from imgrank.steps.second_stage import Request
from tests.tiny_mllms import save_tiny_mllm

TOP = 12
TOKENS = TokenSettings(longer_side=160, reduce="divprune:12")


def bundle_of(path: Path, photos: Sequence[Path], *, graph: bool = True) -> Path:
    embed(path, [os.fsencode(photo) for photo in photos])
    if graph:
        build_index(path)
    return path


@pytest.fixture(scope="module")
def halves(_indexed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with `photos/`, `queries/` and a model, `all.h5` of all photos, `a.h5` and `b.h5` of half of them each.

    All three have tokens of the model; `most.h5`, of all photos but the last, has none. Nothing in it may be changed.
    """
    folder = tmp_path_factory.mktemp("several") / "collection"
    shutil.copytree(_indexed.parent, folder, copy_function=os.link)
    photos = sorted((folder / "photos").iterdir())
    model = save_tiny_mllm(folder / "mllm", "qwen3_vl")
    for name, some in (("all", photos), ("a", photos[::2]), ("b", photos[1::2])):
        bundle = bundle_of(folder / f"{name}.h5", some)
        cache_tokens(bundle, mllm=str(model), settings=TOKENS, proof_pairs=0)
    bundle_of(folder / "most.h5", photos[:19])
    return folder


@pytest.fixture
def own(halves: Path, tmp_path: Path) -> Path:
    """The folder of `halves` as the test's own."""
    folder = tmp_path / "own"
    shutil.copytree(halves, folder, copy_function=os.link)
    for bundle in folder.glob("*.h5"):
        bundle.unlink()
        shutil.copy2(halves / bundle.name, bundle)
        probe.remember(bundle)
    return folder


def searcher(
    folder: Path,
    *names: str,
    exact: bool = True,
    score_cache: Path | None = None,
    request=None,
    k: int = 20,
    **settings,
) -> Searcher:
    """Open bundles; a second stage where one of its settings is given."""
    photos = open_collection([folder / f"{name}.h5" for name in names])
    reranker = None
    if settings:
        reranker = Reranker(photos, RerankSettings(top=TOP, **settings), request, score_cache=score_cache)
    return Searcher(photos, SearchSettings(top_k=k, exact=exact), reranker=reranker)


def queries(folder: Path) -> list[bytes]:
    return [os.fsencode(path) for path in sorted((folder / "queries").iterdir())]


def bare(ranking: Ranking) -> list[tuple]:
    """Return what does not depend on the bundle that a hit is of."""
    return [dataclasses.astuple(dataclasses.replace(hit, id=0, bundle=None)) for hit in ranking.hits]


def name(path: bytes | None) -> str:
    return Path(os.fsdecode(path)).name


@pytest.mark.parametrize(
    ("exact", "settings"),
    [
        (True, {}),
        (False, {}),
        (True, {"scorer": "geometric"}),
        (False, {"scorer": "geometric"}),
        (True, {"scorer": "geometric", "top_only": 2, "lam": 0.97}),
        (True, {"scorer": "maxsim"}),
        (True, {"scorer": "mllm"}),
        (True, {"scorer": "mllm", "top_only": 2, "lam": 0.97}),
        (True, {"scorer": "mllm", "symmetric": True}),
    ],
    ids=str,
)
def test_two_halves_are_the_whole(halves, exact, settings):
    whole, both = (searcher(halves, *names, exact=exact, **settings) for names in (["all"], ["a", "b"]))
    for query in queries(halves):
        expected, found = whole.search(query), both.search(query)
        assert bare(found) == bare(expected)
        if len(found.hits) == 20:
            assert {name(hit.bundle) for hit in found.hits} == {"a.h5", "b.h5"}
        for hit in found.hits:  # its own number in its own bundle
            part = both.photos.parts[name(hit.bundle) == "b.h5"]
            assert part.path(part.row_of_id(hit.id)) == hit.path
        assert all(hit.bundle is None for hit in expected.hits)
    if whole.reranker is not None:
        work = both.reranker.work
        assert (work.scored, work.left_out) == (whole.reranker.work.scored, whole.reranker.work.left_out)
        assert (work.left_out > 0) == ("lam" in settings)  # the stop is that of the whole list


def test_at_the_same_similarity_the_bundle_named_first_comes_first(own):
    twin = own / "photos" / "twin.jpg"
    shutil.copy(own / "photos" / "object-00-view-0.jpg", twin)  # another photo: another place
    bundle_of(own / "twin.h5", [twin])
    query = queries(own)[0]
    first, second = (
        searcher(own, *names, scorer="geometric").search(query) for names in (["b", "twin"], ["twin", "b"])
    )
    for ranking, order in (
        (first, ["object-00-view-0.jpg", "twin.jpg"]),
        (second, ["twin.jpg", "object-00-view-0.jpg"]),
    ):
        alike = [hit for hit in ranking.hits if name(hit.path) in order]
        assert [name(hit.path) for hit in alike] == order
        assert alike[0].score == alike[1].score


@pytest.mark.parametrize("exact", [True, False])
@pytest.mark.parametrize("k", [1, 3, 20])
def test_a_photo_of_two_bundles_is_that_of_the_first(halves, exact, k):
    photos = sorted((halves / "photos").iterdir())
    expected = [bare(ranking) for ranking in searcher(halves, "all", exact=exact, k=k).search_all(queries(halves))]
    # Of the last bundle one photo alone may be found, and then none: all others are those of the bundles before.
    for names, left in ((["most", "all"], {photos[19].name}), (["b", "a", "all"], set())):
        found = list(searcher(halves, *names, exact=exact, k=k).search_all(queries(halves)))
        assert [bare(ranking) for ranking in found] == expected
        of_last = {name(hit.path) for ranking in found for hit in ranking.hits if name(hit.bundle) == "all.h5"}
        assert of_last == (left if k == 20 else of_last & left)


def test_a_photo_with_other_content_is_another_photo(own):
    changed = own / "photos" / "object-00-view-0.jpg"
    shutil.copy(own / "photos" / "distractor-000.jpg", own / "other.jpg")
    changed.unlink()
    (own / "other.jpg").rename(changed)
    bundle_of(own / "late.h5", [changed])
    found = searcher(own, "b", "late").search(queries(own)[0])
    assert {name(hit.bundle) for hit in found.hits if name(hit.path) == changed.name} == {"b.h5", "late.h5"}


def test_candidates_of_a_bundle_without_tokens_are_prepared_as_the_others(own):
    with h5py.File(own / "a.h5", "r+") as root:
        del root["tokens/default"]
    whole, both = (searcher(own, *names, scorer="mllm") for names in (["all"], ["a", "b"]))
    told: list[str] = []
    both.reranker._reporter = type("Told", (), {"note": staticmethod(told.append)})()
    assert both.reranker.stage.bundles[0].table is None
    for query in queries(own):
        assert bare(both.search(query)) == bare(whole.search(query))
    assert len(told) == 1
    assert f"imgrank cache-tokens {own / 'a.h5'}" in told[0]
    with pytest.raises(MissingGroupError, match=r"a\.h5.*cache-tokens"):
        searcher(own, "a", "b", scorer="mllm", request=Request(cache="default"))


def test_a_chosen_model_of_any_bundle_scores_all(own):
    with h5py.File(own / "a.h5", "r+") as root:
        del root["tokens/default"]
    assert searcher(own, "a", scorer="auto").reranker.stage.scorer.name == "geometric"
    stage = searcher(own, "a", "b", scorer="auto").reranker.stage
    assert stage.scorer.name == "mllm"
    assert [kept.table and kept.table.name for kept in stage.bundles] == [None, "default"]


def test_each_candidate_is_read_as_its_own_cache_keeps_it(own):
    cache_tokens(
        own / "b.h5",
        mllm=str(own / "mllm"),
        settings=dataclasses.replace(TOKENS, reduce="grid:4", store="int8"),
        proof_pairs=0,
        overwrite=True,
    )
    both = searcher(own, "a", "b", scorer="mllm")
    alone = {bundle: searcher(own, bundle[0], scorer="mllm") for bundle in ("a.h5", "b.h5")}
    for query in queries(own):
        logits = {hit.path: hit.logit for one in alone.values() for hit in one.search(query).hits}
        scored = [hit for hit in both.search(query).hits if hit.scorer]
        assert len(scored) == TOP
        np.testing.assert_allclose([hit.logit for hit in scored], [logits[hit.path] for hit in scored], atol=2e-5)


def test_scores_are_kept_for_the_pair_and_the_size_the_query_was_seen_at(own, tmp_path):
    kept = tmp_path / "scores"
    query = queries(own)[0]
    searcher(own, "a", scorer="mllm", score_cache=kept).search(query)
    both = searcher(own, "a", "b", scorer="mllm", score_cache=kept)
    first = both.search(query)
    of_a = sum(name(hit.bundle) == "a.h5" for hit in first.hits if hit.scorer)
    assert (both.reranker.work.known, both.reranker.work.scored) == (of_a, TOP - of_a)
    again = searcher(own, "a", "b", scorer="mllm", score_cache=kept)
    assert bare(again.search(query)) == bare(first)
    assert again.reranker.work.scored == 0
    # With larger photos in `b`, its candidates meet a smaller query beside `a` than alone.
    larger = dataclasses.replace(TOKENS, longer_side=224)
    cache_tokens(own / "b.h5", mllm=str(own / "mllm"), settings=larger, proof_pairs=0, overwrite=True)
    searcher(own, "b", scorer="mllm", score_cache=kept).search(query)
    mixed = searcher(own, "a", "b", scorer="mllm", score_cache=kept)
    mixed.search(query)
    assert mixed.reranker.work.known == of_a
    turned = searcher(own, "b", "a", scorer="mllm", score_cache=kept)
    turned.search(query)
    assert turned.reranker.work.known == TOP - of_a


def test_tokens_of_two_models_are_refused_until_one_is_named(own):
    other = save_tiny_mllm(own / "other", "qwen3_vl", seed=1)
    cache_tokens(own / "b.h5", mllm=str(other), settings=TOKENS, proof_pairs=0, overwrite=True)
    with pytest.raises(MismatchError, match=r"b\.h5: cache 'default'.*a\.h5.*--mllm"):
        searcher(own, "a", "b", scorer="mllm")
    stage = searcher(own, "a", "b", scorer="mllm", request=Request(mllm=str(own / "mllm"))).reranker.stage
    assert [kept.table is None for kept in stage.bundles] == [False, True]
    cache_tokens(own / "b.h5", mllm=str(own / "mllm"), settings=TOKENS, cache="mine", proof_pairs=0)
    stage = searcher(own, "a", "b", scorer="mllm").reranker.stage
    assert [kept.table.name for kept in stage.bundles] == ["default", "mine"]


@pytest.mark.parametrize("scorer", ["geometric", "mllm"])
def test_records_are_reranked_in_the_bundles_they_name(halves, scorer):
    paths = [halves / "a.h5", halves / "b.h5"]
    shortlists = list(searcher(halves, "a", "b").search_all(queries(halves)))
    expected = list(searcher(halves, "a", "b", scorer=scorer).search_all(queries(halves)))
    settings = RerankSettings(top=TOP, scorer=scorer)
    assert list(rerank_rankings(iter(shortlists), Reranker(open_collection(paths), settings))) == expected
    # In another order of the bundles, the same: a record says which it is of.
    turned = Reranker(open_collection(paths[::-1]), settings)
    assert list(rerank_rankings(iter(shortlists), turned)) == expected
    # A record that names none is of the first.
    (alone,) = rerank_rankings(iter([searcher(halves, "b").search(queries(halves)[0])]), turned)
    assert {name(hit.bundle) for hit in alone.hits} == {"b.h5"}
    with pytest.raises(InputError, match=r"b\.h5, which is not among those given .*--with .*b\.h5"):
        list(rerank_rankings(iter(shortlists), Reranker(open_collection(paths[:1]), settings)))


def test_hits_of_a_run_are_found_by_the_path_that_leads_to_them(own, monkeypatch):
    for folder, photo in (("one", "object-00-view-0.jpg"), ("two", "object-01-view-0.jpg")):
        (own / folder / "photos").mkdir(parents=True)
        shutil.copy(own / "photos" / photo, own / folder / "photos" / "same.jpg")
        bundle_of(own / folder / "db.h5", [own / folder / "photos"])
    photos = open_collection([own / "one" / "db.h5", own / "two" / "db.h5"])
    run = Searcher(photos, SearchSettings(top_k=1)).search(queries(own)[0]).hits[0]

    def row(path: bytes) -> int:
        return photos.row_of_hit(dataclasses.replace(run, id=-1, path=path, bundle=None))

    places = [os.fsencode(own / folder / "photos" / "same.jpg") for folder in ("one", "two")]
    assert [row(place) for place in places] == [0, 1]
    with pytest.raises(InputError, match=r"several bundles have a photo called photos/same\.jpg"):
        row(b"photos/same.jpg")
    monkeypatch.chdir(own / "two")  # from here the name leads to one of them
    assert row(b"photos/same.jpg") == 1
    with pytest.raises(InputError, match=r"no photo is called none\.jpg"):
        row(b"none.jpg")


@pytest.mark.parametrize(
    ("attribute", "value"),
    [
        ("model-revision", "1-another"),
        ("model-revision", "1-same+projection"),
        ("settings", '{"pooling": "mean"}'),
        ("settings", '{"image_size": 224}'),
    ],
)
def test_descriptors_of_another_encoder_are_refused(own, attribute, value):
    with h5py.File(own / "b.h5", "r+") as root:
        root["descriptors"].attrs[attribute] = value
    with pytest.raises(MismatchError, match=r"b\.h5: holds descriptors.*a\.h5.*one by one"):
        searcher(own, "a", "b")


def test_the_number_type_and_the_folder_of_the_encoder_may_differ(own):
    with h5py.File(own / "b.h5", "r+") as root:
        root["descriptors"].attrs["settings"] = '{"dtype": "float32", "model": "/moved/builtin"}'
    assert searcher(own, "a", "b").search(queries(own)[0]).hits


def test_bundles_that_cannot_be_searched_say_what_to_do(own):
    os.link(own / "a.h5", own / "again.h5")
    os.symlink(own / "a.h5", own / "link.h5")
    for twin in ("a", "again", "link"):
        with pytest.raises(SettingsError, match=r"are the same bundle"):
            searcher(own, "a", "b", twin)
    with pytest.raises(NotABundleError, match=r"none\.h5: no such file"):
        searcher(own, "a", "none")
    bundle_of(own / "plain.h5", [own / "photos" / "object-00-view-0.jpg"], graph=False)
    with pytest.raises(MissingGroupError, match=r"run `imgrank index .*plain\.h5`"):
        searcher(own, "a", "plain", exact=False)
    assert len(searcher(own, "a", "plain").search(queries(own)[0]).hits) == 11
    with h5py.File(own / "plain.h5", "r+") as root:
        del root["descriptors"]
    with pytest.raises(MissingGroupError, match=r"plain\.h5: no 'descriptors' group yet; run `imgrank embed"):
        searcher(own, "a", "plain")
    with h5py.File(own / "b.h5", "r+") as root:
        root["graph"].attrs["input-digest"] = "0" * 32
    with pytest.raises(StaleGroupError, match=r"run `imgrank index .*b\.h5` again"):
        searcher(own, "a", "b", exact=False)


def test_roots_are_given_for_each_bundle(own):
    paths = [own / "a.h5", own / "b.h5"]
    moved = own / "moved"
    moved.mkdir()
    photos = open_collection(paths, roots=[own, moved])
    assert [photos.hit(b"q", 1, row, 0.0).path.startswith(os.fsencode(moved)) for row in (0, 10)] == [False, True]
    with pytest.raises(SettingsError, match="--root is given 1 times for 2 bundles"):
        open_collection(paths, roots=[own])


def test_the_header_of_tsv_has_the_column_of_the_bundle_only_where_there_is_one():
    assert tsv_header(bundles=True) == tsv_header(bundles=False)[:-1] + b"\tbundle\n"
