"""Learning a calibration from judged queries, what it is of, and what other commands do with it."""

import os
import shutil
import sys
from dataclasses import asdict, replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from imgrank.bundle import file
from imgrank.config import CalibrationSettings, RerankSettings, SearchSettings, TokenSettings
from imgrank.errors import DamagedBundleError, ImageError, InputError, MissingExtraError, SettingsError
from imgrank.evaluation.qrels import Qrels
from imgrank.progress import SILENT
from imgrank.steps.cache_tokens import cache_tokens
from imgrank.steps.calibrate import (
    CalibrationReport,
    Evidence,
    calibrate,
    judged_queries,
    learn,
    list_calibrations,
    remove_calibration,
)
from imgrank.steps.calibration import CalibrationFacts, read_calibration, way_of
from imgrank.steps.check import check
from imgrank.steps.collection import open_collection
from imgrank.steps.compact import compact
from imgrank.steps.merge import merge
from imgrank.steps.photos import open_photos
from imgrank.steps.remove import remove
from imgrank.steps.repair import repair
from imgrank.steps.rerank import Reranker
from imgrank.steps.search import Searcher
from imgrank.steps.second_stage import Request, choose
from imgrank.steps.split import split
from tests.bundle.test_calibration import BINS, KNOTS, kept, provenance
from tests.tiny_mllms import save_tiny_mllm

pytest.importorskip("sklearn")
TOP = 6
SETTINGS = CalibrationSettings(top=TOP, folds=3, bins=5)


def judgements(folder: Path) -> Qrels:
    """Two views of each object ask for the others."""
    qrels: Qrels = {}
    names = sorted(os.fsencode(path.name) for path in (folder / "photos").glob("object-*"))
    for name in names:
        stem = name.split(b"-view")[0]
        if not name.endswith(b"2.jpg"):
            qrels[b"photos/" + name] = {b"photos/" + o: 1 for o in names if o.startswith(stem) and o != name}
    return qrels


@pytest.fixture(scope="module")
def learned(_indexed: Path, tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, CalibrationReport]:
    """A bundle with a calibration of the geometric scorer, and what was said of it; read only."""
    folder = tmp_path_factory.mktemp("learned") / "collection"
    shutil.copytree(_indexed.parent, folder)
    shutil.copy2(_indexed, folder / "db.h5")
    return folder / "db.h5", calibrate(folder / "db.h5", judgements(folder), SETTINGS)


@pytest.fixture
def bundle(collection: Path, monkeypatch) -> Path:
    """A bundle without one, its folder the working directory."""
    monkeypatch.chdir(collection)
    return collection / "db.h5"


@pytest.fixture
def calibrated(bundle: Path, learned) -> Path:
    """The same with one, to be changed."""
    shutil.copy2(learned[0], bundle)
    return bundle


@pytest.fixture(scope="module")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> str:
    return os.fspath(save_tiny_mllm(tmp_path_factory.mktemp("calibrate") / "mllm", "qwen3_vl"))


def hits(path: Path, scoring: RerankSettings | None = None, request: Request | None = None, others=()):
    photos = open_collection([path, *others])
    reranker = Reranker(photos, replace(scoring or RerankSettings(), top=6), request)
    return Searcher(photos, SearchSettings(top_k=10), reranker=reranker).search(b"queries/query-00.jpg").hits


def test_pairs_are_those_of_shortlists_without_the_query(learned):
    path, report = learned
    assert (report.facts.queries, report.facts.pairs, report.skipped) == (10, 10 * TOP, 0)
    assert (report.facts.scorer, report.facts.evidence, report.facts.asked) == ("geometric", "score", "")
    assert report.table.counts.sum() == report.table_before.counts.sum() == report.facts.pairs
    # By hand: of the nearest of each photo, without itself, those of its object.
    with open_photos(path) as photos:
        vectors = photos.bundle.descriptors.read()
        similar = vectors @ vectors.T
        np.fill_diagonal(similar, -2)
        same = 0
        for query, judged in judgements(path.parent).items():
            nearest = np.argsort(-similar[photos.row_of_name(query)], kind="stable")[:TOP]
            same += len({photos.row_of_name(name) for name in judged} & set(nearest.tolist()))
    assert report.facts.same == same
    (held,) = list_calibrations(path)
    assert held == {"name": report.name, "model": "builtin-local", **asdict(report.facts)}


