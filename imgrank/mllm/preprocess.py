"""Photos to the patches that a vision tower with a free grid receives (Qwen2-VL's way, arXiv:2409.12191).

Knows sizes and numbers, no weights. Imports torch only where there are pixels: `imgrank models` counts tokens without
it.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from imgrank.arrays import Pixels
from imgrank.errors import SettingsError
from imgrank.images.resize import check_pixels, normalize, resize

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class PatchSettings:
    """Numbers of a vision tower's input.

    Attributes:
        patch: pixels per patch side.
        merge: patches per token side.
        frames: times a still image is repeated (the temporal patch size of a video model).
        mean: of each channel, after division by 255.
        std: of each channel.
        min_pixels: photos below so many pixels are enlarged to it, as the model's own preparation does.
    """

    patch: int
    merge: int
    frames: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    min_pixels: int

    @property
    def token_side(self) -> int:
        """Pixels per token side."""
        return self.patch * self.merge


class TokenSize(Protocol):
    """How large a token is, and a photo at least."""

    @property
    def token_side(self) -> int:
        """Pixels per token side."""

    @property
    def min_pixels(self) -> int:
        """Smaller photos are enlarged to so many pixels."""


def token_grid(height: int, width: int, *, longer_side: int, max_tokens: int, settings: TokenSize) -> tuple[int, int]:
    """Choose the (rows, columns) of tokens for a photo.

    The longer side is reduced to `longer_side` and never enlarged to it (a departure from arXiv:2604.13268, which
    resizes every photo: enlarging costs tokens and adds no detail); only photos below the model's own minimum are
    enlarged. Each side is rounded to whole tokens; where that exceeds `max_tokens`, both sides shrink by the same
    factor, rounded down.

    Raises:
        SettingsError: `longer_side` or `max_tokens` is below 1.
    """
    if longer_side < 1 or max_tokens < 1:
        raise SettingsError(f"longer side ({longer_side} pixels) and visual tokens ({max_tokens}) must be at least 1")
    side = settings.token_side
    scale = min(1.0, longer_side / max(height, width))
    scale = max(scale, min(math.sqrt(settings.min_pixels / (height * width)), longer_side / max(height, width)))
    rows = max(1, round(height * scale / side))
    columns = max(1, round(width * scale / side))
    if rows * columns > max_tokens:
        scale = math.sqrt(max_tokens * side * side / (height * width))
        rows = min(max(1, math.floor(height * scale / side)), max_tokens)
        columns = min(max(1, math.floor(width * scale / side)), max_tokens // rows)
    return rows, columns


def patches(image: Pixels, rows: int, columns: int, settings: PatchSettings) -> torch.Tensor:
    """Resize a photo to a grid of tokens and cut it into normalized patches.

    Returns:
        (rows * columns * merge**2, 3 * frames * patch**2) float32; the patches of one token are neighbours, tokens
        run row by row.

    Raises:
        InputError: not a (height, width, 3) uint8 array with pixels in it.
    """
    import torch

    check_pixels(image)
    patch, merge = settings.patch, settings.merge
    resized = resize(image, rows * settings.token_side, columns * settings.token_side, "bicubic")
    pixels = torch.from_numpy(normalize(resized, settings.mean, settings.std))  # (3, height, width)
    blocks = pixels.reshape(3, rows, merge, patch, columns, merge, patch)
    blocks = blocks.permute(1, 4, 2, 5, 0, 3, 6)  # (rows, columns, merge, merge, 3, patch, patch)
    blocks = blocks.unsqueeze(5).expand(*blocks.shape[:5], settings.frames, patch, patch)
    return blocks.reshape(rows * columns * merge * merge, 3 * settings.frames * patch * patch)
