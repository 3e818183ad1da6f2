"""Photos to the square tiles that a vision tower of fixed size receives.

Knows sizes and numbers, no weights; imports no torch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from imgrank.arrays import Floats, Pixels
from imgrank.errors import SettingsError
from imgrank.images.resize import RESAMPLING, normalize, resize
from imgrank.mllm.folder import ModelFolder

_MAX_SIDE = 4096  # pixels; the largest known is 980


@dataclass(frozen=True)
class TileSettings:
    """Numbers of a vision tower's input.

    Attributes:
        side: pixels per tile side.
        mean: of each channel, after scaling.
        std: of each channel.
        scale: factor from 0..255 to the model's range.
        resample: Pillow's number of the filter.
    """

    side: int
    mean: tuple[float, float, float]
    std: tuple[float, float, float]
    scale: float
    resample: int

    def to_json(self) -> dict[str, Any]:
        """Return the numbers as JSON values."""
        return {
            "tile_side": self.side,
            "mean": list(self.mean),
            "std": list(self.std),
            "scale": self.scale,
            "resample": self.resample,
        }


def tile_settings(folder: ModelFolder) -> TileSettings:
    """Take the numbers of the vision tower's input from a folder's image processor.

    Raises:
        SettingsError: a number is missing or unusable, or photos are to be prepared in another way.
    """
    values = folder.image_processor
    where = f"model {folder.name!r}: preprocessor_config.json"
    for step in ("do_resize", "do_rescale", "do_normalize"):
        if values.get(step) is False:
            raise SettingsError(f"{where} turns off {step}, which is not supported")
    if values.get("do_center_crop"):
        raise SettingsError(f"{where} turns on do_center_crop, which is not supported")
    try:
        height, width = int(values["size"]["height"]), int(values["size"]["width"])
        numbers = TileSettings(
            side=height,
            mean=_three(values["image_mean"]),
            std=_three(values["image_std"]),
            scale=float(values.get("rescale_factor") or 1 / 255),
            resample=int(RESAMPLING["bicubic"] if values.get("resample") is None else values["resample"]),
        )
    except (KeyError, TypeError, ValueError) as error:
        raise SettingsError(f"{where} is unusable: {error!r}") from error
    if height != width or not 1 <= height <= _MAX_SIDE:
        raise SettingsError(f"{where} has tiles of {width} x {height} pixels; they must be square, up to {_MAX_SIDE}")
    if min(*numbers.std, numbers.scale) <= 0 or not np.isfinite([*numbers.mean, *numbers.std, numbers.scale]).all():
        raise SettingsError(f"{where} holds a scale or standard deviation that is not positive, or no number")
    if numbers.resample not in RESAMPLING.values():
        raise SettingsError(f"{where} names an unknown resampling filter, {numbers.resample}")
    return numbers


def tile_grid(height: int, width: int, *, side: int, most: int) -> tuple[int, int]:
    """Choose the (rows, columns) of tiles for a photo: those whose columns / rows is nearest to its width / height.

    InternVL's way (arXiv:2404.16821), but for one thing: it enlarges any photo to the best grid of `most` tiles, a
    photo of 4 x 3 to 12 of them, and here the grid never has more pixels than the photo, since enlarging costs tokens
    and adds no detail. Of grids equally near, the one with most tiles is taken, then the widest.

    Args:
        height: pixels.
        width: pixels.
        side: pixels per tile side.
        most: tiles; below 1 it counts as 1.
    """
    most = max(1, min(most, height * width // side**2))
    grids = [(rows, columns) for rows in range(1, most + 1) for columns in range(1, most // rows + 1)]

    def preference(grid: tuple[int, int]) -> tuple[float, int, int]:
        rows, columns = grid
        return abs(width / height - columns / rows), -rows * columns, -columns

    return min(grids, key=preference)


def cut(image: Pixels, rows: int, columns: int, settings: TileSettings) -> Floats:
    """Resize a photo to a grid of tiles and cut it; of more than one tile, the whole photo comes last as one more.

    The photo is stretched to the grid's proportions, as the models that are given tiles were trained.

    Returns:
        (tiles, 3, side, side) float32, normalized; tiles run row by row.
    """
    side = settings.side
    resized = resize(image, rows * side, columns * side, settings.resample)
    tiles = resized.reshape(rows, side, columns, side, 3).swapaxes(1, 2).reshape(-1, side, side, 3)
    if len(tiles) > 1:
        tiles = np.concatenate([tiles, resize(image, side, side, settings.resample)[None]])
    return np.stack([normalize(tile, settings.mean, settings.std, settings.scale) for tile in tiles])


def pad_to_square(image: Pixels, settings: TileSettings) -> Pixels:
    """Put a photo in the middle of a square of the mean colour; an odd margin leaves more below or right."""
    height, width = image.shape[:2]
    longest = max(height, width)
    square = np.empty((longest, longest, 3), dtype=np.uint8)
    square[:] = [int(mean * 255) for mean in settings.mean]
    top, left = (longest - height) // 2, (longest - width) // 2
    square[top : top + height, left : left + width] = image
    return square


def _three(values: Sequence[float]) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in values)
    return red, green, blue
