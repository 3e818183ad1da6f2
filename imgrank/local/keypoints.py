"""From the pixels of a photo to its local features: DoG keypoints, RootSIFT, and the colours around them.

Sources: Lowe 2004 (SIFT); Arandjelovic and Zisserman 2012 (RootSIFT). The colours beside each descriptor are ours:
SIFT sees grey, and packages of one brand often differ in colour alone.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from imgrank.arrays import Floats, Pixels
from imgrank.config import Settings
from imgrank.errors import InputError
from imgrank.images.resize import fit_longer_side
from imgrank.local.features import (
    COLOUR_POINTS,
    LocalFeatures,
    dequantize_keypoints,
    quantize_keypoints,
)

_DESCRIPTOR_SCALE = 512  # the values of a unit RootSIFT vector hardly reach 0.5: a byte holds them
_SMALLEST_SIDE = 8  # pixels; SIFT finds nothing in less
_COLOUR_REACH = 1.5  # places of the outer colours, in keypoint diameters from the centre
_COLOUR_OFFSETS = ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0))
_COLOUR_LEVELS = 5  # pyramid: areas of 1, 2, 4, 8, 16 pixels


@dataclass(frozen=True)
class LocalSettings(Settings):
    """How local features are found. `version` changes with the algorithm: features of two versions do not mix."""

    version: int = 1
    longer_side: int = 480  # pixels; larger photos are reduced, smaller ones stay
    max_features: int = 1000  # found, and aggregated to the global descriptor
    keep: int = 256  # stored, and compared geometrically
    contrast: float = 0.02  # lowest contrast of a keypoint (OpenCV's contrastThreshold)
    edge: float = 10.0  # highest ratio of principal curvatures


def extract(pixels: Pixels, settings: LocalSettings) -> LocalFeatures:
    """Return the `keep` strongest local features of a photo: those that are stored and compared.

    Args:
        pixels: (height, width, 3) uint8 sRGB, any size of at least 1 x 1.
        settings: how they are found.

    Raises:
        InputError: `pixels` has another shape or dtype.
    """
    return detect(pixels, settings).first(settings.keep)


def detect(pixels: Pixels, settings: LocalSettings) -> LocalFeatures:
    """Return up to `max_features` local features of a photo, the strongest first; `extract` keeps the first of them.

    Equal pixels give equal features, to the last bit, whatever number of threads OpenCV uses: features are ordered by
    contrast, then by place.

    Raises:
        InputError: `pixels` has another shape or dtype.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
        raise InputError(
            f"a photo must be (height, width, 3) uint8 with at least one pixel, not {pixels.dtype} {pixels.shape}"
        )
    pixels = np.ascontiguousarray(fit_longer_side(pixels, settings.longer_side))
    if min(pixels.shape[:2]) < _SMALLEST_SIDE:
        return LocalFeatures.empty()
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    sift = cv2.SIFT_create(nfeatures=0, contrastThreshold=settings.contrast, edgeThreshold=settings.edge)
    found = sorted(sift.detect(grey, None), key=_strength)[: settings.max_features]
    if not found:
        return LocalFeatures.empty()
    found, sift_descriptors = sift.compute(grey, found)
    longer = max(pixels.shape[:2])
    rows = np.array([(*point.pt, point.size, point.angle) for point in found], dtype=np.float64)
    stored = quantize_keypoints((rows / [longer, longer, longer, 1]).astype(np.float32))
    keypoints = dequantize_keypoints(stored)
    return LocalFeatures(_root_bytes(sift_descriptors), keypoints, _colours(pixels, rows))


def _strength(point: cv2.KeyPoint) -> tuple[float, ...]:
    return (-point.response, point.pt[0], point.pt[1], point.size, point.angle, point.octave)


def _root_bytes(sift_descriptors: Floats) -> npt.NDArray[np.uint8]:
    """Turn (n, 128) SIFT into RootSIFT (the square root of each after scaling to sum 1), times 512, as bytes."""
    wide = sift_descriptors.astype(np.float64)
    sums = wide.sum(axis=1, keepdims=True)
    rooted = np.sqrt(wide / np.where(sums > 0, sums, 1)) * _DESCRIPTOR_SCALE
    return np.rint(np.clip(rooted, 0, 255)).astype(np.uint8)


def _colours(pixels: Pixels, keypoints: npt.NDArray[np.float64]) -> npt.NDArray[np.uint8]:
    """Return the (n, 3 * COLOUR_POINTS) Lab colours at and around keypoints (n, 4) given in pixels and degrees."""
    levels = [cv2.cvtColor(pixels, cv2.COLOR_RGB2LAB)]
    while len(levels) < _COLOUR_LEVELS and min(levels[-1].shape[:2]) >= 2 * _SMALLEST_SIDE:
        levels.append(cv2.pyrDown(levels[-1]))
    x, y, size, degrees = keypoints.T
    level = np.clip(np.rint(np.log2(np.maximum(size / 2, 1))), 0, len(levels) - 1).astype(np.intp)
    cosine, sine = np.cos(np.deg2rad(degrees)), np.sin(np.deg2rad(degrees))
    colours = np.zeros((len(keypoints), COLOUR_POINTS, 3), dtype=np.uint8)
    for number, (u, v) in enumerate(_COLOUR_OFFSETS):
        place_x = x + _COLOUR_REACH * size * (u * cosine - v * sine)
        place_y = y + _COLOUR_REACH * size * (u * sine + v * cosine)
        for index, image in enumerate(levels):
            here = level == index
            height, width = image.shape[:2]
            columns = np.clip(np.rint(place_x[here] / 2**index), 0, width - 1).astype(np.intp)
            rows = np.clip(np.rint(place_y[here] / 2**index), 0, height - 1).astype(np.intp)
            colours[here, number] = image[rows, columns]
    return colours.reshape(len(keypoints), -1)
