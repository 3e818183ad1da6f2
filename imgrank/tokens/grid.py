"""Keeping tokens by their place in the grid alone."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from imgrank.arrays import Floats, Ids
from imgrank.errors import SettingsError
from imgrank.tokens.base import check_tokens


class GridSampling:
    """Keep every `step`-th row and column of the whole grid, from the top left token; a step of 1 keeps all.

    A step of 2 keeps about a quarter. Rows and columns are those of the whole grid, so tokens that were dropped
    before do not shift the sampling.
    """

    def __init__(self, step: int = 2) -> None:
        """Set the step.

        Raises:
            SettingsError: `step` is below 1.
        """
        if step < 1:
            raise SettingsError(f"cannot keep every {step}-th row and column; the step is at least 1")
        self._step = step

    def keep(self, vectors: Floats, positions: npt.NDArray[np.integer], grid: tuple[int, int]) -> Ids:
        """Return the kept tokens, rising; see `Pruner.keep`. The vectors are not looked at."""
        places = check_tokens(vectors, positions, grid)
        return np.flatnonzero((places % self._step == 0).all(axis=1))