def test_judgements_become_rows(bundle: Path):
    name, other, third = (b"photos/object-00-view-%d.jpg" % view for view in range(3))
    gone = b"photos/is-not-there.jpg"  # of a larger collection
    shutil.copy(os.fsdecode(other), "copy.jpg")
    shutil.copy(os.fsdecode(other), "photos/twin.jpg")
    with open_photos(bundle) as photos:
        row = photos.row_of_name
        qrels = {name: {other: 1, third: -1, gone: -2}, b"copy.jpg": {name: 2, gone: 0}, b"no.jpg": {name: 1}}
        queries, skipped = judged_queries(photos, qrels)
        by_path = {os.path.basename(query.path): query for query in queries}
        inside, copy = by_path[b"object-00-view-0.jpg"], by_path[b"copy.jpg"]
        assert (inside.right, inside.junk, inside.own) == ({row(other)}, {row(third)}, {row(name)})
        assert (copy.right, copy.junk, copy.own) == ({row(name)}, set(), {row(other)})  # by its content
        assert skipped == 1
        with pytest.raises(ImageError):
            judged_queries(photos, qrels, strict=True)
        with pytest.raises(InputError, match=r"no photo called photos/is-not-there.jpg"):
            judged_queries(photos, {name: {gone: 1}})
        # Below a folder, the same names are other files.
        ((below,), skipped) = judged_queries(photos, {b"photos/twin.jpg": {name: 1}}, os.fsencode(bundle.parent))
        assert (below.path, below.own, skipped) == (os.fsencode(bundle.parent / "photos/twin.jpg"), {row(other)}, 0)
        # A photo of the bundle by a path that leads to it, changed since: still itself.
        Path(os.fsdecode(name)).unlink()
        shutil.copy("queries/query-00.jpg", os.fsdecode(name))
        ((changed,), _) = judged_queries(photos, {b"./" + name: {other: 1}})
        assert changed.own == {row(name)}


def test_queries_may_be_files_and_those_that_cannot_be_read_are_skipped(bundle: Path, learned, tmp_path: Path):
    copies = tmp_path / "copies"
    shutil.copytree(bundle.parent / "photos", copies / "photos")
    (copies / "bad.jpg").write_bytes(b"no photo")
    qrels = judgements(bundle.parent)
    third = b"photos/object-01-view-2.jpg"
    for judged in qrels.values():
        judged |= dict.fromkeys(judged.keys() & {third, b"photos/object-02-view-2.jpg"}, -1)
    more = {name: {third: 1} for name in (b"bad.jpg", b"gone.jpg")}
    report = calibrate(bundle, qrels | more, SETTINGS, queries_root=os.fsencode(copies))
    assert (report.skipped, report.facts.queries) == (2, 10)
    # What is junk counts neither way; the rest is as with the photos of the bundle.
    gone = learned[1].facts.pairs - report.facts.pairs
    assert gone > 0
    assert learned[1].facts.same - report.facts.same == gone
    with pytest.raises(ImageError):
        calibrate(bundle, {b"bad.jpg": {third: 1}}, SETTINGS, queries_root=os.fsencode(copies), strict=True)


def test_what_cannot_be_learned_from_leaves_the_bundle_as_it_is(bundle: Path, monkeypatch):
    before = bundle.read_bytes()
    qrels = judgements(bundle.parent)
    with pytest.raises(InputError, match="show the same thing"):
        calibrate(bundle, dict(list(qrels.items())[:2]), SETTINGS)
    for wrong in (replace(SETTINGS, folds=1), replace(SETTINGS, bins=0), replace(SETTINGS, top=0)):
        with pytest.raises(SettingsError):
            calibrate(bundle, qrels, wrong)
    monkeypatch.setitem(sys.modules, "sklearn.linear_model", None)
    with pytest.raises(MissingExtraError, match=r"imgrank\[calibrate\]"):
        calibrate(bundle, qrels, SETTINGS)
    assert bundle.read_bytes() == before


