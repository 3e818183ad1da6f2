"""The language models inside the multimodal ones that are built from parts.

A family such as InternVL comes with several. The packed engine is right for those whose attention is plain: causal,
over everything, a softmax and no more.
"""

from __future__ import annotations

from typing import Any

from imgrank.errors import SettingsError

PLAIN = ("llama", "qwen2", "qwen3", "qwen3_moe")  # by `model_type` of text_config


def check_text_model(model: str, family: str, text: Any) -> None:
    """Refuse a language model that the packed engine was not shown to be right for.

    Args:
        model: its name, for messages.
        family: of the whole model.
        text: its text_config.

    Raises:
        SettingsError: names the language model, and those that are supported.
    """
    if text.model_type not in PLAIN:
        raise SettingsError(
            f"model {model!r}: {family} with the language model {text.model_type!r} is not supported; "
            f"it is with {', '.join(PLAIN)}"
        )
    if set(getattr(text, "layer_types", None) or ["full_attention"]) != {"full_attention"}:
        raise SettingsError(f"model {model!r}: {family} with sliding-window attention is not supported")
