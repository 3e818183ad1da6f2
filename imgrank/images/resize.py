"""The few operations on pixels that every model's preprocessing is made of.

Light on purpose (numpy and Pillow): encoders and MLLM adapters import it. Knows nothing of files or models.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from PIL import Image

from imgrank.arrays import Floats, Pixels
from imgrank.errors import InputError, SettingsError

RESAMPLING = {
    "nearest": Image.Resampling.NEAREST,
    "box": Image.Resampling.BOX,
    "bilinear": Image.Resampling.BILINEAR,
    "hamming": Image.Resampling.HAMMING,
    "bicubic": Image.Resampling.BICUBIC,
    "lanczos": Image.Resampling.LANCZOS,
}


def check_pixels(pixels: Pixels, what: str = "the photo") -> None:
    """Refuse an array that is not a photo.

    Args:
        pixels: expected to be (height, width, 3) uint8 with at least one pixel.
        what: it is called in the message.

    Raises:
        InputError: another shape or type, or no pixels.
    """
    if pixels.ndim != 3 or pixels.shape[2] != 3 or pixels.dtype != np.uint8 or 0 in pixels.shape:
        raise InputError(f"{what} is {pixels.dtype} {pixels.shape}; expected uint8 (height, width, 3)")


def fitted_size(width: int, height: int, longer_side: int, *, enlarge: bool = False) -> tuple[int, int]:
    """Return the (width, height) that a photo has once its longer side is `longer_side` pixels.

    The shorter side is rounded half up and is at least 1. Without `enlarge`, a smaller photo keeps its size.

    Raises:
        SettingsError: `longer_side` is below 1.
    """
    if longer_side < 1:
        raise SettingsError(f"the longer side must be at least 1 pixel, not {longer_side}")
    longest = max(width, height)
    if longest == longer_side or (longest < longer_side and not enlarge):
        return width, height

    def scaled(side: int) -> int:
        return max(1, (2 * side * longer_side + longest) // (2 * longest))  # integers: no rounding surprises

    return scaled(width), scaled(height)


def fit_longer_side(pixels: Pixels, longer_side: int, *, enlarge: bool = False) -> Pixels:
    """Resize so that the longer side is `longer_side` pixels, keeping the proportions (Lanczos, antialiased).

    Args:
        pixels: (height, width, 3) uint8.
        longer_side: pixels.
        enlarge: also enlarge smaller photos; otherwise they are returned as they are (the same array).

    Raises:
        SettingsError: `longer_side` is below 1.
    """
    height, width = pixels.shape[:2]
    new_width, new_height = fitted_size(width, height, longer_side, enlarge=enlarge)
    return resize(pixels, new_height, new_width, "lanczos")


def resize(pixels: Pixels, height: int, width: int, resample: str | int = "bicubic") -> Pixels:
    """Resize to exactly height x width with an antialiasing filter: its support grows with the reduction.

    Args:
        pixels: (h, w, 3) uint8.
        height: pixels, at least 1.
        width: pixels, at least 1.
        resample: a key of RESAMPLING, or Pillow's number for it, as the configuration files of image processors
            give it (0 nearest, 1 lanczos, 2 bilinear, 3 bicubic, 4 box, 5 hamming).

    Returns:
        (height, width, 3) uint8; the same array where the size is already right.

    Raises:
        SettingsError: a size below 1, or an unknown filter.
    """
    if height < 1 or width < 1:
        raise SettingsError(f"cannot resize to {width} x {height} pixels; both must be at least 1")
    try:
        chosen = RESAMPLING[resample] if isinstance(resample, str) else Image.Resampling(resample)
    except (KeyError, ValueError) as error:
        raise SettingsError(f"unknown resampling {resample!r}; known: {', '.join(RESAMPLING)}") from error
    if pixels.shape[:2] == (height, width):
        return pixels
    return np.array(Image.fromarray(pixels).resize((width, height), chosen))


def center_crop(pixels: Pixels, height: int, width: int) -> Pixels:
    """Cut height x width pixels out of the middle; an odd margin leaves the extra row or column below or right.

    Args:
        pixels: (h, w, 3) uint8.
        height: at most h.
        width: at most w.

    Returns:
        (height, width, 3) view of `pixels`.

    Raises:
        SettingsError: the crop is empty or larger than the pixels; resize first.
    """
    full_height, full_width = pixels.shape[:2]
    if not (1 <= height <= full_height and 1 <= width <= full_width):
        raise SettingsError(f"cannot crop {width} x {height} out of {full_width} x {full_height} pixels")
    top, left = (full_height - height) // 2, (full_width - width) // 2
    return pixels[top : top + height, left : left + width]


def normalize(pixels: Pixels, mean: Sequence[float], std: Sequence[float], scale: float = 1 / 255) -> Floats:
    """Return (pixels * scale - mean) / std, channels first.

    Args:
        pixels: (height, width, 3) uint8.
        mean: 3 numbers, of the scaled values.
        std: 3 numbers above 0.
        scale: factor from 0..255 to the model's range.

    Returns:
        (3, height, width) float32, contiguous. Each of the 3 x 256 possible values is computed in float64 and
        rounded once.

    Raises:
        SettingsError: not 3 numbers, or a std that is not above 0.
    """
    means, stds = np.asarray(mean, dtype=np.float64), np.asarray(std, dtype=np.float64)
    if means.shape != (3,) or stds.shape != (3,) or not (stds > 0).all():
        raise SettingsError(f"need 3 means and 3 standard deviations above 0, got {mean!r} and {std!r}")
    table = ((np.arange(256) * scale - means[:, None]) / stds[:, None]).astype(np.float32)  # (3, 256)
    normalized = np.empty((3, *pixels.shape[:2]), dtype=np.float32)
    for channel in range(3):
        np.take(table[channel], pixels[..., channel], out=normalized[channel])
    return normalized
