"""How many local features of two photos match at places that one affine view change explains, as a score.

Knows features only, no photos. Each candidate is scored on its own: what stands beside it in the list changes no bit.

Sources: Lowe 2004 (ratio test); Philbin et al. 2007 (a hypothesis from every single correspondence, by the scales and
angles of its two keypoints, refined to an affine map).
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from imgrank.arrays import Floats
from imgrank.local.features import LocalFeatures

Indices = npt.NDArray[np.intp]
Wide = npt.NDArray[np.float64]

RATIO = 0.85  # of the distance to the best match and to the second best
TOLERANCE = 0.03  # distance of a mapped keypoint from its match, in units of the candidate's longer side
_SCALE_TOLERANCE = np.log(1.8)
_ANGLE_TOLERANCE = 35.0  # degrees
_HALF = 8.0  # inliers at which the score is about 0.63


@dataclass(frozen=True, eq=False)
class GeometricScores:
    """What the comparison of a query with k candidates gave.

    Attributes:
        scores: (k,) float32 in [0, 1]; 0 where nothing matches.
        inliers: (k,) int64, matches that the best map explains.
    """

    scores: Floats
    inliers: npt.NDArray[np.int64]


def match_score(query: LocalFeatures, candidates: Sequence[LocalFeatures]) -> GeometricScores:
    """Compare a query with k candidates by spatially consistent matches.

    Returns:
        scores and inlier counts in the order of the candidates. An empty set of features scores 0.
    """
    scores = np.zeros(len(candidates), dtype=np.float32)
    inliers = np.zeros(len(candidates), dtype=np.int64)
    for i, candidate in enumerate(candidates):
        rows, columns, weights = _matches(query, candidate)
        if len(rows) < 3:
            continue
        kept = _consistent(query.keypoints[rows].astype(np.float64), candidate.keypoints[columns].astype(np.float64), weights)
        inliers[i] = kept.sum()
        scores[i] = 1 - np.exp(-max(0.0, weights[kept].sum() - 2) / _HALF)
    return GeometricScores(scores, inliers)


def _matches(query: LocalFeatures, candidate: LocalFeatures) -> tuple[Indices, Indices, Wide]:
    """Return mutual nearest neighbours that pass the ratio test: rows of both, and a weight in (0, 1] of each."""
    none = np.zeros(0, dtype=np.intp)
    if len(query) < 2 or len(candidate) < 2:
        return none, none, np.zeros(0)
    # Sums of products of bytes stay below 2**24: float32 holds them exactly, in whatever order they are added.
    a, b = query.descriptors.astype(np.float32), candidate.descriptors.astype(np.float32)
    products = a @ b.T
    norms_a, norms_b = np.sqrt((a * a).sum(1)), np.sqrt((b * b).sum(1))
    distances = 2 - 2 * products / np.maximum(norms_a[:, None] * norms_b, 1)
    best = distances.argmin(1)
    rows = np.flatnonzero(distances.argmin(0)[best] == np.arange(len(a)))
    columns = best[rows]
    nearest = distances[rows, columns]
    second = np.minimum(np.partition(distances, 1, axis=1)[rows, 1], np.partition(distances, 1, axis=0)[1, columns])
    ratio = np.sqrt(np.maximum(nearest, 0) / np.maximum(second, 1e-6))
    good = ratio < RATIO
    rows, columns, ratio = rows[good], columns[good], ratio[good].astype(np.float64)
    return rows, columns, np.ones(len(rows))


def _consistent(query: Wide, candidate: Wide, weights: Wide) -> npt.NDArray[np.bool_]:
    """Return which of m matches the best map explains, (m,) bool; m >= 3.

    Args:
        query: (m, 4) keypoints of the query, matched row by row with those of the candidate.
        candidate: (m, 4).
        weights: (m,) of the matches.
    """
    scale = np.log(np.maximum(candidate[:, 2], 1e-6) / np.maximum(query[:, 2], 1e-6))
    turn = candidate[:, 3] - query[:, 3]
    # Similarity maps as complex factors: z -> factor * (z - z_q) + z_c, one per match.
    factor = np.exp(scale + 1j * np.deg2rad(turn))
    z_query, z_candidate = query[:, 0] + 1j * query[:, 1], candidate[:, 0] + 1j * candidate[:, 1]
    mapped = factor[:, None] * (z_query - z_query[:, None]) + z_candidate[:, None]
    near = np.abs(mapped - z_candidate) < TOLERANCE * 2
    near &= np.abs(scale - scale[:, None]) < _SCALE_TOLERANCE
    near &= np.abs((turn - turn[:, None] + 180) % 360 - 180) < _ANGLE_TOLERANCE
    votes = near @ weights
    kept: npt.NDArray[np.bool_] = near[votes.argmax()]
    plausible = kept
    for _ in range(3):
        if kept.sum() < 4:
            break
        design = np.column_stack([query[:, :2], np.ones(len(query))])
        solution = np.linalg.lstsq(design[kept], candidate[kept, :2], rcond=None)[0]
        error = np.linalg.norm(design @ solution - candidate[:, :2], axis=1)
        refined = (error < TOLERANCE)
        middle = np.median(scale[kept])
        refined &= np.abs(scale - middle) < _SCALE_TOLERANCE
        refined &= np.abs((turn - np.rad2deg(np.angle(np.exp(1j * np.deg2rad(turn[kept])).sum())) + 180) % 360 - 180) < _ANGLE_TOLERANCE
        if weights[refined].sum() < weights[plausible].sum():
            break
        kept = plausible = refined
    return plausible
