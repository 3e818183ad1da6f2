"""One order from several opinions: similarity and probability of one ranking, or the places of several rankings.

score = lambda * similarity + (1 - lambda) * probability for the re-ranked candidates and lambda * similarity for the
rest (arXiv:2604.13268, section 4, with lambda = 0.5). The paper states the sum for the re-ranked ones only; the second
part is ours: a probability is at least 0, so the list as a whole stays in order of its scores.
"""

from __future__ import annotations

import math
from collections.abc import Hashable, Mapping, Sequence
from typing import TypeVar

import numpy as np

from imgrank.arrays import Floats
from imgrank.config import Fuse
from imgrank.errors import InputError, SettingsError
from imgrank.rerank.base import PairScores
from imgrank.results import Hit, Ranking, renumber

Key = TypeVar("Key", bound=Hashable)
RRF_K = 60  # of the paper


def fuse(
    ranking: Ranking,
    scores: PairScores,
    *,
    lam: float,
    scorer: str,
    numbers: Sequence[int] | None = None,
    calibrated: Floats | None = None,
) -> Ranking:
    """Re-order the head of a ranking by fused scores.

    Args:
        ranking: hits in shortlist order.
        scores: of the first k hits, in their order.
        lam: weight of the similarity, in [0, 1].
        scorer: name that the re-ranked records carry.
        numbers: of the first k hits at least, what decides between equals; None: their ids.
        calibrated: (k,) probabilities that the records carry beside the scorer's own; None: there are none.

    Returns:
        The same hits; the re-ranked ones come first, ties go to the higher similarity and then to the lower number.
    """
    check_lambda(lam)
    k = len(scores)
    logits, disagreements = scores.logits, scores.disagreements
    head = []
    for place, hit in enumerate(ranking.hits[:k]):
        value = scores.values[place]
        head.append(
            hit.but(
                score=fused_score(hit.similarity, float(value), lam),
                scorer=scorer,
                probability=None if logits is None else float(value),
                logit=None if logits is None else float(logits[place]),
                calibrated=None if calibrated is None else float(calibrated[place]),
                disagreement=None if disagreements is None else float(disagreements[place]),
            )
        )
    tail = [hit.but(score=fused_score(hit.similarity, 0.0, lam)) for hit in ranking.hits[k:]]
    return renumber(ranking.query, [*in_order(head, numbers or [hit.id for hit in head]), *tail])


def joint_scores(scores: Sequence[PairScores], how: Fuse) -> PairScores:
    """Return what several photos of one object say together of each candidate.

    Args:
        scores: of each photo against the same k candidates.
        how: "mean" of the logits, or of the values where there are no logits; "max": those of the photo that likes the
            candidate best.
    """
    values = np.stack([part.values for part in scores])  # (photos, k)
    asked = [part.ways for part in scores if part.ways is not None]
    ways = np.stack(asked).astype(np.float64) if len(asked) == len(scores) else None  # (photos, ways, k)
    if how == "max":
        best = np.argmax(values if ways is None else ways.mean(axis=1), axis=0)  # (k,)
        places = np.arange(len(best))
        chosen = None if ways is None else ways[best, :, places].T.astype(np.float32)  # (ways, k)
        return PairScores(values[best, places], chosen)
    if ways is not None:
        return PairScores.of_logits(ways.mean(axis=0).astype(np.float32))
    return PairScores(values.mean(axis=0, dtype=np.float64).astype(np.float32))


def in_order(hits: Sequence[Hit], numbers: Sequence[int]) -> list[Hit]:
    """Sort hits by score; ties by similarity, then by number."""
    order = sorted(range(len(hits)), key=lambda place: (-hits[place].score, -hits[place].similarity, numbers[place]))
    return [hits[place] for place in order]


def check_lambda(lam: float) -> None:
    """Refuse a weight outside [0, 1].

    Raises:
        SettingsError: it is.
    """
    if not 0.0 <= lam <= 1.0:
        raise SettingsError(f"--lambda {lam}: the weight of the similarity is between 0 and 1")


def fused_score(similarity: float, value: float, lam: float) -> float:
    """Return lambda * similarity + (1 - lambda) * value: rounded once, to float32, and falling in neither."""
    return float(np.float32(lam * float(np.float32(similarity)) + (1.0 - lam) * float(np.float32(value))))


