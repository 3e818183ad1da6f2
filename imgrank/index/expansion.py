"""Query expansion and database-side augmentation: a descriptor moved towards its neighbours."""

from __future__ import annotations

import numpy as np

from imgrank.arrays import Floats, unit_rows
from imgrank.errors import SettingsError


def expanded(descriptor: Floats, neighbours: Floats, similarities: Floats, alpha: float) -> Floats:
    """Return the direction of d + sum over neighbours of max(similarity, 0)^alpha times the neighbour.

    Args:
        descriptor: (dim,) float32, unit length; it counts once in full.
        neighbours: (n, dim) float32, unit rows.
        similarities: (n,) of the neighbours.
        alpha: from 0, where all count alike; the higher, the less do the further ones.

    Returns:
        (dim,) float32, unit length.

    Raises:
        SettingsError: `alpha` is negative or not finite.

    Source:
        Radenović, Tolias and Chum, arXiv:1711.02512, alpha query expansion (there: alpha = 3, up to 50 neighbours).
    """
    if not 0.0 <= alpha < np.inf:
        raise SettingsError(f"alpha {alpha} of query expansion: give a number from 0; 3 is usual")
    weights = np.where(similarities > 0, np.maximum(similarities, 0).astype(np.float64) ** alpha, 0.0)
    moved = descriptor.astype(np.float64) + weights @ neighbours.astype(np.float64)
    direction: Floats = unit_rows(moved[None])[0]
    return direction
