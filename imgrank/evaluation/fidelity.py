"""How near the scores from compressed tokens are to those from all of them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass

import numpy as np
import numpy.typing as npt

from imgrank.arrays import Floats
from imgrank.errors import InputError

Doubles = npt.NDArray[np.float64]


@dataclass(frozen=True)
class Fidelity:
    """What compression did to the scores of some pairs.

    Attributes:
        pairs: how many.
        queries: of whose candidates the pairs are.
        correlation: Pearson's, of the logit differences of all pairs; None where they do not vary.
        kendall_tau: Kendall's tau-b of the order of a query's candidates, the mean over queries; None where no query
            has two candidates that differ.
        logit_change: mean absolute change of a logit difference.
        probability_change: mean absolute change of a probability.
        same_first: share of the queries whose best candidate is the same.
    """

    pairs: int
    queries: int
    correlation: float | None
    kendall_tau: float | None
    logit_change: float
    probability_change: float
    same_first: float

    def record(self) -> dict[str, float | int | None]:
        """Return the numbers by name, six decimals of each."""
        return {name: round(value, 6) if isinstance(value, float) else value for name, value in asdict(self).items()}


def fidelity(before: Sequence[Floats], after: Sequence[Floats]) -> Fidelity:
    """Compare logit differences.

    Args:
        before: for each query, (candidates,) with all tokens.
        after: the same with compressed ones.

    Raises:
        InputError: the shapes differ, or there is no pair.
    """
    if [len(one) for one in before] != [len(one) for one in after] or not sum(map(len, before)):
        raise InputError("scores before and after compression must be of the same pairs, at least one")
    first, second = (np.concatenate(list(side)).astype(np.float64) for side in (before, after))
    taus = [kendall_tau(*pair) for pair in zip(before, after, strict=True)]
    known = [tau for tau in taus if tau is not None]
    filled = [pair for pair in zip(before, after, strict=True) if len(pair[0])]
    varies = first.std() > 0 and second.std() > 0
    return Fidelity(
        pairs=len(first),
        queries=len(filled),
        correlation=float(np.corrcoef(first, second)[0, 1]) if varies else None,
        kendall_tau=float(np.mean(known)) if known else None,
        logit_change=float(np.abs(second - first).mean()),
        probability_change=float(np.abs(_probability(second) - _probability(first)).mean()),
        same_first=float(np.mean([one.argmax() == other.argmax() for one, other in filled])),
    )


def kendall_tau(first: Floats, second: Floats) -> float | None:
    """Return Kendall's tau-b of two lists of scores; None where one of them has no two different scores.

    Source:
        Kendall 1945, "The treatment of ties in ranking problems", Biometrika 33.
    """
    signs = [np.sign(np.subtract.outer(scores, scores)) for scores in (first.astype(float), second.astype(float))]
    untied = np.sqrt(float(np.count_nonzero(signs[0])) * np.count_nonzero(signs[1]))
    return float((signs[0] * signs[1]).sum() / untied) if untied else None


def _probability(logits: Doubles) -> Doubles:
    return 0.5 * (1 + np.tanh(logits / 2))
