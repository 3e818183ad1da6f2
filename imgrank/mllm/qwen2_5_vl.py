"""Qwen2.5-VL (arXiv:2502.13923): 28 pixels per token, windowed attention in the vision tower."""

from __future__ import annotations

from imgrank.mllm.qwen_vl import QwenVL


class Qwen25VL(QwenVL):
    """Adapter of `Qwen2_5_VLForConditionalGeneration`."""

    family = "qwen2_5_vl"
    model_class = "Qwen2_5_VLForConditionalGeneration"
