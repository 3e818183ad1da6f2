"""Averaging small groups of tokens that look alike, wherever they are."""

from __future__ import annotations

import numpy as np

from imgrank.arrays import Floats
from imgrank.errors import SettingsError
from imgrank.tokens.averages import averaged
from imgrank.tokens.base import Groups, Positions, check_tokens
from imgrank.tokens.cosines import cosines


class GreedyMerging:
    """Average groups of `size` tokens: the first token without a group takes the most similar others without one.

    Similarity is the cosine; equal ones go to the lowest index. All groups have `size` tokens but the last, which
    has what is left. A group stands at its member nearest to the mean (see `averaged`). A size of 1 keeps all.
    """

    def __init__(self, size: int = 4) -> None:
        """Set the tokens of a group.

        Raises:
            SettingsError: `size` is below 1.
        """
        if size < 1:
            raise SettingsError(f"cannot average groups of {size} tokens; the size is at least 1")
        self._size = size

    def reduce(self, vectors: Floats, positions: Positions, grid: tuple[int, int]) -> Groups:
        """Return the groups; see `Reducer.reduce`."""
        check_tokens(vectors, positions, grid)
        n = len(vectors)
        if n <= 1 or self._size == 1:
            return Groups(np.arange(n))
        similarities = cosines(vectors)
        leaders = np.full(n, -1)  # of each token, the token that took it into its group
        for leader in range(n):
            if leaders[leader] < 0:
                leaders[leader] = leader
                others = np.flatnonzero(leaders < 0)
                ranked = np.argsort(-similarities[leader, others], kind="stable")
                leaders[others[ranked[: self._size - 1]]] = leader
        return averaged(vectors, leaders)
