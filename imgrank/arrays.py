"""Array types and the few numpy operations that every stage shares."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

try:  # ten times as fast as zlib's: checking tokens would take as long as reading them
    from zlib_ng import zlib_ng as zlib
except ImportError:  # no wheel for this machine
    import zlib  # type: ignore[no-redef]

crc32_of_bytes = zlib.crc32

Floats = npt.NDArray[np.float32]
Pixels = npt.NDArray[np.uint8]  # (height, width, 3), sRGB, after the EXIF turn
Ids = npt.NDArray[np.int64]


def unit_rows(rows: npt.ArrayLike) -> Floats:
    """Scale each row to Euclidean length 1; an all-zero row stays zero.

    Args:
        rows: (n, dim) numbers.

    Returns:
        (n, dim) float32. The norm is taken in float64, so equal rows give equal bits whatever their scale.
    """
    wide = np.asarray(rows, dtype=np.float64)
    norms = np.linalg.norm(wide, axis=-1, keepdims=True)
    return (wide / np.where(norms > 0, norms, 1.0)).astype(np.float32)


def offsets_of(lengths: npt.ArrayLike) -> npt.NDArray[np.uint64]:
    """Turn the lengths of n ragged rows into n + 1 offsets: row i is [offsets[i], offsets[i + 1])."""
    lengths = np.asarray(lengths, dtype=np.uint64)
    offsets = np.zeros(len(lengths) + 1, dtype=np.uint64)
    np.cumsum(lengths, out=offsets[1:])
    return offsets


def crc32(array: npt.NDArray[Any], value: int = 0) -> int:
    """Return the CRC32 of an array's bytes in C order, continued from `value`."""
    return crc32_of_bytes(np.ascontiguousarray(array).reshape(-1).view(np.uint8).data, value)
