"""What a neighbour index is: unit descriptors in, the most similar rows out.

An index knows row numbers of the descriptor array and nothing of photos, ids or files.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

from imgrank.arrays import Floats, Ids


@dataclass(frozen=True, eq=False)
class Neighbours:
    """The most similar rows of each query.

    Attributes:
        rows: (q, k) int64, rows of the descriptor array.
        similarities: (q, k) float32, cosines. Every row falls from left to right; equal similarities are in
            order of the row number.
    """

    rows: Ids
    similarities: Floats


class NeighbourIndex(Protocol):
    """Finds the rows of a collection that are most similar to a query."""

    def search(self, queries: Floats, k: int) -> Neighbours:
        """Return the `k` most similar rows of each query, fewer only where the collection has fewer.

        Args:
            queries: (q, dim) float32, unit rows.
            k: at least 1.

        Raises:
            InputError: the queries have another dim, or a row is not finite or not of length 1.
            SettingsError: `k` is below 1.
        """
        ...