def test_hits_get_what_the_map_says_and_keep_their_order(bundle: Path, learned):
    plain = hits(bundle)
    assert {hit.calibrated for hit in plain} == {None}
    shutil.copy2(learned[0], bundle)
    found = hits(bundle)
    assert [replace(hit, calibrated=None) for hit in found] == list(plain)
    with file.read(bundle) as opened:
        score_map = read_calibration(opened.calibrations[learned[1].name]).map
    alone = hits(bundle, RerankSettings(lam=0.0))  # then the score is the match score
    for hit in alone[:6]:
        assert hit.calibrated == np.float32(score_map([hit.score])[0])
        assert hit.probability is None
    assert [hit.calibrated for hit in alone[6:]] == [None] * 4
    assert sorted((hit.calibrated for hit in alone[:6]), reverse=True) == [hit.calibrated for hit in alone[:6]]
    # An early stop, which scores candidates in parts, gives the same.
    assert list(hits(bundle, RerankSettings(top_only=2))) == list(found[:2])


class Notes(list):
    """A reporter that remembers."""

    bar, skipped = SILENT.bar, SILENT.skipped

    def note(self, message: str) -> None:
        self.append(message)


def test_another_way_of_scoring_has_none_and_says_so(calibrated: Path, learned):
    scoring = RerankSettings(scorer="maxsim")
    notes = Notes()
    with open_photos(calibrated) as photos:
        Reranker(photos, scoring, reporter=notes)
    assert any("no calibration of" in note and "(maxsim)" in note and "--list" in note for note in notes)
    assert {hit.calibrated for hit in hits(calibrated, scoring)} == {None}
    second = calibrate(calibrated, judgements(calibrated.parent), replace(SETTINGS, method="logistic"), scoring)
    assert second.name.startswith("maxsim-")
    assert [one["name"] for one in list_calibrations(calibrated)] == [learned[1].name, second.name]
    assert None not in {hit.calibrated for hit in hits(calibrated, scoring)[:6]}
    remove_calibration(calibrated, second.name)
    with pytest.raises(InputError, match=f"no calibration '{second.name}'; there is: geometric-"):
        remove_calibration(calibrated, second.name)


def test_a_language_model_is_calibrated_by_its_logits(bundle: Path, tiny: str):
    request = Request(mllm=tiny)
    cache_tokens(bundle, mllm=tiny, settings=TokenSettings(longer_side=96, reduce="divprune:4"))
    qrels = judgements(bundle.parent)
    # What is about the order of hits does not matter, and nothing is left out by an early stop.
    report = calibrate(bundle, qrels, SETTINGS, RerankSettings(lam=0.2, top_only=3), request)
    assert (report.facts.scorer, report.facts.evidence, report.facts.asked) == ("mllm", "logit", "object")
    assert report.work.scored == report.facts.pairs == 10 * TOP
    with file.read(bundle) as opened:
        score_map = read_calibration(opened.calibrations[report.name]).map
    found = hits(bundle, request=request)
    for hit in found[:6]:
        assert hit.calibrated == np.float32(score_map([hit.logit])[0])


def test_the_key_changes_with_what_the_evidence_depends_on(bundle: Path, tiny: str):
    other = os.fspath(save_tiny_mllm(bundle.parent / "other", "qwen3_vl", seed=1))

    def way(cache: str | None = None, mllm: str | None = tiny, **scoring) -> str:
        with file.read(bundle) as opened:
            return way_of(choose([opened], RerankSettings(**scoring), Request(cache, mllm), SILENT))

    for name, kept_tokens in (("default", "divprune:8"), ("small", "divprune:4")):
        cache_tokens(bundle, mllm=tiny, cache=name, settings=TokenSettings(longer_side=96, reduce=kept_tokens))
    ways = [
        way(),
        way("small"),
        way(mllm=other),
        way(dtype="bfloat16"),
        *(way(**one) for one in ({"task": "landmark"}, {"symmetric": True}, {"answers": "yes-no"})),
        way(prompt_layout="instruction-first"),
        way(scorer="maxsim"),
        way("small", scorer="maxsim"),
        way(mllm=other, scorer="maxsim"),
        way(mllm=None, cache="local", scorer="maxsim"),
        way(mllm=None, scorer="geometric"),
    ]
    assert len(set(ways)) == len(ways)
    assert way(lam=0.1, top=3, top_only=2, time_budget=1.0) == ways[0]


