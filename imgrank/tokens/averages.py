"""Turning a clustering of tokens into groups that are averaged."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from imgrank.arrays import Floats
from imgrank.tokens.base import Groups


def averaged(vectors: Floats, labels: npt.NDArray[np.integer[Any]]) -> Groups:
    """Return groups that average each cluster, at the place of its most typical member.

    That is the member nearest to the mean by Euclidean distance; equal distances go to the lowest index.

    Args:
        vectors: (n, hidden) finite numbers, n from 1.
        labels: (n,) which cluster each token is in; the numbers need not be consecutive.
    """
    _, owners, counts = np.unique(labels, return_inverse=True, return_counts=True)
    order, starts = np.argsort(owners, kind="stable"), np.cumsum(counts) - counts
    # In float64, where no square overflows, and the mean of two tokens is equally far from both.
    rows = vectors[order].astype(np.float64)
    rows -= np.repeat(np.add.reduceat(rows, starts, axis=0) / counts[:, None], counts, axis=0)
    distances = np.empty(len(vectors))
    distances[order] = np.einsum("ij,ij->i", rows, rows)
    typical = np.lexsort((distances, owners))[starts]  # lexsort keeps the order of equals
    by_place = np.argsort(typical)
    return Groups(typical[by_place], np.argsort(by_place)[owners])