def reciprocal_rank_fusion(
    rankings: Sequence[Sequence[Key]], k: float = RRF_K, weights: Sequence[float] | None = None
) -> list[tuple[Key, float]]:
    """Return the keys of several rankings in one order: score = sum over the rankings of weight / (k + rank).

    A ranking that lacks a key adds nothing to it. Sums are rounded once, so keys whose ranks are the same in another
    order get the same score. Ties go to the key that comes first when the rankings are read one after the other.

    Args:
        rankings: each best first, and each key at most once in it.
        k: at least 0; the larger it is, the less the first places stand out.
        weights: one for each ranking, at least 0; None: 1 each.

    Returns:
        (key, score), best first; a key appears once.

    Raises:
        SettingsError: `k` or a weight is negative or not finite, or there are more or fewer weights than rankings.
        InputError: a ranking has a key twice.

    Source:
        Cormack, Clarke and Buettcher, Reciprocal rank fusion outperforms Condorcet and individual rank learning
        methods, SIGIR 2009. Weights are a usual addition and not of the paper.
    """
    if not (math.isfinite(k) and k >= 0):
        raise SettingsError(f"k of reciprocal rank fusion is {k}; choose a number from 0, {RRF_K} is usual")
    parts: dict[Key, list[float]] = {}  # in the order in which keys are first met
    for ranking, weight in zip(rankings, checked_weights(weights, len(rankings)), strict=True):
        if len(set(ranking)) != len(ranking):
            raise InputError("a ranking to be fused has the same photo twice")
        for rank, key in enumerate(ranking, 1):
            parts.setdefault(key, []).append(weight / (k + rank))
    scores = [(key, math.fsum(part)) for key, part in parts.items()]
    return sorted(scores, key=lambda pair: -pair[1])  # stable


def checked_weights(weights: Sequence[float] | None, count: int) -> Sequence[float]:
    """Return one weight for each of `count` rankings.

    Raises:
        SettingsError: a weight is negative or not finite, or there is another number of them.
    """
    if weights is None:
        return [1.0] * count
    if len(weights) != count:
        raise SettingsError(f"{len(weights)} weights for {count} rankings; give one for each, in their order")
    if not all(math.isfinite(weight) and weight >= 0 for weight in weights):
        raise SettingsError(f"weights {', '.join(map(str, weights))}: each is a number from 0")
    return weights


def combined_scores(
    rankings: Sequence[Mapping[Key, float]], weights: Sequence[float] | None = None, *, times_found: bool = False
) -> list[tuple[Key, float]]:
    """Return the keys of several rankings in one order: the sum of their scores, each ranking's brought to 0 to 1.

    Within a ranking, score becomes (score - lowest) / (highest - lowest), and 1 where all are equal. A ranking that
    lacks a key adds nothing to it. Ties as in `reciprocal_rank_fusion`.

    Args:
        rankings: key -> score, finite, best first.
        weights: as in `reciprocal_rank_fusion`.
        times_found: multiply each sum by the number of rankings that have the key (CombMNZ; else CombSUM).

    Returns:
        (key, score), best first; a key appears once.

    Raises:
        SettingsError: as `reciprocal_rank_fusion`.
        InputError: a score is not finite.

    Source:
        Fox and Shaw, Combination of multiple searches, TREC-2, 1994; scaled as by Lee, Analyses of multiple evidence
        combination, SIGIR 1997.
    """
    parts: dict[Key, list[float]] = {}
    for ranking, weight in zip(rankings, checked_weights(weights, len(rankings)), strict=True):
        if not all(map(math.isfinite, ranking.values())):
            raise InputError("a ranking to be fused has a score that is not a number; fuse by rank (--method rrf)")
        lowest, highest = min(ranking.values(), default=0.0), max(ranking.values(), default=0.0)
        for key, score in ranking.items():
            scaled = (score - lowest) / (highest - lowest) if highest > lowest else 1.0
            parts.setdefault(key, []).append(weight * scaled)
    scores = [(key, math.fsum(part) * (len(part) if times_found else 1)) for key, part in parts.items()]
    return sorted(scores, key=lambda pair: -pair[1])  # stable