def test_with_several_bundles_that_of_the_first_is_used(calibrated: Path):
    first, second = split(calibrated, 2)
    for one in list_calibrations(second):
        remove_calibration(second, one["name"])
    assert None not in {hit.calibrated for hit in hits(first, others=[second])[:6]}
    assert {hit.calibrated for hit in hits(second, others=[first])} == {None}


def raw(path: Path) -> dict[str, tuple]:
    with file.read(path) as opened:
        return {
            name: (table.way, table.provenance, {key: a.tobytes() for key, a in table.arrays.read().items()})
            for name, table in opened.calibrations.items()
        }


def test_other_files_of_the_same_photos_keep_it(calibrated: Path):
    bundle = calibrated
    before = raw(bundle)
    assert len(before) == 1
    remove(bundle, [b"photos/distractor-000.jpg"])
    compact(bundle)
    assert raw(bundle) == before
    shards = split(bundle, 2)
    assert [raw(shard) for shard in shards] == [before, before]
    remove_calibration(shards[1], next(iter(before)))
    found = merge(shards, bundle.with_name("all.h5"))
    assert found.calibrations == list(before)
    assert raw(bundle.with_name("all.h5")) == before
    turned = merge(shards[::-1], bundle.with_name("turned.h5"))
    assert (turned.calibrations, raw(bundle.with_name("turned.h5"))) == ([], {})
    assert check(bundle.with_name("all.h5"), photos=False).errors == 0


def test_a_damaged_one_stops_a_search_and_is_mended(calibrated: Path, learned):
    bundle, name = calibrated, learned[1].name
    with file.read(bundle) as opened:
        view = opened.calibrations[name].arrays.columns["knots-y"]
        place = int(view.starts[0])
    content = bytearray(bundle.read_bytes())
    content[place] ^= 1
    bundle.write_bytes(content)
    with pytest.raises(DamagedBundleError, match=f"--remove {name}"):
        hits(bundle)
    with pytest.raises(DamagedBundleError):
        compact(bundle)
    kept(bundle, name="mllm-2")
    mended = repair(bundle, check(bundle, photos=False))
    assert mended.calibrations == [name]
    assert mended.after.errors == 0
    assert list(raw(bundle)) == ["mllm-2"]


def test_one_whose_structure_is_damaged_can_be_taken_out(bundle: Path):
    kept(bundle, {**KNOTS, **BINS}, own=provenance())
    with h5py.File(bundle, "r+") as root:
        del root["calibration/geometric-1"].attrs["way"]
    with pytest.raises(DamagedBundleError):
        hits(bundle)
    remove_calibration(bundle, "geometric-1")
    assert len(hits(bundle)) == 10


def test_learning_needs_no_bundle_and_says_what_it_measured():
    rng = np.random.default_rng(0)
    z = rng.normal(-1, 2, 4000)
    same = rng.uniform(size=4000) < 1 / (1 + np.exp(-z))
    evidence = Evidence((3 * z).astype(np.float32), same, np.arange(4000) // 20)
    facts, before, after, arrays = learn(evidence, CalibrationFacts(evidence="logit", pairs=4000))
    assert facts.ece_before == before.error > 0.1
    assert facts.ece == after.error < 0.03
    assert facts.brier < facts.brier_before
    assert sorted(arrays) == ["bin-count", "bin-observed", "bin-predicted", "knots-x", "knots-y"]
    assert evidence.digest() != replace(evidence, same=~same).digest()
