"""Near-duplicates in a list: which descriptors are copies of an earlier one."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from imgrank.arrays import Floats


def fold_copies(
    vectors: Floats, threshold: float, confirm: Callable[[int, int], bool] | None = None
) -> list[list[int]]:
    """Fold each descriptor into the first one kept before it that it is a copy of.

    Args:
        vectors: (n, dim) float32, unit rows, the most wanted first.
        threshold: similarity from which one is a copy of another, or may be.
        confirm: given the places of a kept one and another, whether it is; None: it is.

    Returns:
        Places of `vectors`, each once: lists of a kept one and, after it, its copies; the kept ones in order. No two
        kept ones are copies of each other.
    """
    groups: list[list[int]] = []
    kept = np.empty_like(vectors)
    for place, vector in enumerate(vectors):
        alike = np.flatnonzero(kept[: len(groups)] @ vector >= threshold)
        home = next((int(one) for one in alike if confirm is None or confirm(groups[one][0], place)), None)
        if home is not None:
            groups[home].append(place)
        else:
            kept[len(groups)] = vector
            groups.append([place])
    return groups
