"""Qwen3-VL (arXiv:2511.21631): 32 pixels per token, interleaved M-RoPE, DeepStack (arXiv:2406.04334).

DeepStack: some vision layers have a merger of their own, whose vectors are added to the visual rows of the hidden
states after the first layers of the language model. So a visual token is several vectors.
"""

from __future__ import annotations

from typing import Any

import torch

from imgrank.mllm.base import Segment
from imgrank.mllm.qwen_vl import QwenVL


class Qwen3VL(QwenVL):
    """Adapter of `Qwen3VLForConditionalGeneration`."""

    family = "qwen3_vl"
    model_class = "Qwen3VLForConditionalGeneration"

    @property
    def levels(self) -> int:
        """Vectors per visual token: the merger's and one for each DeepStack layer."""
        return 1 + len(self._network.config.vision_config.deepstack_visual_indexes)

    def _vision(self, pixels: torch.Tensor, grid: torch.Tensor) -> torch.Tensor:
        features = self._network.get_image_features(pixels, grid)
        deeper = [_only(level) for level in features.deepstack_features]
        return torch.stack([_only(features.pooler_output), *deeper])

    def _visual_arguments(self, segment: Segment) -> dict[str, Any]:
        if segment.deepstack.shape[0] == 0 or segment.deepstack.shape[1] == 0:
            return {}
        return {
            "visual_pos_masks": segment.visual[None],
            "deepstack_visual_embeds": list(segment.deepstack),
        }


def _only(level: Any) -> torch.Tensor:
    """Return the tokens of the only image: transformers splits some features by image and some, by release, not."""
    tokens: torch.Tensor = level if isinstance(level, torch.Tensor) else level[0]
    return tokens
