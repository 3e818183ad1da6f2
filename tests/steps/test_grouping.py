"""Pairs of neighbours against brute force, each scored once; and fused runs by hand."""

import os
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from imgrank.config import DedupSettings, FusionSettings, GroupSettings, RerankSettings
from imgrank.errors import InputError
from imgrank.rerank.base import PairScores
from imgrank.results import Hit, Ranking
from imgrank.steps.collection import open_collection
from imgrank.steps.dedup import dedup
from imgrank.steps.distinct import DistinctPhotos
from imgrank.steps.features import LocalSource
from imgrank.steps.fuse_runs import fuse_runs
from imgrank.steps.group import group_photos
from imgrank.steps.neighbour_pairs import neighbour_pairs, score_pairs
from imgrank.steps.query_photo import QueryPhoto
from imgrank.steps.rerank import Reranker
from imgrank.steps.second_stage import BundleFeatures, SecondStage


@pytest.mark.parametrize(("mutual", "exact"), [(False, False), (True, False), (False, True)])
def test_pairs_are_those_of_brute_force_each_once(collection: Path, mutual: bool, exact: bool) -> None:
    with open_collection([collection / "db.h5"]) as photos:
        vectors = photos.parts[0].bundle.descriptors.read().astype(np.float64)
        pairs = neighbour_pairs(photos, 3, min_similarity=0.05, mutual=mutual, exact=exact)
    similar = vectors @ vectors.T
    np.fill_diagonal(similar, -2)
    near = [set(np.argsort(-row)[:3].tolist()) for row in similar]
    expected = [
        (a, b)
        for a, b in combinations(range(len(similar)), 2)
        if similar[a, b] >= 0.05 and ((b in near[a]) + (a in near[b])) >= 1 + mutual
    ]
    assert list(zip(pairs.first.tolist(), pairs.second.tolist(), strict=True)) == expected
    np.testing.assert_allclose(pairs.similarities, [similar[pair] for pair in expected], atol=1e-6)


def test_each_pair_is_scored_once(collection: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, int]] = []
    kept, scored = Reranker.kept, Reranker.scores
    asked: list[int] = []

    def noted(self: Reranker, row: int) -> QueryPhoto:
        asked.append(row)
        return kept(self, row)

    def counted(self: Reranker, rows: np.ndarray, query: QueryPhoto) -> PairScores:
        seen.extend((asked[-1], other) for other in rows.tolist())
        return scored(self, rows, query)

    monkeypatch.setattr(Reranker, "kept", noted)
    monkeypatch.setattr(Reranker, "scores", counted)
    with open_collection([collection / "db.h5"]) as photos:
        found = group_photos(photos, GroupSettings(neighbours=6), RerankSettings(scorer="geometric"))
    assert len(seen) == len(set(seen)) == found.pairs > 0
    assert all(first < second for first, second in seen)


def test_scores_are_those_of_the_scorer(collection: Path) -> None:
    from imgrank.local.geometry import match_score

    with open_collection([collection / "db.h5"]) as photos:
        reranker = Reranker(photos, RerankSettings(scorer="geometric"))
        pairs = neighbour_pairs(photos, 2, min_similarity=-1)
        scores = score_pairs(reranker, pairs)
        table = photos.parts[0].bundle.tokens("local")
        features = [reranker.stage.source.of_tokens(tokens) for tokens in table.read(range(len(photos)))]
    expected = [
        match_score(features[a], [features[b]]).scores[0] for a, b in zip(pairs.first, pairs.second, strict=True)
    ]
    assert scores.tolist() == [float(score) for score in expected]


class Answering:
    """Stands for a language model: logits by where local features are."""

    name = "mllm"

    def about(self, query):
        def score(candidates):
            own = query.keypoints[:, 0].sum()
            yield PairScores.of_logits(np.array([c.keypoints[:, 0].sum() - own for c in candidates], np.float32) / 50)

        return score


def test_answers_of_a_model_are_kept_between_runs(collection: Path, tmp_path: Path, monkeypatch) -> None:
    def stage(bundles, *_) -> SecondStage:
        source = LocalSource()
        return SecondStage(Answering(), source, (BundleFeatures(bundles[0].tokens("local"), source, (b"f" * 16,)),))

    monkeypatch.setattr("imgrank.steps.rerank.choose", stage)
    results = []
    for _ in range(2):
        with open_collection([collection / "db.h5"]) as photos:
            reranker = Reranker(photos, RerankSettings(), score_cache=tmp_path / "scores.sqlite")
            pairs = neighbour_pairs(photos, 3, min_similarity=-1)
            results.append((score_pairs(reranker, pairs).tolist(), reranker.work.scored, reranker.work.known))
    (first, computed, before), (again, none, known) = results
    assert first == again
    assert len(set(first)) > 10
    assert (computed, before, none, known) == (len(first), 0, 0, len(first))


def test_copies_of_one_file_do_not_fill_the_neighbours(imgrank, collection: Path) -> None:
    path = collection / "photos" / "object-01-view-0.jpg"
    for number in range(6):
        (collection / "photos" / f"copy-{number}.jpg").write_bytes(path.read_bytes())
    assert imgrank("index", "photos", "-o", "db.h5", "-q", cwd=collection).returncode == 0
    with open_collection([collection / "db.h5"]) as photos:
        distinct = DistinctPhotos(photos.parts)
        assert len(distinct.copies()[0]) == 6
        pairs = neighbour_pairs(distinct, 2, min_similarity=-1)
        assert len(set(np.concatenate([pairs.first, pairs.second]).tolist())) == 20
        found = group_photos(photos, GroupSettings(neighbours=2), RerankSettings(scorer="geometric"))
        (same,) = dedup(photos, DedupSettings(by="content")).groups
        assert len(same.photos) == 7
        assert Path(os.fsdecode(same.photos[0].path)).name == "object-01-view-0.jpg"  # the oldest of them
        by_id = dedup(photos, DedupSettings(by="content", keep="newest")).groups[0].photos
        assert Path(os.fsdecode(by_id[0].path)).name == "copy-5.jpg"
    copied = next(group for group in found.groups if any(b"copy-0" in photo.path for photo in group.photos))
    assert {photo.id for photo in same.photos} <= {photo.id for photo in copied.photos}


