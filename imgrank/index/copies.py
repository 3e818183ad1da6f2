"""Near-duplicates in a list: which descriptors are copies of an earlier one."""

from __future__ import annotations

import numpy as np

from imgrank.arrays import Floats


def fold_copies(vectors: Floats, threshold: float) -> list[list[int]]:
    """Fold each descriptor into the first one kept before it that it is a copy of.

    Args:
        vectors: (n, dim) float32, unit rows, the most wanted first.
        threshold: similarity from which one is a copy of another.

    Returns:
        Places of `vectors`, each once: lists of a kept one and, after it, its copies; the kept ones in order. No two
        kept ones are copies of each other.
    """
    groups: list[list[int]] = []
    kept = np.empty_like(vectors)
    for place, vector in enumerate(vectors):
        alike = np.flatnonzero(kept[: len(groups)] @ vector >= threshold)
        if len(alike):
            groups[int(alike[0])].append(place)
        else:
            kept[len(groups)] = vector
            groups.append([place])
    return groups
