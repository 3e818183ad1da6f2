"""One order from similarity and probability.

score = lambda * similarity + (1 - lambda) * probability for the re-ranked candidates and lambda * similarity for the
rest (arXiv:2604.13268, section 4, with lambda = 0.5). The paper states the sum for the re-ranked ones only; the second
part is ours: a probability is at least 0, so the list as a whole stays in order of its scores.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np

from imgrank.arrays import Floats
from imgrank.errors import SettingsError
from imgrank.rerank.base import PairScores
from imgrank.results import Hit, Ranking, renumber


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
            replace(
                hit,
                score=fused_score(hit.similarity, float(value), lam),
                scorer=scorer,
                probability=None if logits is None else float(value),
                logit=None if logits is None else float(logits[place]),
                calibrated=None if calibrated is None else float(calibrated[place]),
                disagreement=None if disagreements is None else float(disagreements[place]),
            )
        )
    tail = [replace(hit, score=fused_score(hit.similarity, 0.0, lam)) for hit in ranking.hits[k:]]
    return renumber(ranking.query, [*in_order(head, numbers or [hit.id for hit in head]), *tail])


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
