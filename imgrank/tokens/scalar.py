"""Codecs that store every number by itself: two half precisions, and 8-bit codes with a scale per vector."""

from __future__ import annotations

from typing import Any

import numpy as np
import numpy.typing as npt

from imgrank.arrays import Floats
from imgrank.tokens.base import Columns, check_vectors

FLOAT16_MAX = 65504.0
_BFLOAT16_MAX = np.float32(255 * 2.0**120)
# The largest scale whose 127-fold is still a finite float32.
_LARGEST_SCALE = np.nextafter(np.float32(np.finfo(np.float32).max / 127), np.float32(0))


class Float16Codec:
    """Half precision: 2 bytes a number, at most 2^-11 of a number's size lost (2^-25 near zero).

    Numbers beyond ±65504 become ±65504, never infinite: one infinite number would make every score of its image
    NaN. Visual tokens are far smaller; `clipped` counts what was not, for a caller that wants to say so.
    """

    name = "float16"

    def columns(self, levels: int, hidden: int) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Return the one column, `values`."""
        return {"values": ("float16", (levels, hidden))}

    def encode(self, vectors: Floats) -> dict[str, npt.NDArray[Any]]:
        """Turn (n, levels, hidden) float32 into half precision; see `Codec.encode`."""
        return {"values": np.clip(check_vectors(vectors), -FLOAT16_MAX, FLOAT16_MAX).astype(np.float16)}

    def decode(self, columns: Columns) -> Floats:
        """Return (n, levels, hidden) float32."""
        return columns["values"].astype(np.float32)

    @staticmethod
    def clipped(vectors: Floats) -> int:
        """Count the numbers that `encode` would change to ±65504."""
        return int(np.count_nonzero(np.abs(vectors) > FLOAT16_MAX))


class BFloat16Codec:
    """The upper half of a float32: 2 bytes a number, at most 2^-8 of a number's size lost (2^-134 near zero).

    Numbers have the range of float32. They are rounded to the nearest that fits, a tie to the even one; what would
    round to infinity, from about 3.396e38, becomes the largest that fits.
    """

    name = "bfloat16"

    def columns(self, levels: int, hidden: int) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Return the one column, `values`: the bits, as neither numpy nor HDF5 has a type for them."""
        return {"values": ("uint16", (levels, hidden))}

    def encode(self, vectors: Floats) -> dict[str, npt.NDArray[Any]]:
        """Turn (n, levels, hidden) float32 into upper halves; see `Codec.encode`."""
        bits = np.clip(check_vectors(vectors), -_BFLOAT16_MAX, _BFLOAT16_MAX).view(np.uint32)
        # Just below a half is added, and the last bit kept, so that only a tie looks at it.
        upper: npt.NDArray[np.uint16] = ((bits + (0x7FFF + ((bits >> 16) & 1))) >> 16).astype(np.uint16)
        return {"values": upper}

    def decode(self, columns: Columns) -> Floats:
        """Return (n, levels, hidden) float32."""
        return (columns["values"].astype(np.uint32) << 16).view(np.float32)


class Int8Codec:
    """Symmetric 8-bit codes: number = code x scale, at most half a scale lost.

    Codes are -127 to 127 (-128 never occurs). Each vector (token and level) has its own scale, its largest
    absolute number over 127, so that one outlying token costs the others nothing; an all-zero vector has scale 1.
    """

    name = "int8"

    def columns(self, levels: int, hidden: int) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Return the columns `codes` and `scales`."""
        return {"codes": ("int8", (levels, hidden)), "scales": ("float32", (levels,))}

    def encode(self, vectors: Floats) -> dict[str, npt.NDArray[Any]]:
        """Turn (n, levels, hidden) float32 into codes and scales; see `Codec.encode`."""
        vectors = check_vectors(vectors)
        # (n, levels); `initial` also covers hidden = 0
        scales = _scales(np.abs(vectors).max(axis=2, initial=0))
        # In float64: a float32 quotient just beside a half could round to the farther code.
        codes = np.rint(vectors / scales.astype(np.float64)[..., None])
        return {"codes": codes.astype(np.int8), "scales": scales}

    def decode(self, columns: Columns) -> Floats:
        """Return (n, levels, hidden) float32."""
        return np.multiply(columns["codes"], columns["scales"][..., None], dtype=np.float32)


def _scales(largest: Floats) -> Floats:
    """Return float32 scales with which the largest absolute numbers get code 127."""
    wide = largest.astype(np.float64) / 127
    scales = np.minimum(wide.astype(np.float32), _LARGEST_SCALE)
    # Where float32 has few bits left (below about 1e-38) a scale rounded down would need codes beyond 127.
    low = (scales < wide) & (scales < np.finfo(np.float32).tiny)
    scales[low] = np.nextafter(scales[low], np.float32(1))
    scales[largest == 0] = 1
    return scales
