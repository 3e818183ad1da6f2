"""From what a second stage says of a pair to the probability that both photos show the same thing.

A map rises, or stays, everywhere, so it never changes the order of hits. Applying it needs numpy alone;
`imgrank.rerank.calibration_fit` learns it.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from imgrank.arrays import Floats
from imgrank.errors import InputError

Doubles = npt.NDArray[np.float64]


class ScoreMap(Protocol):
    """A rising function from evidence to probability."""

    def __call__(self, evidence: npt.ArrayLike) -> Doubles:
        """Return (n,) float64 probabilities in [0, 1] for (n,) finite evidence."""

    def arrays(self) -> dict[str, Doubles]:
        """Return what the bundle keeps of it."""


@dataclass(frozen=True, eq=False)
class Isotonic:
    """Straight lines between knots; level beyond the first and the last.

    Attributes:
        x: (k,) float64 evidence, strictly ascending, k >= 1.
        y: (k,) float64 probabilities, never falling.
    """

    x: Doubles
    y: Doubles

    def __call__(self, evidence: npt.ArrayLike) -> Doubles:
        """Interpolate."""
        given = np.asarray(evidence, dtype=np.float64)
        following = np.minimum(np.searchsorted(self.x, given, side="right"), len(self.x) - 1)
        with np.errstate(over="ignore"):  # knots may be as near to each other, and as far apart, as numbers can be
            # A line may pass its end by a last bit, and would then fall there.
            return np.minimum(np.interp(given, self.x, self.y), self.y[following])

    def arrays(self) -> dict[str, Doubles]:
        """Return the knots."""
        return {"knots-x": self.x, "knots-y": self.y}


@dataclass(frozen=True)
class Logistic:
    """sigmoid(slope * evidence + intercept), with slope >= 0."""

    slope: float
    intercept: float

    def __call__(self, evidence: npt.ArrayLike) -> Doubles:
        """Compute it."""
        with np.errstate(over="ignore"):  # an infinite logit is a probability of 0 or 1
            return sigmoid(self.slope * np.asarray(evidence, dtype=np.float64) + self.intercept)

    def arrays(self) -> dict[str, Doubles]:
        """Return both numbers."""
        return {"coefficients": np.array([self.slope, self.intercept])}


def sigmoid(logits: npt.ArrayLike) -> Doubles:
    """Return 1 / (1 + exp(-z)) in float64, without overflow, never falling in z."""
    z = np.asarray(logits, dtype=np.float64)
    small = np.exp(-np.abs(z))  # in (0, 1]
    return np.where(z >= 0, 1 / (1 + small), small / (1 + small))


def calibrated(score_map: ScoreMap, evidence: Floats) -> Floats:
    """Return (n,) float32, what a record carries."""
    return score_map(evidence).astype(np.float32)


def map_of(arrays: Mapping[str, npt.NDArray[Any]]) -> ScoreMap:
    """Make a map of what a bundle kept of it, which may be damaged.

    Raises:
        InputError: it is none: numbers that are not finite, knots that fall, a slope below 0, missing arrays.
    """
    if "coefficients" in arrays:
        numbers = arrays["coefficients"]
        if numbers.shape != (2,) or not np.isfinite(numbers).all() or numbers[0] < 0:
            raise InputError("the coefficients are not a finite slope of at least 0 and a finite intercept")
        return Logistic(float(numbers[0]), float(numbers[1]))
    x, y = arrays.get("knots-x"), arrays.get("knots-y")
    if x is None or y is None or x.ndim != 1 or x.shape != y.shape or not len(x):
        raise InputError("there are neither coefficients nor knots of one length")
    if not (np.isfinite(x).all() and np.isfinite(y).all()):
        raise InputError("a knot is not finite")
    if (np.diff(x) <= 0).any() or (np.diff(y) < 0).any():
        raise InputError("the knots do not rise")
    if y[0] < 0 or y[-1] > 1:
        raise InputError("a knot is no probability")
    return Isotonic(x.astype(np.float64), y.astype(np.float64))
