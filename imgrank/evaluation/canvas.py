"""What perturbations are made of: pasting, filling and sampling pixels."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from imgrank.arrays import Floats, Pixels
from imgrank.evaluation.region import Box, Mask
from imgrank.images.resize import resize

_BORDER, _STRETCH = 8, 24  # pixels, of what fills a cleared place


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


def cleared(pixels: Pixels, box: Box, hole: Mask) -> Pixels:
    """Return a copy with a hole that is filled from what surrounds it, what is nearer counting more.

    Args:
        pixels: (height, width, 3) uint8, of which something is not the hole.
        box: around the hole.
        hole: (y1 - y0, x1 - x0) bool, the pixels of the box that are filled; no others change.
    """
    x0, y0, x1, y1 = box
    filled = pixels.copy()
    if hole.all():  # has straight borders, whose structure can be drawn in
        filled[y0:y1, x0:x1] = _from_four_sides(pixels, box)
        return filled
    top, left = max(y0 - _BORDER, 0), max(x0 - _BORDER, 0)
    around = pixels[top : y1 + _BORDER, left : x1 + _BORDER].astype(np.float32)
    known = np.ones(around.shape[:2], dtype=np.float32)
    known[y0 - top : y1 - top, x0 - left : x1 - left][hole] = 0
    values = _coarse_to_fine(around, known)[y0 - top : y1 - top, x0 - left : x1 - left]
    filled[y0:y1, x0:x1][hole] = rounded(values[hole])
    return filled


def _from_four_sides(pixels: Pixels, box: Box) -> Pixels:
    x0, y0, x1, y1 = box
    y, x = np.arange(y0, y1)[:, None, None], np.arange(x0, x1)[None, :, None]
    borders = [  # with the distance of each pixel in the box
        (_smooth(pixels[max(y0 - _BORDER, 0) : y0, x0:x1], 1, x1 - x0), y - (y0 - 1)),
        (_smooth(pixels[y1 : y1 + _BORDER, x0:x1], 1, x1 - x0), y1 - y),
        (_smooth(pixels[y0:y1, max(x0 - _BORDER, 0) : x0], y1 - y0, 1), x - (x0 - 1)),
        (_smooth(pixels[y0:y1, x1 : x1 + _BORDER], y1 - y0, 1), x1 - x),
    ]
    present = [(border / distance, 1 / distance) for border, distance in borders if border.size]
    return rounded(sum(value for value, _ in present) / sum(weight for _, weight in present))


def _coarse_to_fine(values: Floats, known: Floats) -> Floats:
    """Fill in what is not known from the same picture at half the size, filled likewise.

    The pull and push of Gortler et al., The Lumigraph, SIGGRAPH 1996.

    Args:
        values: (h, w, 3) float32.
        known: (h, w) float32 in [0, 1], the weights of the values; at least one is above 0.

    Returns:
        (h, w, 3) float32, the values where their weight is 1.
    """
    if known.all():
        return values
    height, width = known.shape
    even = ((0, height % 2), (0, width % 2))
    blocks = (-(-height // 2), 2, -(-width // 2), 2)
    weights = np.pad(known, even).reshape(blocks).sum(axis=(1, 3))
    sums = np.pad(values * known[..., None], (*even, (0, 0))).reshape((*blocks, 3)).sum(axis=(1, 3))
    coarse = sums / np.where(weights > 0, weights, 1)[..., None]
    below = _coarse_to_fine(coarse, np.minimum(weights, 1))
    y, x = np.meshgrid((np.arange(height) - 0.5) / 2, (np.arange(width) - 0.5) / 2, indexing="ij")
    share = known[..., None]
    return np.asarray(share * values + (1 - share) * bilinear(below, y, x))


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
