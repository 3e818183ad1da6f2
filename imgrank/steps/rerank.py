"""`rerank`: rankings in, the same hits in a better order out.

Scores the head of each ranking, no further than is needed, and keeps what the model said.
"""

from __future__ import annotations

import hashlib
import os
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from imgrank.arrays import Ids, Pixels
from imgrank.config import Fuse, RerankSettings, Thresholds
from imgrank.errors import InputError, SettingsError
from imgrank.images.query import query_of_pixels
from imgrank.prefetch import prefetch
from imgrank.progress import SILENT, Reporter
from imgrank.records import DIGEST_SIZE, NO_DIGEST
from imgrank.rerank.base import PairScores
from imgrank.rerank.calibration import calibrated
from imgrank.rerank.depth import Depth
from imgrank.rerank.fuse import check_lambda, fuse, joint_scores
from imgrank.rerank.score_cache import ScoreCache
from imgrank.results import Ranking, above
from imgrank.steps.calibration import calibration_of
from imgrank.steps.collection import Collection
from imgrank.steps.features import LocalSource, stored_tokens
from imgrank.steps.photos import BundlePhotos
from imgrank.steps.query_photo import QueryPhoto, kept_query, read_photo_query, read_stored_query
from imgrank.steps.second_stage import Request, SecondStage, choose

_AHEAD = 32  # candidates read and decoded while the scorer works


@dataclass
class Work:
    """What a second stage has done so far."""

    queries: int = 0
    candidates: int = 0  # in the heads of all rankings
    scored: int = 0
    known: int = 0  # from the score cache
    seconds: float = 0.0
    judged_twice: int = 0  # pairs that were asked about in both orders
    disagreement: float = 0.0  # sum over them of how far the two logits are apart
    undecided: int = 0  # those of them whose two answers differ

    @property
    def left_out(self) -> int:
        """Candidates that were not worth a look, or for which there was no time."""
        return self.candidates - self.scored - self.known


