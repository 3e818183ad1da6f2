"""What the Qwen-VL models share: a vision tower with a free grid, and M-RoPE positions.

Sources: Qwen2-VL, arXiv:2409.12191 (M-RoPE: text advances the three axes together, an image token stands at
(start, start + row, start + column)); Qwen2.5-VL, arXiv:2502.13923. Positions are computed here and not by
transformers, whose releases around 5.5 misplaced still images on the time axis of Qwen2.5-VL.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, cast

import numpy as np
import torch

from imgrank.arrays import Pixels
from imgrank.devices import torch_dtype
from imgrank.errors import SettingsError
from imgrank.images.resize import check_pixels
from imgrank.mllm.adapter import DecoderAdapter
from imgrank.mllm.base import Segment, VisualTokens, full_positions
from imgrank.mllm.folder import ModelFolder
from imgrank.mllm.preprocess import PatchSettings, patches, token_grid


class QwenVL(DecoderAdapter):
    """Base of the Qwen-VL adapters."""

    axes: ClassVar[int] = 3
    layer_kinds: ClassVar[frozenset[str]] = frozenset({"full_attention"})  # that the language model may have

    def __init__(self, folder: ModelFolder, network: Any, tokenizer: Any, *, device: str, dtype: str) -> None:
        super().__init__(folder, network, tokenizer, device=device, dtype=dtype)
        kinds = set(getattr(self._text_config, "layer_types", None) or []) - self.layer_kinds
        if kinds:
            raise SettingsError(
                f"model {self.name!r}: layers of kind {', '.join(sorted(kinds))} are not supported for {self.family}"
            )
        self._patches = patch_settings(folder, network.config.vision_config)

    @property
    def settings(self) -> Mapping[str, Any]:
        """What decides the visual tokens, beside the weights and the resolution."""
        numbers = self._patches
        return {
            "family": self.family,
            "dtype": self.dtype,
            "token_side": numbers.token_side,
            "mean": list(numbers.mean),
            "std": list(numbers.std),
            "min_pixels": numbers.min_pixels,
        }

    def _encode(self, image: Pixels, longer_side: int, max_tokens: int) -> VisualTokens:
        pixels, grid = self._pixels(image, longer_side, max_tokens)
        vectors = self._checked(self._vision(pixels, grid).transpose(0, 1))  # (n, levels, hidden)
        _, rows, columns = (grid[0] // self._patches.merge).tolist()
        return VisualTokens(vectors, full_positions(1, rows, columns), (rows, columns))

    def _pixels(self, image: Pixels, longer_side: int, max_tokens: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Return the patches of an image and its (1, 3) size in patches: frames, rows, columns."""
        check_pixels(image)
        height, width = image.shape[:2]
        rows, columns = token_grid(
            height, width, longer_side=longer_side, max_tokens=max_tokens, settings=self._patches
        )
        merge = self._patches.merge
        grid = torch.tensor([[1, rows * merge, columns * merge]], device=self.device)
        return patches(image, rows, columns, self._patches).to(self.device), grid

    def _vision(self, pixels: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
        """Return (levels, n, hidden) for the patches of one image."""
        features = self._network.get_image_features(pixels, grid)
        return cast(torch.Tensor, features.pooler_output[0])[None]

    def image_segment(self, tokens: VisualTokens) -> Segment:
        """Return an image: its tokens stand at their place in the full grid, whichever of them are left."""
        # (3, n): an image is one moment in time, and its tile is always 0.
        positions = torch.from_numpy(tokens.positions.astype(np.int64).T).to(self.device)
        return self._visual_segment(tokens, positions, max(tokens.grid))

    def _plain_inputs(
        self, images: Sequence[Pixels], longer_side: int, max_tokens: int
    ) -> tuple[dict[str, torch.Tensor], list[list[int]]]:
        pixels, grids = zip(*(self._pixels(image, longer_side, max_tokens) for image in images), strict=True)
        grid = torch.cat(grids)
        counts = (grid.prod(dim=1) // self._patches.merge**2).tolist()
        arguments = {"pixel_values": torch.cat(pixels).to(torch_dtype(self.dtype)), "image_grid_thw": grid}
        return arguments, [[self.image_token] * count for count in counts]

    def _plain_forward(self, ids: torch.Tensor, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        self._network.model.rope_deltas = None  # what the last call left there
        return super()._plain_forward(ids, inputs | {"mm_token_type_ids": (ids == self.image_token).int()})


def patch_settings(folder: ModelFolder, vision: Any) -> PatchSettings:
    """Take the numbers of the vision tower's input from a folder's image processor and its config.

    Raises:
        SettingsError: a number is missing or unusable.
    """
    values = folder.image_processor
    size = values.get("size") or {}
    try:
        numbers = PatchSettings(
            patch=int(vision.patch_size),
            merge=int(vision.spatial_merge_size),
            frames=int(vision.temporal_patch_size),
            mean=_three(values["image_mean"]),
            std=_three(values["image_std"]),
            min_pixels=int(values.get("min_pixels") or size.get("shortest_edge") or 56 * 56),
        )
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        raise SettingsError(f"model {folder.name!r}: preprocessor_config.json is unusable: {error!r}") from error
    if min(numbers.patch, numbers.merge, numbers.frames, *numbers.std) <= 0:
        raise SettingsError(f"model {folder.name!r}: preprocessor_config.json holds a size that is not positive")
    return numbers


def _three(values: Sequence[float]) -> tuple[float, float, float]:
    red, green, blue = (float(value) for value in values)
    return red, green, blue
