"""Where the suffixes of several candidates lie in one packed sequence, and who may attend to whom.

A packed sequence is [prefix | suffix 1 | suffix 2 | ...] in a batch of one. The prefix is in the cache; a suffix sees
the prefix and, causally, itself. Nothing is padded and the prefix is not copied. This module knows no model.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import accumulate

import torch


@dataclass(frozen=True)
class Layout:
    """Lengths of the parts of a packed sequence.

    Attributes:
        prefix: tokens in the cache, seen by every suffix; 0 while the prefix itself runs.
        lengths: tokens of each suffix, in order.
    """

    prefix: int
    lengths: tuple[int, ...]

    @property
    def ends(self) -> list[int]:
        """Row of the packed part at which each suffix ends (exclusive)."""
        return list(accumulate(self.lengths))

    def mask(self, device: torch.device | str) -> torch.Tensor:
        """Return the (1, 1, rows, prefix + rows) bool mask, True where a row may attend.

        Its size is quadratic in the packed length, so the caller keeps chunks short.
        """
        rows = sum(self.lengths)
        owner = torch.repeat_interleave(torch.tensor(self.lengths, device=device))  # (rows,) which suffix
        own = (owner[:, None] == owner[None, :]).tril_()
        shared = torch.ones(rows, self.prefix, dtype=torch.bool, device=device)
        return torch.cat([shared, own], dim=1)[None, None]
