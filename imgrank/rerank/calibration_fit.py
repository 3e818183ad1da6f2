"""Learning a map from evidence to probability, and measuring it on queries that it was not learned from.

A finite sample cannot show that something is impossible or certain. So n different and p same pairs count as
1 / (n + 2) and (p + 1) / (p + 2) in the place of 0 and 1. Logistic regression is fitted to these two numbers
(Platt 1999, "Probabilistic outputs for support vector machines"). Isotonic regression (Zadrozny and Elkan 2002,
"Transforming classifier scores into accurate multiclass probability estimates") is kept between them, which is ours:
its first and last block would else be 0 and 1.
"""

from __future__ import annotations

import importlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from imgrank.config import CalibrationMethod
from imgrank.errors import InputError, MissingExtraError
from imgrank.rerank.calibration import Doubles, Isotonic, Logistic, ScoreMap

FEWEST = 10  # same pairs, and different ones, below which nothing is learned
FEWEST_QUERIES = 2  # with a same pair, so that one is left when the other is measured

Ints = npt.NDArray[np.int64]
Bools = npt.NDArray[np.bool_]


@dataclass(frozen=True, eq=False)
class CrossFit:
    """Each pair's probability from a map that saw no pair of its query.

    Attributes:
        predicted: (n,) float64.
        parts: (n,) int64, the part that the query of each pair is in.
        maps: by part, the map that was fitted on all others.
    """

    predicted: Doubles
    parts: Ints
    maps: tuple[ScoreMap, ...]


def check_fit() -> None:
    """Find out whether a map can be learned, before the work, which may take hours.

    Raises:
        MissingExtraError: scikit-learn is not installed, or lacks something that it needs.
    """
    try:
        importlib.import_module("sklearn.linear_model")
    except ImportError as error:
        raise MissingExtraError("scikit-learn", "calibrate", "a calibration") from error


def fit(evidence: npt.ArrayLike, same: npt.ArrayLike, method: CalibrationMethod) -> ScoreMap:
    """Learn a map.

    Args:
        evidence: (n,) finite numbers; more speaks for "same".
        same: (n,) bool.
        method: "isotonic" or "logistic".

    Raises:
        MissingExtraError: scikit-learn is not installed.
        InputError: there are only same or only different pairs.
    """
    check_fit()
    x, true = np.asarray(evidence, dtype=np.float64), np.asarray(same, dtype=np.bool_)
    if true.all() or not true.any():
        raise InputError(f"{int(true.sum())} of {len(true)} pairs show the same thing; some must and some must not")
    low, high = targets(true)
    return _logistic(x, true, low, high) if method == "logistic" else _isotonic(x, true, low, high)


def targets(same: Bools) -> tuple[float, float]:
    """Return what takes the places of 0 and 1: 1 / (n + 2) and (p + 1) / (p + 2) for n different and p same pairs."""
    positives = int(np.count_nonzero(same))
    return 1 / (len(same) - positives + 2), (positives + 1) / (positives + 2)


def _isotonic(x: Doubles, same: Bools, low: float, high: float) -> Isotonic:
    from sklearn.isotonic import IsotonicRegression

    fitted = IsotonicRegression(y_min=low, y_max=high, out_of_bounds="clip").fit(x, same)
    knots = np.asarray(fitted.X_thresholds_, dtype=np.float64), np.asarray(fitted.y_thresholds_, dtype=np.float64)
    # Means of blocks come out of sums, and may fall by a last bit.
    return Isotonic(knots[0], np.maximum.accumulate(knots[1]))


def _logistic(x: Doubles, same: Bools, low: float, high: float) -> Logistic:
    from sklearn.linear_model import LogisticRegression

    middle, spread = float(x.mean()), float(x.std())
    target = np.where(same, high, low)
    base = float(target.mean())
    level = Logistic(0.0, float(np.log(base / (1 - base))))
    if spread == 0:
        return level
    # A target between 0 and 1 is both answers, each with its weight. Scaled, since a match score varies by hundredths
    # and a logit by tens.
    scaled = np.tile((x - middle) / spread, 2)[:, None]
    answers = np.repeat([1, 0], len(x))
    model = LogisticRegression(C=np.inf, solver="newton-cholesky", tol=1e-10, max_iter=1000)
    model.fit(scaled, answers, sample_weight=np.concatenate([target, 1 - target]))
    slope = float(model.coef_[0, 0]) / spread
    # The likelihood is concave: where its best slope falls, the best that does not fall is level.
    return level if slope <= 0 else Logistic(slope, float(model.intercept_[0]) - slope * middle)


def check_enough(same: Bools, queries: Ints) -> None:
    """Find out whether there is enough to learn from.

    Args:
        same: (n,) bool.
        queries: (n,) number of the query of each pair.

    Raises:
        InputError: there is not; the message says how much there is and how much is wanted.
    """
    positives = int(np.count_nonzero(same))
    negatives, asked = len(same) - positives, len(np.unique(queries[same]))
    if min(positives, negatives) < FEWEST or asked < FEWEST_QUERIES:
        raise InputError(
            f"{positives} pairs of {asked} queries show the same thing and {negatives} do not; a calibration wants "
            f"{FEWEST} of either and {FEWEST_QUERIES} queries at least, and is worth something from hundreds on: judge "
            "more queries, or look at more candidates (--top)"
        )


def split_queries(same: Bools, queries: Ints, folds: int, seed: int) -> Ints:
    """Deal queries out into parts at random; those with a same pair first, so that every part gets some.

    Args:
        same: (n,) bool.
        queries: (n,) number of the query of each pair.
        folds: at most so many parts; fewer where fewer queries have a same pair.
        seed: decides.

    Returns:
        (n,) int64, the part of each pair's query.
    """
    numbers, place = np.unique(queries, return_inverse=True)
    found = np.bincount(place, same) > 0
    order = np.random.default_rng([0xCA1B, seed]).permutation(len(numbers))
    order = order[np.argsort(~found[order], kind="stable")]
    part = np.empty(len(numbers), dtype=np.int64)
    part[order] = np.arange(len(numbers)) % min(folds, int(np.count_nonzero(found)))
    return part[place]


def cross_fit(
    evidence: npt.ArrayLike, same: Bools, queries: Ints, method: CalibrationMethod, *, folds: int, seed: int
) -> CrossFit:
    """Predict each query by a map that was fitted on the queries of other parts.

    Args:
        evidence: (n,) finite numbers.
        same: (n,) bool.
        queries: (n,) number of the query of each pair.
        method: as in `fit`.
        folds: at most so many parts, at least 2.
        seed: deals queries out.

    Raises:
        MissingExtraError: scikit-learn is not installed.
        InputError: there is too little to learn from.
    """
    check_enough(same, queries)
    x = np.asarray(evidence, dtype=np.float64)
    parts = split_queries(same, queries, folds, seed)
    predicted, maps = np.empty(len(x)), []
    for part in range(int(parts.max()) + 1):
        mine = parts == part
        maps.append(fit(x[~mine], same[~mine], method))
        predicted[mine] = maps[-1](x[mine])
    return CrossFit(predicted, parts, tuple(maps))
