"""What perturbations are made of: pasting, filling and sampling pixels."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from imgrank.arrays import Floats, Pixels
from imgrank.images.resize import resize

Box = tuple[int, int, int, int]  # (x0, y0, x1, y1) in pixels, half-open: columns x0 to x1 - 1, rows y0 to y1 - 1

_BORDER, _STRETCH = 8, 24  # pixels, of what fills a cleared box


def rounded(values: npt.ArrayLike) -> Pixels:
    """Round numbers to uint8, halves to the even; those beyond 0 to 255 become 0 or 255."""
    return np.clip(np.rint(values), 0, 255).astype(np.uint8)


def mean_colour(pixels: Pixels) -> npt.NDArray[np.float64]:
    """Return (3,) float64 in [0, 255]."""
    return np.asarray(pixels.mean(axis=(0, 1), dtype=np.float64))


def blank(height: int, width: int, pixels: Pixels) -> Pixels:
    """Return an empty canvas of a photo's mean colour."""
    return np.tile(rounded(mean_colour(pixels)), (height, width, 1))


def paste(canvas: Pixels, patch: Pixels, top: int, left: int) -> None:
    """Put a patch on a canvas, in place; what stands over its edges is cut."""
    target = canvas[max(top, 0) : top + patch.shape[0], max(left, 0) : left + patch.shape[1]]
    target[:] = patch[max(-top, 0) :, max(-left, 0) :][: target.shape[0], : target.shape[1]]


def cleared(pixels: Pixels, box: Box) -> Pixels:
    """Return a copy whose box is filled from what borders it, the nearer sides counting more."""
    x0, y0, x1, y1 = box
    y, x = np.arange(y0, y1)[:, None, None], np.arange(x0, x1)[None, :, None]
    borders = [  # with the distance of each pixel in the box
        (_smooth(pixels[max(y0 - _BORDER, 0) : y0, x0:x1], 1, x1 - x0), y - (y0 - 1)),
        (_smooth(pixels[y1 : y1 + _BORDER, x0:x1], 1, x1 - x0), y1 - y),
        (_smooth(pixels[y0:y1, max(x0 - _BORDER, 0) : x0], y1 - y0, 1), x - (x0 - 1)),
        (_smooth(pixels[y0:y1, x1 : x1 + _BORDER], y1 - y0, 1), x1 - x),
    ]
    present = [(border / distance, 1 / distance) for border, distance in borders if border.size]
    filled = pixels.copy()
    filled[y0:y1, x0:x1] = rounded(sum(value for value, _ in present) / sum(weight for _, weight in present))
    return filled


def _smooth(border: Pixels, height: int, width: int) -> Pixels:
    """Average a border across, and along in short stretches: single pixels would be drawn out to long streaks."""
    if not border.size:
        return border
    return resize(resize(border, -(-height // _STRETCH), -(-width // _STRETCH), "box"), height, width, "bilinear")


def bilinear(values: Floats, y: npt.NDArray[np.float64], x: npt.NDArray[np.float64]) -> Floats:
    """Return (h, w, c) float32: (rows, columns, c) values at (h, w) places; those outside are moved to the edge."""
    rows, columns = values.shape[:2]
    y, x = np.clip(y, 0, rows - 1), np.clip(x, 0, columns - 1)
    top, left = np.minimum(y.astype(np.intp), rows - 2), np.minimum(x.astype(np.intp), columns - 2)
    down, right = (y - top).astype(np.float32)[..., None], (x - left).astype(np.float32)[..., None]
    upper = values[top, left] * (1 - right) + values[top, left + 1] * right
    lower = values[top + 1, left] * (1 - right) + values[top + 1, left + 1] * right
    return np.asarray(upper * (1 - down) + lower * down)
