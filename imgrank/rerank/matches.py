"""Which vectors of two photos are each other's best match.

Knows arrays only: the vectors may be visual tokens or local descriptors.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from imgrank.arrays import Floats, Ids, unit_rows


@dataclass(frozen=True, eq=False)
class Matches:
    """m pairs of vectors, the strongest first.

    Attributes:
        query: (m,) int64 rows of the query's vectors.
        candidate: (m,) int64 rows of the candidate's.
        strengths: (m,) float32.
    """

    query: Ids
    candidate: Ids
    strengths: Floats

    def __len__(self) -> int:
        return len(self.query)

    def first(self, count: int) -> Matches:
        """Return the strongest ones."""
        return self._at(np.arange(min(count, len(self))))

    def spread(self, places: npt.ArrayLike) -> Matches:
        """Return the same pairs in another order: the strongest of each cell, then the second of each, and so on.

        Args:
            places: (candidates, 2) where the candidate's vectors lie, in units of a cell.
        """
        cells = np.floor(np.asarray(places, dtype=np.float64)[self.candidate]).astype(np.int64).reshape(-1, 2)
        seen: dict[tuple[int, ...], int] = {}
        turns = np.zeros(len(self), dtype=np.int64)
        for number, cell in enumerate(map(tuple, cells.tolist())):
            turns[number] = seen[cell] = seen.get(cell, -1) + 1
        return self._at(np.argsort(turns, kind="stable"))

    def _at(self, order: Ids) -> Matches:
        return Matches(self.query[order], self.candidate[order], self.strengths[order])


def strongest_first(query: npt.ArrayLike, candidate: npt.ArrayLike, strengths: npt.ArrayLike) -> Matches:
    """Sort pairs by strength; equal ones by the query's row, then by the candidate's."""
    rows, columns = np.asarray(query, dtype=np.int64), np.asarray(candidate, dtype=np.int64)
    values = np.asarray(strengths, dtype=np.float32)
    order = np.lexsort((columns, rows, -values))
    return Matches(rows[order], columns[order], values[order])


def mutual_matches(query: Floats, candidate: Floats) -> Matches:
    """Return the pairs of vectors that are each other's nearest by cosine.

    Of equally near vectors the first counts, so a vector is in one pair at most.

    Args:
        query: (n, dim) finite numbers.
        candidate: (m, dim) likewise.

    Returns:
        the pairs, with their cosines; none where a photo has no vectors.
    """
    cosines = _cosines(query, candidate)
    if 0 in cosines.shape:
        return strongest_first([], [], [])
    nearest, back = cosines.argmax(axis=1), cosines.argmax(axis=0)
    rows = np.flatnonzero(back[nearest] == np.arange(len(cosines)))
    return strongest_first(rows, nearest[rows], cosines[rows, nearest[rows]])


def best_matches(query: Floats, candidate: Floats) -> Matches:
    """Return for each of the query's vectors the candidate's nearest by cosine, the first of equally near ones.

    These are the terms of one of the two sums of `imgrank.rerank.maxsim`.

    Args:
        query: (n, dim) finite numbers.
        candidate: (m, dim) likewise.

    Returns:
        n pairs, with their cosines; none where a photo has no vectors.
    """
    cosines = _cosines(query, candidate)
    if 0 in cosines.shape:
        return strongest_first([], [], [])
    nearest, rows = cosines.argmax(axis=1), np.arange(len(cosines))
    return strongest_first(rows, nearest, cosines[rows, nearest])


def _cosines(query: Floats, candidate: Floats) -> Floats:
    cosines: Floats = unit_rows(query) @ unit_rows(candidate).T
    return cosines
