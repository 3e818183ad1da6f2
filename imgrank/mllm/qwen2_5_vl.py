"""Qwen2.5-VL (arXiv:2502.13923): 28 pixels per token, windowed attention in the vision tower."""

from __future__ import annotations

from typing import Any

from imgrank.errors import SettingsError
from imgrank.mllm.folder import ModelFolder
from imgrank.mllm.qwen_vl import QwenVL


class Qwen25VL(QwenVL):
    """Adapter of `Qwen2_5_VLForConditionalGeneration`."""

    family = "qwen2_5_vl"
    model_class = "Qwen2_5_VLForConditionalGeneration"

    def __init__(self, folder: ModelFolder, network: Any, tokenizer: Any, *, device: str, dtype: str) -> None:
        super().__init__(folder, network, tokenizer, device=device, dtype=dtype)
        kinds = set(getattr(network.config.text_config, "layer_types", None) or ["full_attention"])
        if kinds != {"full_attention"}:
            raise SettingsError(f"model {self.name!r}: sliding-window attention is not supported for {self.family}")
