"""How many of the true neighbours an approximate index finds, measured on the collection's own rows."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from imgrank.arrays import Floats, Ids
from imgrank.index.base import NeighbourIndex


def sample_rows(searchable: npt.NDArray[np.bool_], size: int, seed: int) -> Ids:
    """Draw `size` different searchable rows (all of them where there are fewer), sorted; same seed, same rows.

    Args:
        searchable: (n,) bool, as `searchable_rows` returns it.
        size: how many rows.
        seed: any integer from 0.
    """
    rows = np.flatnonzero(searchable)
    if len(rows) <= size:
        return rows
    return np.sort(np.random.default_rng(seed).choice(rows, size=size, replace=False))


def self_recall(index: NeighbourIndex, exact: NeighbourIndex, descriptors: Floats, rows: Ids, k: int) -> float:
    """Return recall@k of `index` against `exact`, with rows of the collection as queries.

    A row finds itself first in either index, so k + 1 neighbours are asked for and the row itself is left out.
    A hit counts when it is at least as similar as the exact k-th neighbour: among duplicates each is as good as
    the other. Both indexes report similarities by `rescore`, so the comparison needs no tolerance.

    Args:
        index: the approximate index.
        exact: the exact index over the same descriptors.
        descriptors: (n, dim) float32, unit rows.
        rows: (s,) searchable rows that serve as queries, as `sample_rows` draws them.
        k: neighbours counted for each row.

    Returns:
        Mean share of found neighbours, 0 to 1; 1.0 where there is nothing to find.
    """
    if len(rows) == 0:
        return 1.0
    queries = np.asarray(descriptors[rows], dtype=np.float32)
    truth, found = exact.search(queries, k + 1), index.search(queries, k + 1)
    shares = []
    for i, row in enumerate(rows):
        wanted = truth.similarities[i][truth.rows[i] != row][:k]
        got = found.similarities[i][found.rows[i] != row][:k]
        if len(wanted):
            shares.append(np.count_nonzero(got >= wanted[-1]) / len(wanted))
    return float(np.mean(shares)) if shares else 1.0
