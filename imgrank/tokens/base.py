"""What a pruner and a codec are; every strategy is one file that fits one of them, and one line of the registry.

A pruner chooses tokens of one image; a codec turns chosen tokens into columns to store, and back. Neither knows
the model that made the tokens, nor the file they go to.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from imgrank.arrays import Floats, Ids
from imgrank.errors import InputError

Columns = Mapping[str, npt.NDArray[Any]]


class Pruner(Protocol):
    """Chooses which visual tokens of an image are worth keeping, without knowing the query."""

    def keep(self, vectors: Floats, positions: npt.NDArray[np.integer], grid: tuple[int, int]) -> Ids:
        """Return the kept tokens.

        Args:
            vectors: (n, hidden) float32, what the language model would receive, in sequence order.
            positions: (n, 2) (row, column) of each token in the grid.
            grid: (rows, columns) of the whole grid.

        Returns:
            (k,) int64 indices into `vectors`, rising, so that kept tokens stay in sequence order.

        Raises:
            InputError: the shapes disagree, a position is outside the grid, or a vector is not finite.
        """
        ...


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


def check_tokens(vectors: Floats, positions: npt.NDArray[np.integer], grid: tuple[int, int]) -> npt.NDArray[np.int64]:
    """Return the positions as int64, or refuse what no pruner can use; only the shape of `vectors` is looked at.

    Raises:
        InputError: the shapes disagree, or a position is outside the grid.
    """
    if vectors.ndim != 2 or positions.shape != (len(vectors), 2):
        raise InputError(f"tokens of shape {vectors.shape} with positions of shape {positions.shape}")
    places = positions.astype(np.int64)
    if ((places < 0) | (places >= np.array(grid))).any():
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
