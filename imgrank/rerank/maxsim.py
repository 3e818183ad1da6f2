"""Similarity of two sets of vectors by their best matches, without learned weights.

Knows arrays only: the vectors may be visual tokens or local descriptors.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from imgrank.arrays import Floats, unit_rows
from imgrank.errors import InputError

_COSINES_PER_BLOCK = 4_000_000  # 16 MB


def maxsim(query: Floats, candidates: Sequence[Floats]) -> Floats:
    """Return the symmetric MaxSim of one query with each candidate.

    For every query vector the cosine of its best match among the candidate's vectors, averaged; the same from
    the candidate to the query; the score is the mean of the two averages. The candidate's score depends on
    its own vectors and the query alone, to the last bit: every pair is one matrix product of its own, because the
    bits of a joint product change with what stands beside a pair.

    Args:
        query: (n, dim) numbers; each row is scaled to length 1 here. An all-zero row has cosine 0 with everything.
        candidates: k arrays (m, dim), of any m each.

    Returns:
        (k,) float32 in [-1, 1]; 0 where the query or the candidate has no vectors.

    Raises:
        InputError: another number of dimensions, or a number is not finite.

    Source:
        Khattab and Zaharia 2020, arXiv:2004.12832 (late interaction from the query's side, summed). The mean and
        the second direction are ours, so that the sizes of the sets do not matter and the order does not either.
    """
    query = _unit(query, "the query")
    scores = np.zeros(len(candidates), dtype=np.float32)
    for i, candidate in enumerate(candidates):
        vectors = _unit(candidate, f"candidate {i}")
        if vectors.shape[1] != query.shape[1]:
            raise InputError(
                f"vectors of {vectors.shape[1]} numbers in candidate {i}, of {query.shape[1]} in the query; "
                "both must come from one model"
            )
        if len(query) and len(vectors):
            scores[i] = _score(query, vectors)
    return np.clip(scores, -1, 1)  # rounding can exceed 1 in the last bit


def _score(query: Floats, candidate: Floats) -> float:
    """Return the score of (n, dim) and (m, dim) unit rows, both not empty."""
    best_of_candidate = np.full(len(candidate), -np.inf, dtype=np.float32)
    total = 0.0
    step = max(1, _COSINES_PER_BLOCK // len(candidate))  # depends on this pair only
    for start in range(0, len(query), step):
        cosines = query[start : start + step] @ candidate.T
        total += float(cosines.max(axis=1).sum(dtype=np.float64))
        np.maximum(best_of_candidate, cosines.max(axis=0), out=best_of_candidate)
    return (total / len(query) + float(best_of_candidate.mean(dtype=np.float64))) / 2


def _unit(vectors: Floats, whose: str) -> Floats:
    vectors = np.asarray(vectors)
    if vectors.ndim != 2:
        raise InputError(f"the vectors of {whose} must be (n, dim), not of shape {vectors.shape}")
    if not np.isfinite(vectors).all():
        raise InputError(f"the vectors of {whose} hold numbers that are not finite; compute them in a wider --dtype")
    return unit_rows(vectors)
