"""The local features of one photo, and the compact columns they are stored as.

The values already lie on the grid of the stored integers, so storing and reading back changes nothing. This module
knows neither how features are found (`keypoints`) nor how they are compared (`geometry`).
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from imgrank.arrays import Floats, unit_rows
from imgrank.errors import InputError

Bytes = npt.NDArray[np.uint8]

DIM = 48  # numbers of a descriptor
ZERO = 128  # the byte that stands for 0 in a descriptor
# Column: (dtype, shape of a row). Every column has one row per feature.
COLUMNS: dict[str, tuple[str, tuple[int, ...]]] = {
    "descriptors": ("uint8", (DIM,)),
    "keypoints": ("uint16", (4,)),
}
_LENGTH_STEPS = 65535  # x, y and size: 1 / 65535 of the photo's longer side
_ANGLE_STEPS = 65536  # of a full turn


@dataclass(frozen=True, eq=False)
class LocalFeatures:
    """n local features, the strongest first.

    Attributes:
        descriptors: (n, DIM) uint8, reduced RootSIFT (`compact`): a byte less ZERO is the number; only the directions
            of the rows matter, not their lengths.
        keypoints: (n, 4) float32: x, y and size in units of the longer side of the photo, 0 to 1, x to the right and
            y down from the top left corner; angle in degrees, 0 <= angle < 360, clockwise as seen on screen.
    """

    descriptors: Bytes
    keypoints: Floats

    def __len__(self) -> int:
        return len(self.descriptors)

    def vectors(self) -> Floats:
        """Return the descriptors as (n, DIM) float32 unit rows, for late interaction."""
        return unit_rows(self.numbers())

    def numbers(self) -> Floats:
        """Return the descriptors as (n, DIM) float32 whole numbers from -128 to 127."""
        return self.descriptors.astype(np.float32) - np.float32(ZERO)

    def to_columns(self) -> dict[str, npt.NDArray[Any]]:
        """Return the columns to store, as COLUMNS describes them."""
        return {"descriptors": self.descriptors, "keypoints": quantize_keypoints(self.keypoints)}

    @classmethod
    def from_columns(cls, columns: Mapping[str, npt.NDArray[Any]]) -> LocalFeatures:
        """Read what `to_columns` gave.

        Raises:
            InputError: a column is missing or has another dtype or shape.
        """
        rows = -1
        for name, (dtype, tail) in COLUMNS.items():
            column = columns.get(name)
            if not isinstance(column, np.ndarray):
                raise InputError(f"local features without the column {name!r}; compute them again")
            if column.dtype != np.dtype(dtype) or column.shape[1:] != tail or column.ndim != 1 + len(tail):
                raise InputError(
                    f"local features: column {name!r} is {column.dtype} {column.shape}, expected {dtype} "
                    f"(n, {', '.join(map(str, tail))}); compute them again"
                )
            if rows not in (-1, len(column)):
                raise InputError(
                    f"local features: column {name!r} has {len(column)} rows, others {rows}; compute them again"
                )
            rows = len(column)
        return cls(columns["descriptors"], dequantize_keypoints(columns["keypoints"]))

    @classmethod
    def empty(cls) -> LocalFeatures:
        """Return the features of a photo that has none."""
        return cls.from_columns({name: np.zeros((0, *tail), dtype) for name, (dtype, tail) in COLUMNS.items()})


def quantize_keypoints(keypoints: Floats) -> npt.NDArray[np.uint16]:
    """Round (n, 4) keypoints to the stored integers; lengths outside 0 to 1 are clipped, angles wrap."""
    wide = np.asarray(keypoints, dtype=np.float64)
    lengths = np.rint(np.clip(wide[:, :3], 0, 1) * _LENGTH_STEPS)
    angles = np.rint(wide[:, 3:] / 360 * _ANGLE_STEPS) % _ANGLE_STEPS
    return np.concatenate([lengths, angles], axis=1).astype(np.uint16)


def dequantize_keypoints(stored: npt.NDArray[np.uint16]) -> Floats:
    """Return the (n, 4) float32 keypoints of stored integers."""
    units = np.array([1 / _LENGTH_STEPS] * 3 + [360 / _ANGLE_STEPS])
    keypoints: Floats = (stored.astype(np.float64) * units).astype(np.float32)
    return keypoints
