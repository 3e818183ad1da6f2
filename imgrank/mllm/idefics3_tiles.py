"""Photos to the square tiles that the vision tower of Idefics3 and SmolVLM receives (arXiv:2408.12637).

Knows sizes and numbers, no weights. Imports torch only where there are pixels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from imgrank.arrays import Pixels
from imgrank.errors import SettingsError
from imgrank.images.resize import RESAMPLING, check_pixels, normalize, resize
from imgrank.mllm.folder import ModelFolder

if TYPE_CHECKING:
    import torch

_LARGEST = 4096  # pixels: the family never makes a side longer


@dataclass(frozen=True)
class TileSettings:
    """Numbers of a vision tower's input.

    Attributes:
        side: pixels per tile side; even, because the family rounds the shorter side of a photo to even numbers.
        patch: pixels per patch side; what is left over at the right and below is not seen.
        merge: patches per token side.
        longest_edge: pixels of the longer side at which the model was meant to see a photo.
        splits: whether photos are cut at all.
        resample: Pillow's number of the filter.
        scale: factor from 0..255 to the range of mean and std.
        mean: of each channel.
        std: of each channel.
    """

    side: int
    patch: int
    merge: int
    longest_edge: int
    splits: bool
    resample: int
    scale: float
    mean: tuple[float, float, float]
    std: tuple[float, float, float]

    @property
    def token_rows(self) -> int:
        """Rows, and columns, of tokens in a tile."""
        return self.side // self.patch // self.merge

    @property
    def most(self) -> int:
        """Tiles along the longer side, at most."""
        return max(1, min(self.longest_edge, _LARGEST) // self.side) if self.splits else 1


def tile_settings(folder: ModelFolder, config: Any) -> TileSettings:
    """Take the numbers from a folder's image processor and the model's configuration.

    Raises:
        SettingsError: a number is missing or unusable, or photos are prepared in a way that is not supported.
    """
    values = folder.image_processor
    where = f"model {folder.name!r}: preprocessor_config.json"
    for step in ("do_resize", "do_rescale", "do_normalize"):
        if not values.get(step, True):
            raise SettingsError(f"{where} turns {step} off, which is not supported")
    try:
        numbers = TileSettings(
            side=int(values["max_image_size"]["longest_edge"]),
            patch=int(config.vision_config.patch_size),
            merge=int(config.scale_factor),
            longest_edge=int(values["size"]["longest_edge"]),
            splits=bool(values.get("do_image_splitting", True)),
            resample=int(values.get("resample", RESAMPLING["lanczos"])),
            scale=float(values.get("rescale_factor", 1 / 255)),
            mean=_three(values["image_mean"]),
            std=_three(values["image_std"]),
        )
        places = int(config.vision_config.image_size) // numbers.patch
    except (KeyError, TypeError, ValueError, AttributeError, ArithmeticError) as error:
        raise SettingsError(f"{where} or config.json is unusable: {error!r}") from error
    sizes = (numbers.side, numbers.patch, places, numbers.merge, numbers.longest_edge, numbers.scale)
    if min(*sizes, *numbers.std) <= 0:
        raise SettingsError(f"{where} holds a size that is not positive")
    if numbers.resample not in RESAMPLING.values():
        raise SettingsError(f"{where}: unknown resampling {numbers.resample}")
    patches = numbers.side // numbers.patch
    if numbers.side > _LARGEST or numbers.side % 2 or patches < numbers.merge or patches % numbers.merge:
        raise SettingsError(
            f"{where}: tiles of {numbers.side} pixels ({patches} patches a side, {numbers.merge} to a token) are not "
            f"supported: the pixels must be even and at most {_LARGEST}, the patches a multiple of {numbers.merge}"
        )
    return numbers


def _three(values: Sequence[float]) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in values)
    return red, green, blue


def tile_grid(height: int, width: int, *, longer_side: int, max_tokens: int, settings: TileSettings) -> tuple[int, int]:
    """Choose the (rows, columns) of tiles for a photo; (1, 1) is a photo that is not cut.

    The longer side becomes a whole number of tiles: as many as fit into `longer_side`, but no more than the photo's
    own pixels fill when rounded, and at least one. The family itself enlarges every photo to `longest_edge`, which
    costs tokens and adds no detail; here none is enlarged by more than a third but those smaller than a tile. The
    shorter side follows the proportions and is stretched to whole tiles, as the family does. Where tiles and the tile
    of the whole photo have more than `max_tokens` tokens, the longer side loses tiles until they fit.

    Raises:
        SettingsError: `longer_side` is below 1, or `max_tokens` below the tokens of one tile.
    """
    tile_tokens = settings.token_rows**2
    if longer_side < 1 or max_tokens < tile_tokens:
        raise SettingsError(
            f"longer side ({longer_side} pixels) must be at least 1 and visual tokens ({max_tokens}) at least "
            f"{tile_tokens}: one tile has so many with this model"
        )
    filled = (2 * max(height, width) + settings.side) // (2 * settings.side)  # rounded half up
    count = max(1, min(longer_side // settings.side, filled, settings.most))
    while True:
        rows, columns = _tiles(*_fitted(height, width, count * settings.side), settings.side)
        tiles = rows * columns
        if count == 1 or (tiles + (tiles > 1)) * tile_tokens <= max_tokens:
            return rows, columns
        count -= 1


def cut(image: Pixels, tiles: tuple[int, int], settings: TileSettings) -> torch.Tensor:
    """Resize a photo to whole tiles, as the family's own preparation does, and cut it.

    Args:
        image: (height, width, 3) uint8.
        tiles: from `tile_grid`.
        settings: of the tower.

    Returns:
        (tiles, 3, side, side) float32, row by row, the whole photo last where there are several.

    Raises:
        InputError: not a (height, width, 3) uint8 array with pixels in it.
    """
    import torch

    check_pixels(image)
    rows, columns = tiles
    side, resample = settings.side, settings.resample
    height, width = image.shape[:2]
    fitted = resize(image, *_fitted(height, width, max(tiles) * side), resample)
    whole = resize(fitted, rows * side, columns * side, resample)
    pieces = whole.reshape(rows, side, columns, side, 3).swapaxes(1, 2).reshape(-1, side, side, 3)
    if len(pieces) > 1:
        pieces = np.concatenate([pieces, resize(whole, side, side, resample)[None]])
    values = normalize(pieces.reshape(-1, side, 3), settings.mean, settings.std, settings.scale)
    return torch.from_numpy(values).view(3, -1, side, side).transpose(0, 1).contiguous()


def patch_places(settings: TileSettings, table: int) -> torch.Tensor:
    """Return (patches,) int64: the row of the table of position embeddings for each patch of a tile.

    The tile is laid over the square of `table` x `table` places, whatever the sizes of both. In float32,
    whose rounding decides where a patch meets the border of two places; with the published checkpoints they are 0, 1,
    2 and so on.
    """
    import torch

    patches = settings.side // settings.patch
    borders = torch.arange(1 / table, 1.0, 1 / table)
    along = torch.arange(patches, dtype=torch.float32) * (1.0 / torch.tensor([patches]))
    places = torch.bucketize(along.clamp(max=1 - 1e-6), borders, right=True)
    return (places[:, None] * table + places).flatten()


def _fitted(height: int, width: int, longest: int) -> tuple[int, int]:
    """Return (height, width) with a longer side of `longest`; the shorter is cut off to whole and even pixels."""
    proportion = width / height
    if width >= height:
        return _even(int(longest / proportion)), longest
    return longest, _even(int(longest * proportion))


def _even(pixels: int) -> int:
    return max(1, pixels + pixels % 2)


def _tiles(height: int, width: int, side: int) -> tuple[int, int]:
    """Return the (rows, columns) that cover a photo whose longer side is whole tiles."""
    proportion = width / height  # not height and width themselves: the family's rounding is that of the quotient
    if width >= height:
        return math.ceil(int(width / proportion) / side) or 1, width // side
    return height // side, math.ceil(int(height * proportion) / side) or 1
