"""Exact nearest neighbours by blocked matrix products, with bounded memory.

Knows arrays only. The descriptors may be memory-mapped: they are read in blocks, once per 128 queries.
"""

from __future__ import annotations

from typing import Self

import numpy as np
import numpy.typing as npt

from imgrank.arrays import Floats, Ids
from imgrank.errors import InputError
from imgrank.index.base import Neighbours
from imgrank.index.similarity import ROWS_PER_BLOCK, best_first, check_queries, rescore, searchable_rows

_QUERIES_PER_BLOCK = 128  # with ROWS_PER_BLOCK: 8 MiB of similarities at a time


class ExactIndex:
    """Search that compares a query with every searchable row.

    The result is the exact order of the similarities that `rescore` defines, ties and all. The float32 matrix
    product only discards rows that are worse than the k-th best by more than its rounding error can explain.
    """

    def __init__(self, descriptors: Floats, valid: npt.NDArray[np.bool_] | None = None) -> None:
        """Check the descriptors (one pass over them) and keep a reference to them.

        Args:
            descriptors: (n, dim) float32, unit rows; all-zero rows are never returned.
            valid: (n,) False for rows that are never returned; None: all are valid.

        Raises:
            InputError: the shapes disagree, or a valid row is neither zero nor of length 1.
        """
        self.descriptors = descriptors
        self.searchable = searchable_rows(descriptors, valid)
        self.count = int(self.searchable.sum())

    @classmethod
    def of_rows(cls, descriptors: Floats, rows: npt.NDArray[np.integer]) -> Self:
        """Search some rows only.

        Args:
            descriptors: (n, dim) float32.
            rows: (r,) different rows, none all zero.

        Raises:
            InputError: a row does not exist, is named twice, or is not of length 1.
        """
        if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < len(descriptors):
            raise InputError(f"rows to search lie outside the {len(descriptors)} descriptors")
        valid = np.zeros(len(descriptors), dtype=bool)
        valid[rows] = True
        index = cls(descriptors, valid)
        if index.count != len(rows):
            raise InputError("rows to search are named twice, or are all zero")
        return index

    def search(self, queries: Floats, k: int) -> Neighbours:
        """Return the `k` most similar rows of each query; see `NeighbourIndex.search`."""
        queries = check_queries(queries, self.descriptors.shape[1], k)
        k = min(k, self.count)
        rows = np.empty((len(queries), k), dtype=np.int64)
        similarities = np.empty((len(queries), k), dtype=np.float32)
        if k == 0:
            return Neighbours(rows, similarities)
        for start in range(0, len(queries), _QUERIES_PER_BLOCK):
            part = queries[start : start + _QUERIES_PER_BLOCK]
            for i, candidates in enumerate(self._candidates(part, k), start):
                exact = rescore(self.descriptors, queries[i], candidates)
                rows[i], similarities[i] = best_first(candidates, exact, k)
        return Neighbours(rows, similarities)

    def _candidates(self, queries: Floats, k: int) -> list[Ids]:
        """Return, for each query, rows that surely include its `k` best."""
        margin = 2 * _rounding_error(self.descriptors.shape[1])
        shortlists = [_Shortlist(k, margin) for _ in queries]
        for start in range(0, len(self.descriptors), ROWS_PER_BLOCK):
            numbers = np.flatnonzero(self.searchable[start : start + ROWS_PER_BLOCK])
            block = self.descriptors[start : start + ROWS_PER_BLOCK]
            if len(numbers) < len(block):
                block = block[numbers]
            products = queries @ np.asarray(block, dtype=np.float32).T  # (q, rows of the block)
            for shortlist, row in zip(shortlists, products, strict=True):
                shortlist.add(start + numbers, row)
        return [shortlist.rows for shortlist in shortlists]


class _Shortlist:
    """The rows of one query that may still be among its `k` best."""

    def __init__(self, k: int, margin: float) -> None:
        self.rows: Ids = np.empty(0, dtype=np.int64)
        self._approximate: Floats = np.empty(0, dtype=np.float32)
        self._k, self._margin = k, margin
        self._floor = -np.inf

    def add(self, rows: Ids, approximate: Floats) -> None:
        """Take in the rows of one block, (b,), with their float32 products, (b,)."""
        passing = np.flatnonzero(approximate >= self._floor)
        if len(passing) == 0:
            return
        self.rows = np.concatenate([self.rows, rows[passing]])
        self._approximate = np.concatenate([self._approximate, approximate[passing]])
        excess = len(self.rows) - self._k
        if excess >= 0:
            self._floor = np.partition(self._approximate, excess)[excess] - self._margin
            stays = self._approximate >= self._floor
            self.rows, self._approximate = self.rows[stays], self._approximate[stays]


def _rounding_error(dim: int) -> float:
    """Bound the difference of a float32 dot product of two unit rows from `rescore`, whatever the order of sums.

    Source:
        Higham, Accuracy and Stability of Numerical Algorithms (2002), section 3.1: dim u / (1 - dim u) times
        the sum of |a b|, which is at most the product of the lengths. One u more for the final rounding, and
        a few percent for lengths that are 1 only within the tolerance.
    """
    u = 2.0**-24
    return 1.05 * (dim * u / (1 - dim * u) + u)
