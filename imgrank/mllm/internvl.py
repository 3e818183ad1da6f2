"""InternVL3 and InternVL3.5 (arXiv:2504.10479, arXiv:2508.18265): square tiles, four patches to a token.

A photo is one tile, or a grid of tiles and a last one that shows the whole of it; the tokens of all tiles follow one
another, with nothing between them. Checkpoints in the layout of transformers (their names end in "-HF" or "-hf").
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, cast

import torch

from imgrank.arrays import Pixels
from imgrank.devices import torch_dtype
from imgrank.errors import MissingModelError, SettingsError
from imgrank.images.resize import check_pixels, fitted_size
from imgrank.mllm.adapter import DecoderAdapter
from imgrank.mllm.base import VisualTokens, full_positions
from imgrank.mllm.folder import ModelFolder
from imgrank.mllm.texts import check_text_model
from imgrank.mllm.tiles import cut, tile_grid, tile_settings

_MOST_TILES = 256  # that a checkpoint may ask for


class InternVL(DecoderAdapter):
    """Adapter of `InternVLForConditionalGeneration`.

    The tower takes tiles of one size, 448 pixels, which are 16 x 16 tokens. `longer_side` says how many tiles a photo
    is worth: as many as have no more pixels together than the photo once it is reduced to it. So at the default of 560
    pixels every photo is one tile, stretched to a square as the model was trained (256 tokens); one of 4 x 3 becomes
    2 x 2 tiles and the whole (1280 tokens) from 1035 pixels on. `max_tokens` takes tiles away until they fit with the
    one of the whole, and must leave one. The family's own processor cuts all photos, small ones too, into up to 12
    tiles (3328 tokens).
    """

    family = "internvl"
    model_class = "InternVLForConditionalGeneration"

    def __init__(self, folder: ModelFolder, network: Any, tokenizer: Any, *, device: str, dtype: str) -> None:
        super().__init__(folder, network, tokenizer, device=device, dtype=dtype)
        check_text_model(self.name, self.family, self._text_config)
        self._tiles = tile_settings(folder)
        self._most_tiles = _most_tiles(folder)
        self._grid = _grid(folder, network.config, self._tiles.side)
        # Tokenizers name the two tokens around an image; the words are those of all published ones.
        edges = (getattr(tokenizer, "start_image_token", "<img>"), getattr(tokenizer, "end_image_token", "</img>"))
        for edge in edges:
            if len(self.tokenize(edge)) != 1:
                raise MissingModelError(self.name, f"its tokenizer does not know the token {edge!r} beside an image")
        self._image_text = cast(str, tokenizer.convert_ids_to_tokens(self.image_token))
        self._wrapped = edges[0] + self._image_text + edges[1]

    @property
    def settings(self) -> Mapping[str, Any]:
        """What decides the visual tokens, beside the weights and the resolution."""
        return {
            "family": self.family,
            "dtype": self.dtype,
            "token_side": self._tiles.side // self._grid[0],
            "most_tiles": self._most_tiles,
            **self._tiles.to_json(),
        }

    def _wrap_images(self, text: str) -> str:
        return text.replace(self._image_text, self._wrapped)

    def _encode(self, image: Pixels, longer_side: int, max_tokens: int) -> VisualTokens:
        pixels, tiles = self._pixels(image, longer_side, max_tokens)
        vectors = self._checked(self._vision(pixels).flatten(0, 1))
        return VisualTokens(vectors[:, None], full_positions(len(pixels), *self._grid), self._grid, tiles)

    def _pixels(self, image: Pixels, longer_side: int, max_tokens: int) -> tuple[torch.Tensor, tuple[int, int]]:
        """Return the (tiles, 3, side, side) pixels of a photo, and the (rows, columns) of its tiles."""
        check_pixels(image)
        height, width = image.shape[:2]
        width, height = fitted_size(width, height, longer_side)
        tile_tokens = self._grid[0] * self._grid[1]
        if max_tokens < tile_tokens:
            raise SettingsError(
                f"{self.name} makes at least {tile_tokens} visual tokens of a photo, more than the {max_tokens} "
                f"allowed; allow {tile_tokens} (--max-tokens) and keep fewer of them by pruning (--prune)"
            )
        most = min(max_tokens // tile_tokens - 1, self._most_tiles)  # one shows the whole, unless there is one only
        tiles = tile_grid(height, width, side=self._tiles.side, most=most)
        pixels = torch.from_numpy(cut(image, *tiles, self._tiles))
        return pixels.to(self.device, torch_dtype(self.dtype)), tiles

    def _vision(self, pixels: torch.Tensor) -> torch.Tensor:
        """Return (tiles, tokens of a tile, hidden)."""
        return cast(torch.Tensor, self._network.get_image_features(pixels).pooler_output)

    def _plain_inputs(
        self, images: Sequence[Pixels], longer_side: int, max_tokens: int
    ) -> tuple[dict[str, torch.Tensor], list[list[int]]]:
        pixels = [self._pixels(image, longer_side, max_tokens)[0] for image in images]
        tile = [self.image_token] * (self._grid[0] * self._grid[1])
        return {"pixel_values": torch.cat(pixels)}, [tile * len(tiles) for tiles in pixels]


def _grid(folder: ModelFolder, config: Any, side: int) -> tuple[int, int]:
    """Return the (rows, columns) of tokens of a tile.

    Raises:
        SettingsError: they are no whole number, or not those that the model's own processor counts on.
    """
    vision, where = config.vision_config, f"model {folder.name!r}"
    if config.vision_feature_select_strategy != "default":
        raise SettingsError(f"{where}: its class token among the visual tokens is not supported")
    patch, ratio = set(vision.patch_size), config.downsample_ratio
    if len(patch) != 1 or min(patch) < 1 or not 0 < ratio <= 1:
        raise SettingsError(f"{where}: patches of {vision.patch_size} pixels, reduced by {ratio}, are not supported")
    rows = side // patch.pop() * ratio
    if rows < 1 or rows != int(rows):
        raise SettingsError(f"{where}: tiles of {side} pixels have {rows} rows of tokens, which is no whole number")
    counted = {
        "config.json": config.image_seq_length,
        "processor_config.json": folder.processor.get("image_seq_length", rows**2),
    }
    for file, tokens in counted.items():
        if tokens != rows**2:
            raise SettingsError(
                f"{where}: tiles have {int(rows**2)} tokens, but {file} counts on {tokens} (image_seq_length)"
            )
    return int(rows), int(rows)


def _most_tiles(folder: ModelFolder) -> int:
    values = folder.image_processor
    least, most = values.get("min_patches", 1), values.get("max_patches", 12)
    if least != 1 or not isinstance(most, int) or not 1 <= most <= _MOST_TILES:
        raise SettingsError(
            f"model {folder.name!r}: preprocessor_config.json asks for {least} to {most} tiles; "
            f"supported: 1 to at most {_MOST_TILES}"
        )
    return most
