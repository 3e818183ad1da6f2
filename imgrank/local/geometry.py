"""How many local features of two photos match at places that one view change explains, as a score.

Knows features only, no photos. Each candidate is scored on its own: what stands beside it in the list changes no bit.

Sources: Lowe 2004 (ratio test); Philbin et al. 2007 (a hypothesis from every single match, by the scales and angles of
its two keypoints; their refinement to an affine map measured no gain). The soft ratio test and the count by cells
are ours.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from imgrank.arrays import Floats
from imgrank.local.features import LocalFeatures

Indices = npt.NDArray[np.intp]
Mask = npt.NDArray[np.bool_]
Wide = npt.NDArray[np.float64]
Complex = npt.NDArray[np.complex128]

# A match weighs 1 where its distance is at most 0.70 of the distance to the next best, 0 from 0.95 on.
_SURE_RATIO, _LOST_RATIO = 0.70, 0.95
_REACH = 0.06  # of a mapped keypoint from its match, in units of the candidate's longer side
_SCALE_FACTOR = float(np.log(1.8))  # between the scale changes of matches that one map explains
_TURN = 35.0  # degrees, between their turns
_CELLS = 16  # to the longer side
_CHANCE, _HALFWAY = 1.0, 20.0  # evidence that comes by chance; evidence at which the score is 1 - 1/e


@dataclass(frozen=True, eq=False)
class GeometricScores:
    """What the comparison of a query with k candidates gave.

    Attributes:
        scores: (k,) float32 in [0, 1]; 0 where nothing matches.
        inliers: (k,) int64, matches that the best map explains.
    """

    scores: Floats
    inliers: npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Matches:
    """m matches: keypoints of both photos, (m, 4) float64 each, row by row, and (m,) weights in (0, 1]."""

    query: Wide
    candidate: Wide
    weights: Wide
    query_rows: Indices  # (m,), of the features
    candidate_rows: Indices


@dataclass(frozen=True, eq=False)
class Correspondences:
    """Which features of two photos match; what `match_score` counts.

    Attributes:
        query: (m,) rows of the query's features.
        candidate: (m,) rows of the candidate's features.
        weights: (m,) float64 in (0, 1], how clear each match is.
        inliers: (m,) bool, those that the best map explains.
    """

    query: Indices
    candidate: Indices
    weights: Wide
    inliers: Mask


def correspondences(query: LocalFeatures, candidate: LocalFeatures) -> Correspondences:
    """Return the matches of two photos, those that `match_score` takes for its evidence marked."""
    matches = match(query, candidate)
    if matches is None:
        none = np.zeros(0, dtype=np.intp)
        return Correspondences(none, none, np.zeros(0), np.zeros(0, dtype=bool))
    return Correspondences(matches.query_rows, matches.candidate_rows, matches.weights, consistent(matches))


def match_score(query: LocalFeatures, candidates: Sequence[LocalFeatures]) -> GeometricScores:
    """Compare a query with k candidates by spatially consistent matches.

    The evidence is the sum over the cells of a 16 x 16 grid of the root of the weights that fall into a cell, the mean
    of both photos: twenty matches spread over an object say more than twenty on one logo. The score is
    1 - exp(-(evidence - 1) / 20).

    Returns:
        scores and inlier counts in the order of the candidates. An empty set of features scores 0.
    """
    scores = np.zeros(len(candidates), dtype=np.float32)
    inliers = np.zeros(len(candidates), dtype=np.int64)
    for i, candidate in enumerate(candidates):
        matches = match(query, candidate)
        if matches is None:
            continue
        kept = consistent(matches)
        weights = matches.weights[kept]
        evidence = (_spread(matches.query[kept], weights) + _spread(matches.candidate[kept], weights)) / 2
        inliers[i] = kept.sum()
        scores[i] = 1 - np.exp(-max(0.0, evidence - _CHANCE) / _HALFWAY)
    return GeometricScores(scores, inliers)


def match(query: LocalFeatures, candidate: LocalFeatures) -> Matches | None:
    """Return the mutual nearest neighbours that are clearly nearer than the next best; None for fewer than three."""
    if min(len(query), len(candidate)) < 3:
        return None
    cosines = query.vectors() @ candidate.vectors().T
    best_of_row, best_of_column = cosines.argmax(axis=1), cosines.max(axis=0)
    nearest = cosines[np.arange(len(cosines)), best_of_row]
    rows = np.flatnonzero(nearest == best_of_column[best_of_row])
    # Equal features tie: the first one gets the match, so that no column is used twice.
    columns, first = np.unique(best_of_row[rows], return_index=True)
    rows = rows[first]
    nearest = nearest[rows].astype(np.float64)
    cosines[rows, columns] = -1
    second = np.maximum(cosines[rows].max(axis=1), cosines.max(axis=0)[columns]).astype(np.float64)
    ratio = np.sqrt(np.maximum(1 - nearest, 0) / np.maximum(1 - second, 1e-6))
    weights = np.clip((_LOST_RATIO - ratio) / (_LOST_RATIO - _SURE_RATIO), 0, 1)
    good = weights > 1e-3
    if good.sum() < 3:
        return None
    return Matches(
        query.keypoints[rows[good]].astype(np.float64),
        candidate.keypoints[columns[good]].astype(np.float64),
        weights[good],
        rows[good],
        columns[good],
    )


def consistent(matches: Matches) -> Mask:
    """Return which of the m matches the best map explains, (m,) bool."""
    query, candidate, weights = matches.query, matches.candidate, matches.weights
    scale = np.log(np.maximum(candidate[:, 2], 1e-6) / np.maximum(query[:, 2], 1e-6))
    turn = candidate[:, 3] - query[:, 3]
    # As complex numbers, the similarity map of a match is z -> factor (z - z_query) + z_candidate.
    direction = np.exp(1j * np.deg2rad(turn))
    factor = np.exp(scale) * direction
    z_query, z_candidate = query[:, 0] + 1j * query[:, 1], candidate[:, 0] + 1j * candidate[:, 1]
    error = factor[:, None] * z_query + (z_candidate - factor * z_query)[:, None] - z_candidate  # (hypothesis, match)
    explained = error.real**2 + error.imag**2 < _REACH**2
    explained &= np.abs(scale - scale[:, None]) < _SCALE_FACTOR
    explained &= _aligned(direction[:, None], direction)
    best: Mask = explained[(explained @ weights).argmax()]
    return best


def _aligned(a: Complex, b: Complex) -> Mask:
    """Return where two directions, complex numbers of length 1, are less than _TURN degrees apart."""
    aligned: Mask = a.real * b.real + a.imag * b.imag > np.cos(np.deg2rad(_TURN))
    return aligned


def _spread(keypoints: Wide, weights: Wide) -> float:
    """Return the sum over the cells of a grid of the root of the weights in each."""
    cells = np.minimum(keypoints[:, :2] * _CELLS, _CELLS - 1).astype(np.intp)
    sums = np.bincount(cells[:, 1] * _CELLS + cells[:, 0], weights, minlength=1)
    return float(np.sqrt(sums).sum())
