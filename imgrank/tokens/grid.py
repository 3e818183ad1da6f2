"""Keeping tokens by their place in the grid alone."""

from __future__ import annotations

import numpy as np

from imgrank.arrays import Floats
from imgrank.errors import SettingsError
from imgrank.tokens.base import Groups, Positions, check_tokens


class GridSampling:
    """Keep every `step`-th row and column of the whole grid, from the top left token; a step of 1 keeps all.

    A step of 2 keeps about a quarter. Rows and columns are those of the whole grid, so tokens that were dropped
    before do not shift the sampling; every tile has a grid of its own.
    """

    def __init__(self, step: int = 2) -> None:
        """Set the step.

        Raises:
            SettingsError: `step` is below 1.
        """
        if step < 1:
            raise SettingsError(f"cannot keep every {step}-th row and column; the step is at least 1")
        self._step = step

    def reduce(self, vectors: Floats, positions: Positions, grid: tuple[int, int]) -> Groups:
        """Return the kept tokens; see `Reducer.reduce`. The vectors are not looked at."""
        places = check_tokens(vectors, positions, grid)
        return Groups(np.flatnonzero((places[:, 1:] % self._step == 0).all(axis=1)))
