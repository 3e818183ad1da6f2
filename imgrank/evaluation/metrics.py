"""Numbers that say how good the ranking of one query is.

Each takes a `Judged` ranking, from which junk was taken out, and gives a number in [0, 1] where nothing else is said.
Sources are named where a published evaluator is followed; tests hold them to implementations of their own.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, eq=False)
class Judged:
    """The ranking of one query, best first, as judgements see it.

    Attributes:
        relevance: (n,) int, of each ranked photo; 0 or below: not relevant. Unjudged photos have 0.
        scores: (n,) what the ranking is ordered by; equal ones are ties.
        grades: (r,) int above 0, of all photos that are relevant, found or not, in any order.
    """

    relevance: npt.NDArray[np.int64]
    scores: npt.NDArray[np.float64]
    grades: npt.NDArray[np.int64]

    @property
    def right(self) -> npt.NDArray[np.bool_]:
        """Return (n,) which ranked photos are relevant."""
        right: npt.NDArray[np.bool_] = self.relevance > 0
        return right

    @property
    def relevant(self) -> int:
        """Return how many photos are relevant."""
        return len(self.grades)


def average_precision(right: Sequence[bool] | npt.NDArray[np.bool_], relevant: int, k: int | None = None) -> float:
    """Return the average precision of a ranking: the mean over all relevant photos of the precision at their ranks.

    Args:
        right: for each rank, whether its photo is relevant.
        relevant: how many relevant photos there are; those that are not in the ranking count as never found.
        k: look at the first k ranks only, and divide by min(relevant, k).

    Returns:
        in [0, 1]; 0 where nothing is relevant.

    Source:
        Without k, trec_eval's `map`. With it, the mAP@100 of Google Landmarks v2 (Weyand et al., arXiv:2004.01804).
    """
    hits = np.flatnonzero(np.asarray(right, dtype=bool)[:k])
    if not relevant:
        return 0.0
    most = relevant if k is None else min(relevant, k)
    return float(((np.arange(len(hits)) + 1) / (hits + 1)).sum() / most)


def tied_average_precision(judged: Judged, k: int) -> float:
    """Return the AP@k of ILIAS: scikit-learn's average precision of the first k, times found / min(k, relevant).

    Photos of the same score count as one step: all of them are found at once, at the precision behind them.

    Source:
        Kordopatis-Zilos et al., ILIAS, arXiv:2502.11748; `sklearn.metrics.average_precision_score`.
    """
    right, scores = judged.right[:k], judged.scores[:k]
    if not judged.relevant or not len(right):
        return 0.0
    order = np.argsort(-scores, kind="stable")
    right, scores = right[order], scores[order]
    ends = np.append(np.flatnonzero(np.diff(scores)), len(scores) - 1)  # the last rank of each step
    found = np.cumsum(right)[ends]
    steps = np.diff(found, prepend=0)
    return float((steps * found / (ends + 1)).sum() / min(k, judged.relevant))


def trapezoid_average_precision(right: npt.NDArray[np.bool_], relevant: int) -> float:
    """Return the average precision of revisited Oxford and Paris: the area under lines between precisions.

    At each relevant photo, the mean of the precision before it and with it.

    Source:
        Radenović et al., arXiv:1803.11285, and the evaluation that comes with it (`compute_ap`).
    """
    if not relevant:
        return 0.0
    ranks = np.flatnonzero(right)  # from 0
    order = np.arange(len(ranks))
    before = np.where(ranks == 0, 1.0, order / np.maximum(ranks, 1))
    return float(((before + (order + 1) / (ranks + 1)) / 2).sum() / relevant)


def revisited_precision(right: npt.NDArray[np.bool_], k: int) -> float:
    """Return the precision at k of revisited Oxford and Paris: at the last relevant photo, where that comes before k.

    Source:
        as `trapezoid_average_precision` (`compute_map`).
    """
    ranks = np.flatnonzero(right) + 1
    if not len(ranks):
        return 0.0
    depth = min(int(ranks[-1]), k)
    return float(np.count_nonzero(ranks <= depth) / depth)


def precision(judged: Judged, k: int) -> float:
    """Return the share of relevant photos among the first k places; places that the ranking lacks count as wrong."""
    return float(np.count_nonzero(judged.right[:k]) / k)


def nister_stewenius(judged: Judged) -> float:
    """Return how many of the first four photos are relevant, in [0, 4].

    Source:
        Nistér and Stewénius, CVPR 2006: the score of UKBench, where four photos are relevant, the query one of them.
    """
    return float(np.count_nonzero(judged.right[:4]))


def recall(judged: Judged, k: int | None = None) -> float:
    """Return the share of the relevant photos that are among the first k; of all, without k."""
    return float(np.count_nonzero(judged.right[:k]) / judged.relevant) if judged.relevant else 0.0


def reciprocal_rank(judged: Judged) -> float:
    """Return 1 / rank of the first relevant photo; 0 where none is found."""
    hits = np.flatnonzero(judged.right)
    return float(1.0 / (hits[0] + 1)) if len(hits) else 0.0


def ndcg(judged: Judged, k: int | None = None) -> float:
    """Return the normalised discounted cumulative gain: relevance / log2(rank + 1), over that of the best ranking.

    Source:
        Järvelin and Kekäläinen, 2002, with the gains of trec_eval's `ndcg`: the relevance itself.
    """

    def gain(grades: npt.NDArray[np.int64]) -> float:
        some = np.maximum(grades[:k], 0)
        return float((some / np.log2(np.arange(len(some)) + 2)).sum())

    best = gain(np.sort(judged.grades)[::-1])
    return gain(judged.relevance) / best if best else 0.0


def oracle(judged: Judged) -> Judged:
    """Return the ranking that a perfect second stage would make of the same photos."""
    order = np.argsort(-judged.relevance, kind="stable")
    falling = -np.arange(len(order), dtype=np.float64)
    return Judged(judged.relevance[order], falling, judged.grades)
