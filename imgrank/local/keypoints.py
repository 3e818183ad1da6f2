"""From the pixels of a photo to its keypoints: DoG extrema, RootSIFT, and the colours around them.

`detect` gives everything that is found, which the global descriptor is made of; `extract` the smaller part that is
stored and compared geometrically.

Sources: Lowe 2004 (SIFT); Arandjelovic and Zisserman 2012 (RootSIFT). The colours beside each descriptor are ours:
SIFT sees grey, and packages of one brand often differ in colour alone.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from imgrank.arrays import Floats, Pixels
from imgrank.config import Settings
from imgrank.errors import InputError
from imgrank.images.resize import fit_longer_side
from imgrank.local.compact import shipped_reduction
from imgrank.local.features import LocalFeatures, dequantize_keypoints, quantize_keypoints

COLOUR_POINTS = 5  # centre of the keypoint and four places around it
_DESCRIPTOR_SCALE = 512  # the values of a unit RootSIFT vector hardly reach 0.5: a byte holds them
_KEPT_SPREAD = 0.35  # of the kept keypoints around the middle, in units of the longer side
_SMALLEST_SIDE = 8  # pixels; SIFT finds nothing in less
_COLOUR_REACH = 1.5  # places of the outer colours, in keypoint diameters from the centre
_COLOUR_OFFSETS = ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (-1.0, 0.0), (0.0, -1.0))
_COLOUR_LEVELS = 5  # pyramid: areas of 1, 2, 4, 8, 16 pixels


@dataclass(frozen=True)
class LocalSettings(Settings):
    """How local features are found. `version` changes with the algorithm: features of two versions do not mix."""

    version: int = 1
    longer_side: int = 512  # pixels; larger photos are reduced, smaller ones stay
    max_features: int = 1500  # found, and aggregated to the global descriptor
    keep: int = 700  # stored, and compared geometrically
    contrast: float = 0.01  # lowest contrast of a keypoint (OpenCV's contrastThreshold)
    edge: float = 10.0  # highest ratio of principal curvatures


@dataclass(frozen=True, eq=False)
class Keypoints:
    """All n keypoints found in a photo, those of the highest contrast first.

    Attributes:
        root_sift: (n, 128) uint8, RootSIFT times 512.
        places: (n, 4) float32: x, y, size, angle as in `LocalFeatures.keypoints`, on the grid they are stored on.
        colours: (n, 3 * COLOUR_POINTS) uint8: L, a, b (OpenCV's 8-bit CIELAB) at the centre and at four places around
            it that turn and grow with the keypoint.
        extent: width and height of the photo, in units of its longer side.
    """

    root_sift: npt.NDArray[np.uint8]
    places: Floats
    colours: npt.NDArray[np.uint8]
    extent: tuple[float, float]

    def __len__(self) -> int:
        return len(self.places)

    def squared_eccentricity(self) -> Floats:
        """Return the (n,) float32 squared distances from the middle of the photo, in units of its longer side."""
        offsets = self.places[:, :2] - np.array(self.extent, dtype=np.float32) / 2
        squares: Floats = (offsets * offsets).sum(axis=1)
        return squares


def extract(pixels: Pixels, settings: LocalSettings) -> LocalFeatures:
    """Return the local features of a photo that are stored and compared.

    Args:
        pixels: (height, width, 3) uint8 sRGB, any size of at least 1 x 1.
        settings: how they are found.

    Raises:
        InputError: `pixels` has another shape or dtype.
        MissingModelError: the weights of the reduction are missing from the installation.
    """
    return kept(detect(pixels, settings), settings)


def kept(keypoints: Keypoints, settings: LocalSettings) -> LocalFeatures:
    """Choose `keep` of the keypoints of a photo and reduce their descriptors."""
    rows = chosen(keypoints, settings.keep)
    return LocalFeatures(shipped_reduction().to_bytes(keypoints.root_sift[rows]), keypoints.places[rows])


def chosen(keypoints: Keypoints, count: int) -> npt.NDArray[np.intp]:
    """Return which `count` keypoints to keep, in ascending order.

    High contrast and a place near the middle count: what a photo was taken for is seldom in its corners.
    """
    return np.sort(np.argsort(choice_cost(keypoints), kind="stable")[:count])


def choice_cost(keypoints: Keypoints) -> npt.NDArray[np.float64]:
    """Return the (n,) costs by which keypoints are chosen, lowest first."""
    ranks = np.arange(1, len(keypoints) + 1)
    cost: npt.NDArray[np.float64] = np.log(ranks) + keypoints.squared_eccentricity() / (2 * _KEPT_SPREAD**2)
    return cost


def detect(pixels: Pixels, settings: LocalSettings) -> Keypoints:
    """Find up to `max_features` keypoints of a photo.

    Equal pixels give equal keypoints, to the last bit, whatever number of threads OpenCV uses: they are ordered by
    contrast, then by place.

    Raises:
        InputError: `pixels` has another shape or dtype.
    """
    if pixels.dtype != np.uint8 or pixels.ndim != 3 or pixels.shape[2] != 3 or 0 in pixels.shape:
        raise InputError(
            f"a photo must be (height, width, 3) uint8 with at least one pixel, not {pixels.dtype} {pixels.shape}"
        )
    pixels = np.ascontiguousarray(fit_longer_side(pixels, settings.longer_side))
    height, width = pixels.shape[:2]
    extent = (width / max(height, width), height / max(height, width))
    grey = cv2.cvtColor(pixels, cv2.COLOR_RGB2GRAY)
    sift = cv2.SIFT.create(nfeatures=0, contrastThreshold=settings.contrast, edgeThreshold=settings.edge)
    large_enough = min(height, width) >= _SMALLEST_SIDE
    found = sorted(sift.detect(grey, None), key=_strength)[: settings.max_features] if large_enough else []
    if not found:
        return Keypoints(
            np.zeros((0, 128), dtype=np.uint8),
            np.zeros((0, 4), dtype=np.float32),
            np.zeros((0, 3 * COLOUR_POINTS), dtype=np.uint8),
            extent,
        )
    found, descriptors = sift.compute(grey, found)
    rows = np.array([(*point.pt, point.size, point.angle) for point in found], dtype=np.float64)
    longer = max(height, width)
    places = dequantize_keypoints(quantize_keypoints((rows / [longer, longer, longer, 1]).astype(np.float32)))
    return Keypoints(_root_bytes(descriptors), places, _colours(pixels, rows), extent)


def available_threads() -> int:
    """Return in how many threads to look for the keypoints of several photos."""
    return min(os.cpu_count() or 1, 8)


def use_one_thread() -> None:
    """Leave the other cores to other processes; changes no keypoint."""
    cv2.setNumThreads(1)


def _strength(point: cv2.KeyPoint) -> tuple[float, ...]:
    return (-point.response, point.pt[0], point.pt[1], point.size, point.angle, point.octave)


def _root_bytes(sift_descriptors: Floats) -> npt.NDArray[np.uint8]:
    """Turn (n, 128) SIFT into RootSIFT (the square root of each after scaling to sum 1), times 512, as bytes."""
    wide = sift_descriptors.astype(np.float64)
    sums = wide.sum(axis=1, keepdims=True)
    rooted = np.sqrt(wide / np.where(sums > 0, sums, 1)) * _DESCRIPTOR_SCALE
    rounded: npt.NDArray[np.uint8] = np.rint(np.clip(rooted, 0, 255)).astype(np.uint8)
    return rounded


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
