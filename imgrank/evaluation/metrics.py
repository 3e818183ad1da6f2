"""Numbers that say how good a ranking is."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np


def average_precision(right: Sequence[bool], relevant: int) -> float:
    """Return the average precision of a ranking: the mean over all relevant photos of the precision at their ranks.

    Args:
        right: for each rank, whether its photo is relevant.
        relevant: how many relevant photos there are; those that are not in the ranking count as never found.

    Returns:
        in [0, 1]; 0 where nothing is relevant.
    """
    hits = np.flatnonzero(np.asarray(right, dtype=bool))
    if not relevant:
        return 0.0
    return float(((np.arange(len(hits)) + 1) / (hits + 1)).sum() / relevant)
