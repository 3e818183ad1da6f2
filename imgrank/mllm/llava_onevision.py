"""LLaVA-OneVision (arXiv:2408.03326): in a prompt with several images, one square tile each and a closing vector.

Photos are cut into tiles only where a prompt has a single image, so never here. Each photo is put into a square of the
mean colour and goes through a SigLIP tower whose tokens are not merged. The vector that ends a line of tiles follows
the only tile, too; it is the model's and not the photo's, and is not cached.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch

from imgrank.arrays import Floats, Pixels
from imgrank.devices import torch_dtype
from imgrank.errors import SettingsError
from imgrank.images.resize import check_pixels, fit_longer_side
from imgrank.mllm.adapter import DecoderAdapter
from imgrank.mllm.base import Segment, VisualTokens, full_positions
from imgrank.mllm.folder import ModelFolder
from imgrank.mllm.regions import grid_regions, out_of_square
from imgrank.mllm.segments import follow
from imgrank.mllm.texts import check_text_model
from imgrank.mllm.tiles import cut, pad_to_square, tile_settings

_LARGEST = 8  # tiles: the longer side of photos from which a square is made


class LlavaOnevision(DecoderAdapter):
    """Adapter of `LlavaOnevisionForConditionalGeneration`.

    The tower takes one size only, 384 pixels, which are 27 x 27 tokens: `longer_side` has no effect, and `max_tokens`
    cannot be below 729; pruning is the way to fewer. The official chat template puts all images before all text, so
    words of a prompt that stand before or between the photos are read after them.
    """

    family = "llava_onevision"
    model_class = "LlavaOnevisionForConditionalGeneration"

    def __init__(self, folder: ModelFolder, network: Any, tokenizer: Any, *, device: str, dtype: str) -> None:
        super().__init__(folder, network, tokenizer, device=device, dtype=dtype)
        check_text_model(self.name, self.family, self._text_config)
        self._tiles = tile_settings(folder)
        self._grid = _grid(folder, network.config, self._tiles.side)

    @property
    def settings(self) -> Mapping[str, Any]:
        """What decides the visual tokens, beside the weights."""
        return {
            "family": self.family,
            "dtype": self.dtype,
            "token_side": self._tiles.side // self._grid[0],
            **self._tiles.to_json(),
        }

    def _encode(self, image: Pixels, longer_side: int, max_tokens: int) -> VisualTokens:
        arguments = self._arguments([image], longer_side, max_tokens)
        (features,) = self._network.get_image_features(**arguments).pooler_output
        vectors = self._checked(features[:-1])  # (n, hidden); the last closes the image
        return VisualTokens(vectors[:, None], full_positions(1, *self._grid), self._grid)

    def _arguments(self, images: Sequence[Pixels], longer_side: int, max_tokens: int) -> dict[str, torch.Tensor]:
        """Return what the model takes of images that stand in one prompt."""
        tokens = self._grid[0] * self._grid[1]
        if longer_side < 1:
            raise SettingsError(f"longer side ({longer_side} pixels) must be at least 1")
        if max_tokens < tokens:
            raise SettingsError(
                f"{self.name} makes {tokens} visual tokens of every photo, more than the {max_tokens} allowed; "
                f"allow {tokens} (--max-tokens) and keep fewer of them by pruning (--prune)"
            )
        pixels = torch.stack([torch.from_numpy(self._tile(image)) for image in images])
        return {
            "pixel_values": pixels.to(self.device, torch_dtype(self.dtype)),  # (images, 1, 3, side, side)
            "image_sizes": torch.tensor([image.shape[:2] for image in images], device=self.device),
            # A prompt with one image would be tiled; a photo by itself is here the photo of a pair.
            "batch_num_images": torch.tensor([max(2, len(images))], device=self.device),
        }

    def _tile(self, image: Pixels) -> Any:
        """Return (1, 3, side, side) float32."""
        check_pixels(image)
        # So that the square of a long strip does not outgrow the memory.
        image = fit_longer_side(image, _LARGEST * self._tiles.side)
        return cut(pad_to_square(image, self._tiles), 1, 1, self._tiles)

    def regions(self, tokens: VisualTokens, size: tuple[int, int], photo: Pixels | None) -> Floats | None:
        """Return the cells of the grid, which is laid over the padded square."""
        return out_of_square(grid_regions(tokens.grid), size)

    def image_segment(self, tokens: VisualTokens) -> Segment:
        """Return an image and the vector that closes it, which no pruning takes away."""
        image = super().image_segment(tokens)
        newline = self._network.model.image_newline[None].to(image.inputs)
        row = torch.zeros(1, dtype=torch.bool, device=self.device)
        return follow([image, Segment(newline, row, image.deepstack[:, :0], image.positions.new_zeros(1, 1), 1)])

    def _plain_inputs(
        self, images: Sequence[Pixels], longer_side: int, max_tokens: int
    ) -> tuple[dict[str, torch.Tensor], list[list[int]]]:
        expansion = [self.image_token] * (self._grid[0] * self._grid[1] + 1)
        return self._arguments(images, longer_side, max_tokens), [expansion] * len(images)


def _grid(folder: ModelFolder, config: Any, side: int) -> tuple[int, int]:
    """Return the (rows, columns) of tokens of an image.

    Raises:
        SettingsError: a variant of the tower that is not supported, or numbers that contradict each other.
    """
    vision, where = config.vision_config, f"model {folder.name!r}"
    if vision.model_type != "siglip_vision_model":
        raise SettingsError(f"{where}: a vision tower of type {vision.model_type!r} is not supported; siglip is")
    if config.vision_feature_select_strategy != "full":  # this tower has no class token that could be left out
        raise SettingsError(
            f"{where}: vision_feature_select_strategy {config.vision_feature_select_strategy!r} is not supported"
        )
    if side != vision.image_size:
        raise SettingsError(
            f"{where}: preprocessor_config.json makes photos of {side} pixels a side, "
            f"but its vision tower takes {vision.image_size}"
        )
    rows = side // vision.patch_size if vision.patch_size > 0 else 0
    counted = folder.processor.get("num_image_tokens") or rows**2
    if rows < 1 or counted != rows**2:
        raise SettingsError(
            f"{where}: an image has {rows**2} tokens, but processor_config.json counts on {counted} (num_image_tokens)"
        )
    return rows, rows
