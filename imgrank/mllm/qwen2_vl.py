"""Qwen2-VL (arXiv:2409.12191): 28 pixels per token, and full attention in the vision tower."""

from __future__ import annotations

from imgrank.mllm.qwen_vl import QwenVL


class Qwen2VL(QwenVL):
    """Adapter of `Qwen2VLForConditionalGeneration`."""

    family = "qwen2_vl"
    model_class = "Qwen2VLForConditionalGeneration"
