"""Where the object of a photo is: a box, or a mask of any shape. A box is a mask that is a rectangle."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from imgrank.errors import InputError

Box = tuple[int, int, int, int]  # (x0, y0, x1, y1) in pixels, half-open: columns x0 to x1 - 1, rows y0 to y1 - 1
Mask = npt.NDArray[np.bool_]  # (height, width), True where the object is
Region = Box | Mask


def locate(region: Region, height: int, width: int) -> tuple[Box, Mask]:
    """Return the smallest box around a region, and which pixels in it are the region's.

    Args:
        region: a box, or a (height, width) bool mask.
        height: of the photo.
        width: of the photo.

    Returns:
        The box, and (y1 - y0, x1 - x0) bool: all True for a box.

    Raises:
        InputError: a box that is empty, not whole pixels or not inside the photo; a mask of another shape or type, or
            without a pixel.
    """
    if isinstance(region, np.ndarray) and region.ndim != 1:
        if region.dtype != np.bool_ or region.shape != (height, width):
            raise InputError(
                f"the mask is {region.dtype} {region.shape}; expected bool {(height, width)}, as the photo"
            )
        rows, columns = (np.flatnonzero(region.any(axis=axis)) for axis in (1, 0))
        if not rows.size:
            raise InputError("the mask is empty: it must have a pixel of the object")
        x0, y0, x1, y1 = int(columns[0]), int(rows[0]), int(columns[-1]) + 1, int(rows[-1]) + 1
        return (x0, y0, x1, y1), region[y0:y1, x0:x1]
    x0, y0, x1, y1 = region
    whole = all(isinstance(side, int | np.integer) for side in (x0, y0, x1, y1))
    if not (whole and 0 <= x0 < x1 <= width and 0 <= y0 < y1 <= height):
        raise InputError(f"box {region}: must be whole pixels x0 < x1, y0 < y1 inside the photo of {width} x {height}")
    return (int(x0), int(y0), int(x1), int(y1)), np.ones((int(y1 - y0), int(x1 - x0)), dtype=np.bool_)
