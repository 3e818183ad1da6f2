"""How far stated probabilities are from what was observed: a reliability table and three numbers."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from imgrank.errors import InputError

Doubles = npt.NDArray[np.float64]
_LEAST = 1e-15  # a probability of 0 or 1 counts as this far from it in a log loss, which would be infinite


@dataclass(frozen=True, eq=False)
class Reliability:
    """Pairs by what was stated of them, in bins of equal width over [0, 1]; the last one includes 1.

    Attributes:
        counts: (bins,) int64, pairs in each.
        predicted: (bins,) float64, the mean of what was stated; 0 in an empty bin.
        observed: (bins,) float64, the share of them that show the same thing; 0 in an empty bin.
    """

    counts: npt.NDArray[np.int64]
    predicted: Doubles
    observed: Doubles

    @property
    def error(self) -> float:
        """Return the expected calibration error: |observed - predicted|, the mean over pairs.

        Source:
            Guo et al. 2017, arXiv:1706.04599, equation 3, with the probability of "same" in the place of the
            confidence.
        """
        return float((self.counts * np.abs(self.observed - self.predicted)).sum() / self.counts.sum())


def reliability(predicted: npt.ArrayLike, same: npt.ArrayLike, bins: int) -> Reliability:
    """Make the table.

    Args:
        predicted: (n,) probabilities in [0, 1].
        same: (n,) bool, what is true.
        bins: how many.

    Raises:
        InputError: there is no pair, the lengths differ, or a probability is outside [0, 1].
    """
    stated, true = _checked(predicted, same)
    place = np.minimum((stated * bins).astype(np.int64), bins - 1)
    counts = np.bincount(place, minlength=bins)
    filled = np.maximum(counts, 1)
    return Reliability(
        counts.astype(np.int64),
        np.bincount(place, stated, bins) / filled,
        np.bincount(place, true, bins) / filled,
    )


@dataclass(frozen=True)
class Quality:
    """What probabilities are worth; less is better.

    Attributes:
        ece: expected calibration error; see `Reliability.error`.
        brier: mean squared distance from what is true (Brier 1950).
        log_loss: mean negative log-likelihood, in nats.
    """

    ece: float
    brier: float
    log_loss: float


def quality(predicted: npt.ArrayLike, same: npt.ArrayLike, bins: int) -> Quality:
    """Measure probabilities; raises as `reliability` does."""
    stated, true = _checked(predicted, same)
    inside = np.clip(stated, _LEAST, 1 - _LEAST)
    return Quality(
        ece=reliability(stated, true, bins).error,
        brier=float(((stated - true) ** 2).mean()),
        log_loss=float(-(true * np.log(inside) + (1 - true) * np.log1p(-inside)).mean()),
    )


def _checked(predicted: npt.ArrayLike, same: npt.ArrayLike) -> tuple[Doubles, Doubles]:
    stated, true = np.asarray(predicted, dtype=np.float64), np.asarray(same, dtype=np.float64)
    if stated.ndim != 1 or stated.shape != true.shape or not len(stated):
        raise InputError(f"probabilities of shape {stated.shape} and truths of shape {true.shape}")
    if not ((stated >= 0) & (stated <= 1)).all():
        raise InputError("a probability lies between 0 and 1")
    return stated, true