class Reranker:
    """The second stage over one or several bundles, loaded once.

    Args:
        photos: of the bundle, or of several.
        settings: how many candidates, which scorer, which weight.
        request: model, cache, prompt and device.
        score_cache: where logits are kept between runs; None keeps none.
        reporter: told once what re-ranks, and what would make it faster.
        calibrate: whether hits get the probability of the calibration that the first bundle has for this way of
            scoring, if it has one.

    Raises:
        SettingsError: no scorer suits what there is.
        MismatchError: a cache was made by another model.
        DamagedBundleError: the calibration is damaged.
    """

    def __init__(
        self,
        photos: BundlePhotos | Collection,
        settings: RerankSettings,
        request: Request | None = None,
        *,
        score_cache: Path | None = None,
        reporter: Reporter = SILENT,
        calibrate: bool = True,
    ) -> None:
        check_lambda(settings.lam)
        self.photos, self.settings, self._reporter = Collection.of(photos), settings, reporter
        self._told_uncached: set[int] = set()  # numbers of bundles
        self.work = Work()
        bundles = [part.bundle for part in self.photos.parts]
        self.stage: SecondStage = choose(bundles, settings, request or Request(), reporter)
        self._calibration = calibration_of(bundles[0], self.stage, reporter) if calibrate else None
        self._kept: ScoreCache | None = None
        if score_cache is not None and self.stage.bundles[0].fingerprints:
            self._kept = ScoreCache(score_cache, on_trouble=reporter.note)

    @property
    def uses_local_features(self) -> bool:
        """Return whether local features of the query that are at hand are what the scorer wants."""
        return isinstance(self.stage.source, LocalSource)

    @property
    def gives_probabilities(self) -> bool:
        """Return whether hits that were looked at have a probability."""
        return self.stage.scorer.name == "mllm" or self._calibration is not None

    def prepare(self, query: bytes | int | Pixels) -> QueryPhoto:
        """Read a query: a photo by its name, the photo of a row of the collection, or pixels.

        Raises:
            ImageError: it cannot be decoded.
        """
        if isinstance(query, np.ndarray):
            seen = query_of_pixels(query, self.stage.source.longer_side)
            return QueryPhoto(seen.digest, seen.pixels)
        if isinstance(query, int):
            return read_stored_query(self.photos, self.stage, query)
        return read_photo_query(self.photos, self.stage, query)

    def rerank(
        self,
        ranking: Ranking,
        rows: Sequence[int],
        query: QueryPhoto | Sequence[QueryPhoto],
        fuse_by: Fuse = "mean",
        *,
        on_scores: Callable[[PairScores], None] | None = None,
    ) -> Ranking:
        """Re-order the head of a ranking.

        Args:
            ranking: hits in shortlist order.
            rows: of the hits of the head, in the collection; at least `settings.top` of them where there are.
            query: from `prepare`, or with features; or several photos of one object.
            fuse_by: "mean" or "max" of what is said of a candidate beside each of several photos.
            on_scores: told what was said of the candidates that were scored, in shortlist order.

        Returns:
            The same hits; with `settings.top_only`, only the first so many.

        Raises:
            InputError: a candidate has neither tokens nor a photo.
            SettingsError: several photos with an early stop, which has no bound for them.
        """
        settings, queries = self.settings, [query] if isinstance(query, QueryPhoto) else list(query)
        head = np.asarray(rows[: settings.top], dtype=np.int64)
        depth = Depth(
            [hit.similarity for hit in ranking.hits[: len(head)]],
            lam=settings.lam,
            top_only=settings.top_only,
            budget=settings.time_budget,
        )
        if len(queries) == 1:
            scores = self._score(head, queries[0], depth)
        else:
            if settings.top_only is not None or settings.time_budget is not None:
                raise SettingsError(
                    "several photos as one query: each is compared with every candidate; "
                    "leave --top-only and --time-budget out"
                )
            scores = joint_scores([self.scores(head, one) for one in queries], fuse_by)
            depth.know(np.arange(len(head)), scores.values)
        if on_scores is not None:
            on_scores(scores)
        # Those that were scored first, each part in shortlist order: what `fuse` wants.
        order = np.argsort(~depth.scored, kind="stable")
        known = [hit.but(former_rank=rank) for rank, hit in enumerate(ranking.hits, 1)]
        hits = [known[place] for place in order] + known[len(head) :]
        fused = fuse(
            Ranking(ranking.query, tuple(hits)),
            scores,
            lam=settings.lam,
            scorer=self.stage.scorer.name,
            numbers=head[order].tolist(),
            calibrated=None if self._calibration is None else calibrated(self._calibration, scores.evidence),
        )
        return replace(fused, hits=fused.hits[: settings.top_only])

    def scores(self, rows: Sequence[int] | Ids, query: QueryPhoto) -> PairScores:
        """Score all of some candidates, in their order, however long it takes; raises as `rerank` does.

        Args:
            rows: (n,) in the collection.
            query: from `prepare` or `kept`, or with features.
        """
        return self._score(np.asarray(rows, dtype=np.int64), query, Depth(np.zeros(len(rows)), lam=0.0))

    def kept(self, row: int) -> QueryPhoto:
        """Return a photo of the collection, in the place of a query: what its bundle keeps of it, else its file.

        Raises:
            ImageError: it is neither kept nor on the disk.
        """
        return kept_query(self.photos, self.stage, row) or read_stored_query(self.photos, self.stage, row)

    def _score(self, head: npt.NDArray[np.int64], query: QueryPhoto, depth: Depth) -> PairScores:
        """Score the candidates that are worth it; returns the scores of `depth.scored`, in shortlist order."""
        work, stage = self.work, self.stage
        started = time.monotonic()
        keys = self._keys(head)
        found: list[PairScores | None] = [None] * len(head)
        for place, scores in self._known(query.digest, head, keys):
            found[place] = scores
            depth.know([place], scores.values)
        known = int(depth.scored.sum())
        scoring = None
        while depth.limit() != 0 and len(depth.waiting):
            if scoring is None:
                features = stage.source.of_query(query.pixels) if query.features is None else query.features
                scoring = stage.scorer.about(features)
            # Asked again, so that the time the query itself took is not taken for that of a pair.
            rest = places = depth.waiting[: depth.limit()]
            for part in scoring(prefetch(self._candidates(head[places]), _AHEAD)):
                these, rest = rest[: len(part)], rest[len(part) :]
                depth.add(part.values)
                self._keep(query.digest, head[these], [keys[place] for place in these], part)
                for place, scores in zip(these.tolist(), part.each(), strict=True):
                    found[place] = scores
                if depth.limit() == 0:
                    break
        work.queries += 1
        work.candidates += len(head)
        work.known += known
        work.scored += int(depth.scored.sum()) - known
        work.seconds += time.monotonic() - started
        scores = PairScores.joined([part for part in found if part is not None])
        if scores.disagreements is not None and scores.ways is not None:
            work.judged_twice += len(scores)
            work.disagreement += float(scores.disagreements.sum())
            work.undecided += int(np.count_nonzero((scores.ways > 0).any(axis=0) & (scores.ways <= 0).any(axis=0)))
        return scores

    def candidate(self, row: int) -> Any:
        """Return what the scorer compares of a photo of the collection.

        Raises:
            InputError: it has neither tokens nor a photo.
        """
        (features,) = self._candidates(np.array([row]))
        return features

    def _candidates(self, rows: npt.NDArray[np.int64]) -> Iterator[Any]:
        """Yield the features of rows: from the cache of their bundle, or computed from the photo."""
        for start in range(0, len(rows), _AHEAD):
            some = rows[start : start + _AHEAD]
            stored: dict[int, Any] = {}  # place among them -> tokens
            sources = [self.stage.source] * len(some)
            for part, places, own in self.photos.split(some):
                held = self.stage.bundles[part]
                found = dict(stored_tokens(held.table, places, own))
                if len(found) < len(places):
                    self._tell_uncached(part, len(places) - len(found), len(places))
                stored |= found
                for place in places:
                    sources[place] = held.source
            for place, source in enumerate(sources):
                if place in stored:
                    yield source.of_tokens(stored[place])
                else:
                    yield source.of_candidate(self.photos.pixels(int(some[place]), source.longer_side))

    def _tell_uncached(self, part: int, missing: int, count: int) -> None:
        if part not in self._told_uncached:
            self._told_uncached.add(part)
            bundle = self.photos.parts[part].bundle.path
            self._reporter.note(
                f"{missing} of {count} candidates have no cached tokens and are computed from their photos; "
                f"`imgrank cache-tokens {bundle} {self.stage.source.cache_options}` makes re-ranking faster"
            )

    # Scores of earlier runs

    def _keys(self, rows: npt.NDArray[np.int64]) -> list[bytes]:
        """Return digests of what is compared: of a photo, and of the tokens that are kept of it.

        A photo that has never been seen has none, so nothing is remembered of it.
        """
        keys = [b""] * len(rows)
        if self._kept is None:
            return keys
        for part, places, own in self.photos.split(rows):
            contents = digests = self.photos.parts[part].digests[own]
            table = self.stage.bundles[part].table
            if table is not None:
                checksums = np.zeros(len(own), dtype="<u4")
                inside = own < len(table)
                checksums[inside] = table.checksums[own[inside]]
                digests = np.concatenate([digests, checksums.view(np.uint8).reshape(-1, 4)], axis=1)
            for place, digest, content in zip(places.tolist(), digests, contents, strict=True):
                seen = hashlib.blake2b(digest.tobytes(), digest_size=DIGEST_SIZE).digest()
                keys[place] = seen if content.any() else NO_DIGEST
        return keys

    def _known(self, query: bytes, rows: npt.NDArray[np.int64], keys: list[bytes]) -> Iterator[tuple[int, PairScores]]:
        if self._kept is None:
            return
        for part, places, _ in self.photos.split(rows):
            own = [keys[place] for place in places]
            prints = self.stage.bundles[part].fingerprints
            ways = np.stack([self._kept.get(way, query, own) for way in prints])  # (ways, n)
            for number in np.flatnonzero(np.isfinite(ways).all(axis=0)).tolist():
                yield int(places[number]), PairScores.of_logits(ways[:, number : number + 1])

    def _keep(self, query: bytes, rows: npt.NDArray[np.int64], keys: list[bytes], scores: PairScores) -> None:
        if self._kept is None or scores.ways is None:
            return
        for part, places, _ in self.photos.split(rows):
            own = [keys[place] for place in places]
            for way, logits in zip(self.stage.bundles[part].fingerprints, scores.ways[:, places], strict=True):
                self._kept.put(way, query, own, logits)


