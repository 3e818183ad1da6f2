"""Averaging blocks of neighbouring tokens."""

from __future__ import annotations

import numpy as np

from imgrank.arrays import Floats
from imgrank.errors import SettingsError
from imgrank.tokens.base import Groups, Positions, check_tokens


class Pooling:
    """Average each block of `step` x `step` tokens of a tile's grid, counted from its top left; a step of 1 keeps all.

    A block takes the place of its first token in the sequence. Blocks at the right and the lower edge can be smaller,
    and blocks of which tokens were dropped before are averages of the others.
    """

    def __init__(self, step: int = 2) -> None:
        """Set the side of a block, tokens.

        Raises:
            SettingsError: `step` is below 1.
        """
        if step < 1:
            raise SettingsError(f"cannot average blocks of {step} x {step} tokens; the step is at least 1")
        self._step = step

    def reduce(self, vectors: Floats, positions: Positions, grid: tuple[int, int]) -> Groups:
        """Return one group per block that holds a token; see `Reducer.reduce`. The vectors are not looked at."""
        tile, row, column = check_tokens(vectors, positions, grid).T
        blocks = np.stack([tile, row // self._step, column // self._step], axis=1)
        _, first, inverse = np.unique(blocks, axis=0, return_index=True, return_inverse=True)
        if len(first) == len(vectors):
            return Groups(np.arange(len(vectors)))
        in_sequence = np.argsort(first)
        return Groups(first[in_sequence], np.argsort(in_sequence)[inverse.reshape(-1)])
