"""Keeping tokens by chance: what other ways to choose tokens have to beat."""

from __future__ import annotations

import numpy as np

from imgrank.arrays import Floats, crc32
from imgrank.errors import SettingsError
from imgrank.tokens.base import Amount, Groups, Positions, check_tokens


class RandomSampling:
    """Keep tokens drawn uniformly, without regard to what they hold.

    Each image has its own draw: it is seeded by `seed` and the CRC32 of the image's vectors, so that the same image
    keeps the same tokens.
    """

    def __init__(self, amount: Amount, seed: int = 0) -> None:
        """Set how many tokens are kept, and which of many possible draws is made.

        Raises:
            SettingsError: `seed` is below 0.
        """
        if seed < 0:
            raise SettingsError(f"the seed cannot be {seed}; it is at least 0")
        self._amount, self._seed = amount, seed

    def reduce(self, vectors: Floats, positions: Positions, grid: tuple[int, int]) -> Groups:
        """Return the kept tokens; see `Reducer.reduce`. All are kept where there are not more than asked."""
        check_tokens(vectors, positions, grid)
        n = len(vectors)
        k = self._amount.of(n)
        if k >= n:
            return Groups(np.arange(n))
        seed = [self._seed, crc32(np.asarray(vectors, dtype=np.float32))]
        # Raw numbers are the same in every version of numpy, which does not promise that of its ways to draw.
        ranks = np.random.PCG64(seed).random_raw(n).argsort(kind="stable")
        return Groups(np.sort(ranks[:k]))
