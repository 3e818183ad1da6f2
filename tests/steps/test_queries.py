"""What is searched for, and among which photos: against numpy over the same descriptors."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imgrank.arrays import unit_rows
from imgrank.config import DecodeSettings, RerankSettings, SearchSettings, Thresholds
from imgrank.encode.builtin import BuiltinEncoder
from imgrank.errors import ImageError, InputError, SettingsError
from imgrank.images.decode import decode
from imgrank.results import Ranking
from imgrank.steps.bundle_encoder import load_bundle_encoder
from imgrank.steps.collection import open_collection
from imgrank.steps.rerank import Reranker
from imgrank.steps.search import Query, Searcher
from imgrank.steps.selection import Selection


def searcher(folder: Path, *, rerank: int | None = None, selection=None, thresholds=None, **settings) -> Searcher:
    photos = open_collection([folder / "db.h5"], selection=selection)
    reranker = None if rerank is None else Reranker(photos, RerankSettings(top=rerank))
    shortlist = SearchSettings(**{"top_k": 20, **settings})
    return Searcher(photos, shortlist, reranker=reranker, thresholds=thresholds)


def name(folder: Path, number: int = 0) -> bytes:
    return os.fsencode(folder / "queries" / f"query-{number:02}.jpg")


def found(ranking: Ranking) -> list[tuple[int, float]]:
    return [(hit.id, hit.similarity) for hit in ranking.hits]


def descriptors(folder: Path) -> np.ndarray:
    with open_collection([folder / "db.h5"]) as photos:
        return photos.parts[0].bundle.descriptors.read()


def encoded(folder: Path, *names: bytes) -> np.ndarray:
    with open_collection([folder / "db.h5"]) as photos:
        encoder = load_bundle_encoder(photos.parts[0].bundle, None, "cpu")
    assert isinstance(encoder, BuiltinEncoder)
    pixels = [decode(one, DecodeSettings(), longer_side=encoder.longer_side).pixels for one in names]
    return encoder.encode(pixels).descriptors


def best(similarities: np.ndarray, k: int) -> list[int]:
    return np.argsort(-similarities, kind="stable")[:k].tolist()


def test_a_selection_is_what_exact_search_over_it_finds(collection: Path) -> None:
    (query,) = encoded(collection, name(collection))
    similarities = descriptors(collection) @ query
    paths = open_collection([collection / "db.h5"]).parts[0].stored_paths
    kept = [row for row, path in enumerate(paths) if path.startswith(b"photos/object") and not path.endswith(b"1.jpg")]
    assert 0 < len(kept) < len(paths)
    selection = Selection((b"photos/object*",), (b"*1.jpg",))
    for exact in (False, True):
        hits = searcher(collection, selection=selection, exact=exact).search(name(collection)).hits
        assert [hit.id for hit in hits] == [kept[place] for place in best(similarities[kept], 20)]
    assert searcher(collection, selection=Selection((b"nothing",))).search(name(collection)).hits == ()


def test_a_wide_selection_follows_the_graph_around_what_is_left_out(collection: Path, monkeypatch) -> None:
    selection = Selection((), (b"photos/object-00*",))
    narrow = found(searcher(collection, selection=selection, top_k=5).search(name(collection)))
    monkeypatch.setattr("imgrank.steps.shortlist.FEW", 0)
    wide = searcher(collection, selection=selection, top_k=5)
    assert wide.shortlister._parts[0]._graph is not None
    assert found(wide.search(name(collection))) == narrow


@pytest.mark.parametrize("how", ["mean", "max"])
def test_several_photos_as_one_query(collection: Path, how: str) -> None:
    names = (name(collection, 0), name(collection, 1))
    queries = encoded(collection, *names)
    rows = descriptors(collection)
    expected = rows @ unit_rows(queries.mean(axis=0)) if how == "mean" else (rows @ queries.T).max(axis=1)
    ranking = searcher(collection, top_k=6).search(Query(names, how))
    assert [hit.id for hit in ranking.hits] == best(expected, 6)
    np.testing.assert_allclose([hit.similarity for hit in ranking.hits], np.sort(expected)[::-1][:6], atol=1e-6)
    assert {(hit.query, hit.photos, hit.fuse) for hit in ranking.hits} == {(names[0], names, how)}


def test_fused_by_rank(collection: Path) -> None:
    names = (name(collection, 0), name(collection, 1))
    alone = [[hit.id for hit in searcher(collection, rerank=5).search(one).hits] for one in names]
    scores = {row: sum(1 / (60 + 1 + ids.index(row)) for ids in alone) for row in range(20)}
    ranking = searcher(collection, rerank=5, top_k=4).search(Query(names, "rrf"))
    assert [hit.score for hit in ranking.hits] == [float(np.float32(scores[hit.id])) for hit in ranking.hits]
    assert [hit.score for hit in ranking.hits] == sorted(np.float32(list(scores.values())).tolist())[:-5:-1]


def test_a_photo_of_the_bundle_as_the_query_is_left_out_itself(collection: Path) -> None:
    row = 5
    path = open_collection([collection / "db.h5"]).path(row)
    by_name = found(searcher(collection, rerank=8).search(path))
    by_row = found(searcher(collection, rerank=8).search(Query((row,))))
    assert row in dict(by_name)
    # The one place more that a second look has without the photo itself may bring another one in.
    assert dict(by_row) == {key: value for key, value in by_name if key != row}
    without = searcher(collection, exclude_self=True, rerank=8).search(path)
    assert found(without) == by_row


def test_the_same_content_under_another_name_is_the_query_itself(collection: Path) -> None:
    source = next(iter(sorted((collection / "photos").iterdir())))
    shutil.copy(source, collection / "elsewhere.jpg")
    ids = [
        hit.id for hit in searcher(collection, exclude_self=True).search(os.fsencode(collection / "elsewhere.jpg")).hits
    ]
    assert len(ids) == 19
    assert 0 not in ids
    # So is a part of it.
    part = os.fsencode(collection / "elsewhere.jpg") + b"#xywh=0,0,100,100"
    assert 0 not in [hit.id for hit in searcher(collection, exclude_self=True).search(part).hits]


def test_a_part_is_searched_as_a_photo_of_its_own(collection: Path) -> None:
    with Image.open(os.fsdecode(name(collection))) as photo:
        photo.crop((20, 30, 180, 190)).save(collection / "part.png")
    cut = os.fsencode(collection / "part.png")
    part = name(collection) + b"#xywh=20,30,160,160"
    for rerank in (None, 6):
        assert found(searcher(collection, rerank=rerank).search(part)) == found(
            searcher(collection, rerank=rerank).search(cut)
        )
    beside = name(collection) + b"#xywh=9000,0,10,10"
    (error,) = searcher(collection).search_all([beside])
    assert isinstance(error, ImageError)


def test_expansion_is_a_second_search(collection: Path) -> None:
    (query,) = encoded(collection, name(collection))
    rows = descriptors(collection)
    first = best(rows @ query, 3)
    weights = np.maximum(rows[first] @ query, 0) ** 2.0
    moved = unit_rows(query + weights @ rows[first])
    ranking = searcher(collection, expand=3, expand_alpha=2.0, top_k=6).search(name(collection))
    assert [hit.id for hit in ranking.hits] == best(rows @ moved, 6)
    np.testing.assert_allclose([hit.similarity for hit in ranking.hits], np.sort(rows @ moved)[::-1][:6], atol=1e-6)


def test_copies_fold_and_the_list_stays_long(collection: Path) -> None:
    rows = descriptors(collection)
    (query,) = encoded(collection, name(collection))
    threshold = 0.2  # views of one drawn object are that similar
    order, groups = best(rows @ query, 20), []
    for row in order:
        home = next((group for group in groups if rows[group[0]] @ rows[row] >= threshold), None)
        groups.append([row]) if home is None else home.append(row)
    assert len(groups) < 20
    ranking = searcher(collection, collapse=True, copies_at=threshold, top_k=6).search(name(collection))
    assert [hit.id for hit in ranking.hits] == [group[0] for group in groups[:6]]
    assert [hit.rank for hit in ranking.hits] == [1, 2, 3, 4, 5, 6]
    paths = open_collection([collection / "db.h5"])
    # Copies further down the list than was looked at are not known.
    for hit, group in zip(ranking.hits, groups, strict=False):
        every = [paths.path(row) for row in group[1:]]
        assert list(hit.collapsed) == every[: len(hit.collapsed)]
    whole = searcher(collection, collapse=True, copies_at=threshold).search(name(collection))
    assert [len(hit.collapsed) + 1 for hit in whole.hits] == [len(group) for group in groups]


def test_resized_copies_fold_by_their_local_features(imgrank, collection: Path) -> None:
    for path in sorted((collection / "photos").glob("object-0[01]-view-0.jpg")):
        with Image.open(path) as photo:
            photo.resize((photo.width * 2 // 3, photo.height * 2 // 3)).save(path.with_name(f"small-{path.name}"))
    done = imgrank("index", "photos", "-o", "db.h5", "-q", cwd=collection)
    assert done.returncode == 0, done.stderr.decode()
    hits = searcher(collection, collapse=True).search(name(collection)).hits
    folded = {os.path.basename(path) for hit in hits for path in (hit.path, *hit.collapsed) if hit.collapsed}
    assert folded == {
        b"object-00-view-0.jpg", b"small-object-00-view-0.jpg", b"object-01-view-0.jpg", b"small-object-01-view-0.jpg"
    }  # fmt: skip
    assert len(hits) == 20


def test_thresholds_cut_and_number_anew(collection: Path) -> None:
    every = searcher(collection, rerank=8).search(name(collection)).hits
    least = every[3].score
    kept = searcher(collection, rerank=8, thresholds=Thresholds(min_score=least)).search(name(collection)).hits
    assert kept == every[:4]
    with pytest.raises(SettingsError, match="--min-score"):
        searcher(collection, rerank=8, thresholds=Thresholds(min_probability=0.5))
    with pytest.raises(SettingsError, match="--rerank"):
        searcher(collection, thresholds=Thresholds(min_probability=0.5))


def test_a_joint_query_has_no_early_stop(collection: Path) -> None:
    photos = open_collection([collection / "db.h5"])
    reranker = Reranker(photos, RerankSettings(top=5, top_only=2))
    query = Query((name(collection, 0), name(collection, 1)))
    with pytest.raises(SettingsError, match="--top-only"):
        Searcher(photos, SearchSettings(), reranker=reranker).search(query)


def test_a_query_row_needs_a_descriptor(collection: Path) -> None:
    photos = open_collection([collection / "db.h5"])
    assert photos.row_of_query(3) == 3
    with pytest.raises(InputError, match="99"):
        photos.row_of_query(99)


@pytest.mark.parametrize("how", ["mean", "max"])
def test_a_joint_second_look_tells_where_hits_stood_before(collection: Path, how: str) -> None:
    names = (name(collection, 0), name(collection, 1))
    shortlist = [hit.id for hit in searcher(collection).search(Query(names, how)).hits]
    hits = searcher(collection, rerank=6).search(Query(names, how)).hits
    assert [shortlist[hit.former_rank - 1] for hit in hits] == [hit.id for hit in hits]
    assert [hit.scorer for hit in hits] == ["geometric"] * 6 + [None] * 14
