"""What a reducer and a codec are; every strategy is one file that fits one of them, and one line of the registry.

A reducer makes fewer tokens of those of one image; a codec turns tokens into columns to store, and back. Neither knows
the model that made the tokens, nor the file they go to.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from imgrank.arrays import Floats, Ids
from imgrank.errors import InputError, SettingsError

Columns = Mapping[str, npt.NDArray[Any]]
Positions = npt.NDArray[np.integer]  # (n, 3): tile, row, column of each token


@dataclass(frozen=True, eq=False)
class Groups:
    """Which tokens of an image are left, and what goes into each.

    Attributes:
        places: (k,) int64, rising: the tokens whose positions, and places in the sequence, those that are left take.
        members: (n,) int64: the left token, 0 to k - 1, that each token is averaged into, or -1; None where those at
            `places` stay as they are.
    """

    places: Ids
    members: Ids | None = None

    def apply(self, vectors: Floats) -> Floats:
        """Return the (k, ...) float32 vectors of what is left of (n, ...): all levels by the same groups."""
        if self.members is None:
            return np.asarray(vectors[self.places], dtype=np.float32)
        inside = self.members >= 0
        owners, rows = self.members[inside], vectors[inside]
        counts = np.bincount(owners, minlength=len(self.places))
        order = np.argsort(owners, kind="stable")
        starts = np.concatenate([[0], np.cumsum(counts)[:-1]])
        sums = np.add.reduceat(rows[order].astype(np.float64), starts, axis=0)
        means: Floats = (sums / counts.reshape(-1, *[1] * (vectors.ndim - 1))).astype(np.float32)
        return means


class Reducer(Protocol):
    """Makes fewer visual tokens of those of an image, without knowing the query; equal input gives equal output."""

    def reduce(self, vectors: Floats, positions: Positions, grid: tuple[int, int]) -> Groups:
        """Return what is left.

        Args:
            vectors: (n, hidden) float32, what the language model would receive, in sequence order.
            positions: (n, 3) (tile, row, column) of each token.
            grid: (rows, columns) of the whole grid of a tile.

        Raises:
            InputError: the shapes disagree, a position is outside the grid, or a vector is not finite.
        """
        ...


@dataclass(frozen=True)
class Amount:
    """How many tokens are left: a number, or a share of those there are.

    Attributes:
        count: from 1; None where a share is given.
        share: above 0, at most 1.
    """

    count: int | None = None
    share: float | None = None

    def __post_init__(self) -> None:
        if (self.count is None) == (self.share is None):
            raise SettingsError("give a number of tokens or a share of them")
        if self.count is not None and self.count < 1:
            raise SettingsError(f"cannot keep {self.count} tokens of an image; keep at least 1")
        if self.share is not None and not 0 < self.share <= 1:
            raise SettingsError(f"cannot keep {self.share:.0%} of the tokens; a share is above 0 and at most 100%")

    def of(self, n: int) -> int:
        """Return how many of n tokens are left: of a share the next whole number, and never more than there are."""
        # Less a millionth: 0.29 * 100 is a little above 29 in float64.
        wanted = self.count if self.count is not None else int(np.ceil((self.share or 0) * n - 1e-6))
        return min(n, max(1, wanted))


class Codec(Protocol):
    """Stores token vectors in fewer bytes. A column has one row per token, so images can be laid end to end."""

    name: str

    def columns(self, levels: int, hidden: int) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Return the dtype and the shape after the first axis of every column.

        Args:
            levels: vectors per token: 1, and more for models that feed several layers (DeepStack).
            hidden: numbers per vector.
        """
        ...

    def encode(self, vectors: Floats) -> dict[str, npt.NDArray[Any]]:
        """Turn (n, levels, hidden) float32 into columns of n rows.

        Raises:
            InputError: not three axes, or a number is not finite.
        """
        ...

    def decode(self, columns: Columns) -> Floats:
        """Turn columns of n rows back into (n, levels, hidden) float32."""
        ...


def check_tokens(vectors: Floats, positions: Positions, grid: tuple[int, int]) -> npt.NDArray[np.int64]:
    """Return the positions as int64, or refuse what no reducer can use; only the shape of `vectors` is looked at.

    Raises:
        InputError: the shapes disagree, or a position is outside the grid.
    """
    if vectors.ndim != 2 or positions.shape != (len(vectors), 3):
        raise InputError(f"tokens of shape {vectors.shape} with positions of shape {positions.shape}")
    places = positions.astype(np.int64)
    if (places < 0).any() or (places[:, 1:] >= np.array(grid)).any():
        raise InputError(f"a token lies outside its grid of {grid[0]} rows and {grid[1]} columns")
    return places


def check_vectors(vectors: Floats) -> Floats:
    """Return (n, levels, hidden) vectors as float32, or refuse what no codec can store.

    Raises:
        InputError: not three axes, or a number is not finite.
    """
    if vectors.ndim != 3:
        raise InputError(f"token vectors must be (n, levels, hidden), not of shape {vectors.shape}")
    vectors = np.asarray(vectors, dtype=np.float32)
    if not np.isfinite(vectors).all():
        raise InputError("visual tokens hold numbers that are not finite; run the model with a wider --dtype")
    return vectors