def rerank_rankings(
    rankings: Iterator[Ranking],
    reranker: Reranker,
    *,
    queries_root: bytes | None = None,
    thresholds: Thresholds | None = None,
) -> Iterator[Ranking]:
    """Re-rank what `search` printed, one query as its lines come in.

    Args:
        rankings: from `imgrank.results.read_rankings`.
        reranker: over the bundles that the hits are of; hits that name none are of the first.
        queries_root: folder that relative query paths are below; None takes the working directory.
        thresholds: what a hit must reach.

    Raises:
        InputError: a hit is of another bundle, a query photo is gone, or a query of several photos was fused by rank.
        SettingsError: a probability is asked for, and the scorer gives none.
    """
    kept = thresholds or Thresholds()
    check_thresholds(kept, reranker)
    for ranking, rows, queries in prefetch(_read(rankings, reranker, queries_root)):
        if queries:
            how = ranking.hits[0].fuse
            ranking = reranker.rerank(ranking, rows, queries, "max" if how == "max" else "mean")
        yield above(ranking, kept)


def check_thresholds(thresholds: Thresholds, reranker: Reranker | None) -> None:
    """Refuse a least probability where there will be no probabilities.

    Raises:
        SettingsError: nothing re-ranks, or its scorer gives none.
    """
    if thresholds.min_probability is None:
        return
    if reranker is None:
        raise SettingsError("--min-probability is of the second look: give --rerank K, too, or --min-score")
    if not reranker.gives_probabilities:
        raise SettingsError(
            f"the {reranker.stage.scorer.name} scorer gives a score and no probability: take --min-score, "
            "--scorer mllm, or a calibration (`imgrank calibrate`)"
        )


def _read(
    rankings: Iterator[Ranking], reranker: Reranker, queries_root: bytes | None
) -> Iterator[tuple[Ranking, list[int], list[QueryPhoto]]]:
    """Find the photos of rankings, and read their queries; those without hits are not read."""
    photos = reranker.photos
    for ranking in rankings:
        rows = [photos.row_of_hit(hit) for hit in ranking.hits]
        hits = tuple(photos.named(hit, row) for hit, row in zip(ranking.hits, rows, strict=True))
        if len(set(rows)) != len(rows):
            raise InputError(f"query {os.fsdecode(ranking.query)!r} has the same photo twice among its hits")
        names = () if not hits else hits[0].photos or (ranking.query,)
        if hits and hits[0].fuse == "rrf":
            raise InputError(
                f"query {os.fsdecode(ranking.query)!r} was fused by rank, which cannot be done again with the hits "
                "alone; re-rank while searching: imgrank search --fuse rrf --rerank K"
            )
        paths = names if queries_root is None else [os.path.join(queries_root, name) for name in names]  # noqa: PTH118
        yield Ranking(ranking.query, hits), rows, [reranker.prepare(path) for path in paths]
