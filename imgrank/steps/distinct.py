"""The photos of a collection, each content once.

A hundred copies of one file would otherwise fill the list of nearest neighbours of each of them, and nothing else would
be compared with any.
"""

from __future__ import annotations

from functools import cached_property

import numpy as np
import numpy.typing as npt

from imgrank.arrays import Ids
from imgrank.steps.collection import Collection


class DistinctPhotos(Collection):
    """A collection in which files of the same content count once: the first of them is found, for all of them."""

    @cached_property
    def rows(self) -> Ids:
        """Return (m,) int64, the rows of readable photos, copies included."""
        rows: Ids = np.concatenate(
            [
                self.first_row(part) + np.flatnonzero(super(DistinctPhotos, self).searched(part))
                for part in range(len(self.parts))
            ]
        )
        return rows

    @cached_property
    def representatives(self) -> Ids:
        """Return (n,) int64, for each row the first readable one with its content; its own where it has none.

        A photo that nobody has seen, of an imported descriptor, is like no other.
        """
        found = np.arange(len(self), dtype=np.int64)
        digests = np.concatenate([part.digest_words for part in self.parts])  # (n, 2)
        seen = self.rows[digests[self.rows].any(axis=1)]
        order = seen[np.lexsort((seen, digests[seen, 1], digests[seen, 0]))]
        if len(order):
            new = np.ones(len(order), dtype=bool)
            new[1:] = (digests[order[1:]] != digests[order[:-1]]).any(axis=1)
            found[order] = order[new][np.cumsum(new) - 1]
        return found

    def searched(self, part: int) -> npt.NDArray[np.bool_]:
        """Return (n,) which rows of a bundle may be found: readable photos, each content once."""
        own = self.first_row(part) + np.arange(len(self.parts[part]))
        searched: npt.NDArray[np.bool_] = super().searched(part) & (self.representatives[own] == own)
        return searched

    def copies(self) -> tuple[Ids, Ids]:
        """Return (c,) rows of readable photos whose content an earlier one has, and (c,) that one's rows."""
        representatives = self.representatives[self.rows]
        copied = representatives != self.rows
        return representatives[copied], self.rows[copied]
