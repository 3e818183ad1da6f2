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
from imgrank.errors import ImgrankError, SettingsError
from imgrank.images.resize import check_pixels
from imgrank.mllm.adapter import DecoderAdapter
from imgrank.mllm.base import Segment, VisualTokens
from imgrank.mllm.folder import ModelFolder
from imgrank.mllm.preprocess import PatchSettings, patches, token_grid


class QwenVL(DecoderAdapter):
    """Base of the Qwen-VL adapters."""

    axes: ClassVar[int] = 3

    def __init__(self, folder: ModelFolder, network: Any, tokenizer: Any, *, device: str, dtype: str) -> None:
        super().__init__(folder, network, tokenizer, device=device, dtype=dtype)
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

    @torch.inference_mode()
    def encode(self, images: Sequence[Pixels], *, longer_side: int, max_tokens: int) -> list[VisualTokens]:
        """Compute the visual tokens of each photo, one photo at a time."""
        return [self._encode(image, longer_side, max_tokens) for image in images]

    def _encode(self, image: Pixels, longer_side: int, max_tokens: int) -> VisualTokens:
        check_pixels(image)
        height, width = image.shape[:2]
        rows, columns = token_grid(
            height, width, longer_side=longer_side, max_tokens=max_tokens, settings=self._patches
        )
        pixels = patches(image, rows, columns, self._patches).to(self.device)
        merge = self._patches.merge
        grid = torch.tensor([[1, rows * merge, columns * merge]], device=self.device)
        vectors = self._vision(pixels, grid).float().cpu().numpy()  # (levels, n, hidden)
        if not np.isfinite(vectors).all():
            raise ImgrankError(f"{self.name} gave NaN or infinite visual tokens; {self.precision_advice()}")
        positions = np.stack(np.divmod(np.arange(rows * columns), columns), axis=1).astype(np.uint16)
        return VisualTokens(np.ascontiguousarray(vectors.swapaxes(0, 1)), positions, (rows, columns))

    def _vision(self, pixels: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
        """Return (levels, n, hidden) for the patches of one image."""
        features = self._network.get_image_features(pixels, grid)
        return cast(torch.Tensor, features.pooler_output[0])[None]

    def image_segment(self, tokens: VisualTokens) -> Segment:
        """Return an image: its tokens stand at their place in the full grid, whichever of them are left."""
        vectors = torch.from_numpy(tokens.vectors).to(self.device, torch_dtype(self.dtype))
        cells = torch.from_numpy(tokens.positions.astype(np.int64)).to(self.device)
        positions = torch.stack([torch.zeros_like(cells[:, 0]), cells[:, 0], cells[:, 1]])
        visual = torch.ones(len(tokens), dtype=torch.bool, device=self.device)
        return Segment(vectors[:, 0], visual, vectors[:, 1:].transpose(0, 1).contiguous(), positions, max(tokens.grid))


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