def test_a_link_is_not_kept_instead_of_its_file(imgrank, collection: Path) -> None:
    target = collection / "photos" / "object-01-view-0.jpg"
    (collection / "photos" / "a-link.jpg").symlink_to(target.name)
    assert imgrank("index", "photos", "-o", "new.h5", "-q", cwd=collection).returncode == 0
    for keep in ("largest", "oldest", "newest", "first"):
        with open_collection([collection / "new.h5"]) as photos:
            (group,) = dedup(photos, DedupSettings(by="content", keep=keep)).groups
        assert [os.path.islink(photo.path) for photo in group.photos] == [False, True], keep


@pytest.mark.parametrize("write", [None, b"something else"])
def test_a_photo_that_is_gone_or_changed_is_not_the_one_to_keep(imgrank, collection: Path, write: bytes | None) -> None:
    old, new = collection / "photos" / "object-01-view-0.jpg", collection / "photos" / "z.jpg"
    new.write_bytes(old.read_bytes())
    assert imgrank("index", old, new, "-o", "two.h5", "-q", cwd=collection).returncode == 0
    kept = []
    for _ in range(2):
        with open_collection([collection / "two.h5"]) as photos:
            kept.append(dedup(photos, DedupSettings(by="content")).groups[0].photos[0].path)
        old.unlink(missing_ok=True)
        if write is not None:
            old.write_bytes(write)
    assert [Path(os.fsdecode(path)).name for path in kept] == [old.name, new.name]


# Fusing


def ranking(query: bytes, *hits: tuple[bytes, int, float], bundle: bytes | None = None) -> Ranking:
    numbered = enumerate(hits, 1)
    return Ranking(query, tuple(Hit(query, rank, i, p, s, s / 2, bundle=bundle) for rank, (p, i, s) in numbered))


A = [ranking(b"q", (b"x", 0, 9.0), (b"y", 1, 5.0), (b"z", 2, 1.0)), ranking(b"only a", (b"x", 0, 1.0))]
B = [ranking(b"only b", (b"y", 1, 1.0)), ranking(b"q", (b"y", 1, 0.8), (b"w", 3, 0.6))]


def test_methods_by_hand() -> None:
    def fused(**settings) -> dict[bytes, list[tuple[bytes, float]]]:
        rankings = fuse_runs([("a", A), ("b", B)], FusionSettings(**settings))
        assert [found.query for found in rankings] == [b"q", b"only a", b"only b"]
        return {found.query: [(hit.path, hit.score) for hit in found.hits] for found in rankings}

    rrf = fused()[b"q"]
    assert [path for path, _ in rrf] == [b"y", b"x", b"w", b"z"]
    assert [score for _, score in rrf] == pytest.approx([1 / 62 + 1 / 61, 1 / 61, 1 / 62, 1 / 63])
    # Scaled: a: x 1, y 1/2, z 0; b: y 1, w 0.
    assert dict(fused(method="combsum")[b"q"]) == pytest.approx({b"y": 1.5, b"x": 1.0, b"z": 0.0, b"w": 0.0})
    assert dict(fused(method="combmnz")[b"q"]) == pytest.approx({b"y": 3.0, b"x": 1.0, b"z": 0.0, b"w": 0.0})
    assert fused(method="combsum")[b"only a"] == [(b"x", 1.0)]
    assert [path for path, _ in fused(top_k=1)[b"q"]] == [b"y"]


def test_ids_stay_while_the_runs_agree_about_them() -> None:
    def hits(*runs: list[Ranking]) -> list[tuple[bytes, int, bytes | None]]:
        (found, *_) = fuse_runs([(str(number), run) for number, run in enumerate(runs)], FusionSettings())
        return [(hit.path, hit.id, hit.bundle) for hit in found.hits]

    trec = [ranking(b"q", (b"w", -1, 2.0), (b"x", -1, 1.0))]
    assert hits(trec, A) == [(b"x", 0, None), (b"w", -1, None), (b"y", 1, None), (b"z", 2, None)]
    other_bundle = [ranking(b"q", (b"x", 7, 1.0))]
    assert {number for _, number, _ in hits(A, other_bundle)} == {-1}
    other_photo = [ranking(b"q", (b"v", 0, 1.0))]
    assert {number for _, number, _ in hits(A, other_photo)} == {-1}
    named = [ranking(b"q", (b"v", 0, 1.0), bundle=b"b.h5")]
    assert (b"v", 0, b"b.h5") in hits(A, named)


def test_what_cannot_be_fused() -> None:
    twice = [ranking(b"q", (b"x", 0, 1.0), (b"x", 0, 0.5))]
    with pytest.raises(InputError, match="twice"):
        fuse_runs([("a", twice)], FusionSettings())
    endless = [ranking(b"q", (b"x", 0, float("inf")))]
    with pytest.raises(InputError, match="--method rrf"):
        fuse_runs([("a", endless)], FusionSettings(method="combsum"))
