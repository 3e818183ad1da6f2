"""Query expansion and database-side augmentation: descriptors moved towards their neighbours."""

from __future__ import annotations

import numpy as np

from imgrank.arrays import Floats, unit_rows
from imgrank.errors import SettingsError


def expanded(descriptors: Floats, neighbours: Floats, similarities: Floats, alpha: float) -> Floats:
    """Return the directions of d + sum over its neighbours of max(similarity, 0)^alpha times the neighbour.

    Args:
        descriptors: (q, dim) float32, unit rows; each counts once in full.
        neighbours: (q, n, dim) float32, unit rows.
        similarities: (q, n) of the neighbours.
        alpha: from 0, where all count alike; the higher, the less do the further ones.

    Returns:
        (q, dim) float32, unit rows.

    Raises:
        SettingsError: `alpha` is negative or not finite.

    Source:
        Radenović, Tolias and Chum, arXiv:1711.02512, alpha query expansion (there: alpha = 3, up to 50 neighbours).
    """
    if not 0.0 <= alpha < np.inf:
        raise SettingsError(f"alpha {alpha} of the weights of neighbours: give a number from 0; 3 is usual")
    wide = np.maximum(similarities, 0).astype(np.float64)
    weights = np.where(similarities > 0, wide**alpha, 0.0)  # (q, n)
    return unit_rows(descriptors + np.einsum("qn,qnd->qd", weights, neighbours, dtype=np.float64))
