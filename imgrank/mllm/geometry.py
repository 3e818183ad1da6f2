"""How many visual tokens a model makes of a photo, and how long they are, from config.json alone.

The adapters measure the same from a loaded model; here it is worked out without torch and without weights, so that
one can choose a model before downloading it. The tests hold the two together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from imgrank.errors import SettingsError
from imgrank.mllm.catalogue import KnownModel

Config = Mapping[str, Any]


@dataclass(frozen=True)
class Geometry:
    """The shape of a model's visual tokens.

    Attributes:
        hidden: length of a token vector.
        levels: vectors per token: 1, and one more for each DeepStack level.
        token_side: pixels per token side; 0: tokens lie on no grid.
        tile: pixels per side of the square tiles that the vision tower sees; None: it takes any size.
        most_tiles: into which a photo may be cut: in all (InternVL), or along its longer side (Idefics3, SmolVLM).
        min_pixels: smaller photos are enlarged to so many pixels; of towers that take any size.
        most_tokens: of any photo, where they lie on no grid.
    """

    hidden: int
    levels: int
    token_side: int
    tile: int | None = None
    most_tiles: int = 1
    min_pixels: int = 56 * 56
    most_tokens: int | None = None

    @property
    def tile_tokens(self) -> int:
        """Tokens of one tile; 0 where there are no tiles."""
        return 0 if self.tile is None else (self.tile // self.token_side) ** 2


# Of a family's usual checkpoint. A number that config.json leaves out is the one that transformers takes then.
_USUAL: Mapping[str, Geometry] = {
    "imgrank_keypoints": Geometry(192, 1, 0, most_tokens=512),
    "qwen2_vl": Geometry(8192, 1, 28),
    "qwen2_5_vl": Geometry(8192, 1, 28),
    "qwen3_vl": Geometry(4096, 4, 32, min_pixels=256 * 256),
    "qwen3_5": Geometry(4096, 1, 32, min_pixels=256 * 256),
    "qwen3_5_moe": Geometry(2048, 1, 32, min_pixels=256 * 256),
    "internvl": Geometry(4096, 1, 28, tile=448, most_tiles=12),
    "llava_onevision": Geometry(4096, 1, 14, tile=384),
    "gemma3": Geometry(2304, 1, 56, tile=896),
    "smolvlm": Geometry(4096, 1, 64, tile=512, most_tiles=4),
    "idefics3": Geometry(4096, 1, 28, tile=364, most_tiles=4),
}


def of_known(model: KnownModel) -> Geometry:
    """Return the geometry of a listed checkpoint."""
    usual = _USUAL[model.family]
    return replace(
        usual, hidden=model.hidden, token_side=model.token_side or usual.token_side, tile=model.tile or usual.tile
    )


def of_config(model: str, config: Config, image_processor: Config | None = None) -> Geometry:
    """Work out the geometry of a model of a supported family.

    Args:
        model: its name, for messages.
        config: what config.json says; `model_type` is one of `imgrank.mllm.catalogue.FAMILIES`.
        image_processor: what preprocessor_config.json says, where it is there.

    Raises:
        SettingsError: a number is unusable.
    """
    family = str(config.get("model_type"))
    usual = _USUAL[family]
    vision, photos = _part(config, "vision_config"), image_processor or {}
    try:
        # Older Qwen files have the numbers of the language model at the top.
        hidden = int(_part(config, "text_config").get("hidden_size") or config.get("hidden_size") or usual.hidden)
        if usual.most_tokens is not None:
            found = replace(usual, hidden=hidden)
        elif usual.tile is None:
            side = _side(vision.get("patch_size"), usual.token_side // 2) * int(vision.get("spatial_merge_size", 2))
            deepstack = vision.get("deepstack_visual_indexes", (8, 16, 24)) if family == "qwen3_vl" else ()
            least = int(photos.get("min_pixels") or _part(photos, "size").get("shortest_edge") or 56 * 56)
            found = Geometry(hidden, 1 + len(deepstack), side, min_pixels=least)
        else:
            patch_default, tile_default = _TRANSFORMERS[family]
            patch = _side(vision.get("patch_size"), patch_default)
            tile = _side(vision.get("image_size"), tile_default)
            side = patch * _merge(family, config, tile // patch)
            found = Geometry(hidden, 1, side, tile, _most_tiles(family, photos, tile))
    except (TypeError, ValueError, ArithmeticError, AttributeError, LookupError) as error:
        raise SettingsError(f"model {model!r}: its configuration is unusable: {error!r}") from error
    least = min(found.hidden, found.most_tokens or found.token_side, found.min_pixels, found.most_tiles)
    if least < 1 or (found.tile is not None and found.tile_tokens < 1):
        raise SettingsError(f"model {model!r}: its configuration is unusable: a size is not positive")
    return found


def tokens_of(family: str, shape: Geometry, height: int, width: int, *, longer_side: int, max_tokens: int) -> int:
    """Return how many visual tokens a photo becomes, before pruning.

    Args:
        family: `model_type`.
        shape: of the model.
        height: of the photo, pixels.
        width: of the photo, pixels.
        longer_side: pixels to which the longer side is reduced.
        max_tokens: at most so many.
    """
    if shape.most_tokens is not None:
        return min(max_tokens, shape.most_tokens)
    if shape.tile is None:
        from imgrank.mllm.preprocess import token_grid

        rows, columns = token_grid(height, width, longer_side=longer_side, max_tokens=max_tokens, settings=shape)
        return rows * columns
    rows, columns = 1, 1
    if family == "internvl":
        from imgrank.images.resize import fitted_size
        from imgrank.mllm.tiles import tile_grid

        width, height = fitted_size(width, height, longer_side)
        most = min(max_tokens // shape.tile_tokens - 1, shape.most_tiles)
        rows, columns = tile_grid(height, width, side=shape.tile, most=most)
    elif family in ("idefics3", "smolvlm"):
        rows, columns = _idefics3_tiles(shape, height, width, longer_side, max_tokens)
    tiles = rows * columns
    return (tiles + (tiles > 1)) * shape.tile_tokens


def _idefics3_tiles(shape: Geometry, height: int, width: int, longer_side: int, max_tokens: int) -> tuple[int, int]:
    from imgrank.mllm.idefics3_tiles import TileSettings, tile_grid

    assert shape.tile is not None
    settings = TileSettings(
        side=shape.tile,
        patch=1,
        merge=shape.token_side,
        longest_edge=shape.most_tiles * shape.tile,
        splits=True,
        resample=1,
        scale=1.0,
        mean=(0.0, 0.0, 0.0),
        std=(1.0, 1.0, 1.0),
    )
    return tile_grid(height, width, longer_side=longer_side, max_tokens=max_tokens, settings=settings)


_TRANSFORMERS = {  # pixels per patch and per tile where config.json says neither
    "internvl": (14, 448),
    "llava_onevision": (14, 384),
    "gemma3": (16, 224),
    "smolvlm": (32, 224),
    "idefics3": (32, 224),
}


def _part(config: Config, name: str) -> Config:
    part = config.get(name)
    return part if isinstance(part, dict) else {}


def _side(value: Any, default: int) -> int:
    """Return the side of what configurations give as one number or as (height, width)."""
    if isinstance(value, list | tuple):
        value = value[0]
    return default if value is None else int(value)


def _merge(family: str, config: Config, patches: int) -> int:
    """Return the patches per token side of a tower with `patches` per tile side."""
    if family == "internvl":
        return round(1 / float(config.get("downsample_ratio", 0.5)))
    if family == "gemma3":
        return patches // math.isqrt(int(config.get("mm_tokens_per_image", 256)))
    if family == "llava_onevision":
        return 1
    return int(config.get("scale_factor", 2))


def _most_tiles(family: str, photos: Config, tile: int) -> int:
    if family == "internvl":
        return int(photos.get("max_patches", 12))
    if family in ("idefics3", "smolvlm") and photos.get("do_image_splitting", True):
        longest = int(_part(photos, "size").get("longest_edge", 4 * tile))
        return max(1, min(longest, 4096) // tile)
    return 1
