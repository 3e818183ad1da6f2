"""From the tokens of a vision tower to one vector per photo.

Each function takes (n, tokens, dim) and computes in float32 whatever the model's number type is, because a mean over
thousands of bfloat16 values would lose most of their digits.
"""

from __future__ import annotations

import torch
from torch import Tensor


def cls_token(tokens: Tensor) -> Tensor:
    """Take the first token, where the tower has put its summary of the photo.

    Args:
        tokens: (n, tokens, dim).

    Returns:
        (n, dim) float32.
    """
    return tokens[:, 0].float()


def mean(tokens: Tensor, mask: Tensor | None = None) -> Tensor:
    """Average the patch tokens.

    Args:
        tokens: (n, tokens, dim), without CLS and register tokens.
        mask: (n, tokens), 1 for a patch and 0 for padding; None: no padding. Each photo has at least one patch.

    Returns:
        (n, dim) float32.
    """
    wide = tokens.float()
    if mask is None:
        return wide.mean(dim=1)
    weights = mask.float().unsqueeze(-1)  # (n, tokens, 1)
    return (wide * weights).sum(dim=1) / weights.sum(dim=1)


def gem(tokens: Tensor, mask: Tensor | None = None, *, p: float = 3.0, floor: float = 1e-6) -> Tensor:
    """Generalized mean: (mean of max(x, floor)^p)^(1/p), between the mean (p = 1) and the maximum (p to infinity).

    Negative values count as `floor`, as in the source, where the features came out of a ReLU. The tokens of a
    transformer have both signs, so half of what they say is dropped; compare with `mean` before choosing it.

    Args:
        tokens: (n, tokens, dim), without CLS and register tokens.
        mask: (n, tokens), 1 for a patch and 0 for padding; None: no padding.
        p: the exponent, at least 1.
        floor: smallest value that enters the mean; floor^p must not underflow in float32.

    Returns:
        (n, dim) float32, at least `floor`.

    Source:
        Radenović, Tolias, Chum 2018, arXiv:1711.02512, equation 3, with p given instead of learned.
    """
    powers = mean(tokens.float().clamp(min=floor).pow(p), mask)
    return powers.pow(1.0 / p)


def is_finite(rows: Tensor) -> Tensor:
    """Tell for each row of (n, dim) whether it holds neither NaN nor infinity: (n,) bool."""
    return torch.isfinite(rows).all(dim=1)
