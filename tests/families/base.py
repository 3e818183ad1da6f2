"""What a model family brings to be tested: a tiny configuration, and the plain forward that measures the fast road."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

# The chat layout of many families, with a system message of our own; IMAGE is put where an image goes.
CHATML = """\
{%- if messages[0].role != 'system' -%}<|im_start|>system
You compare photos.<|im_end|>
{% endif -%}
{%- for message in messages -%}<|im_start|>{{ message.role }}
{% if message.content is string -%}{{ message.content }}{%- else -%}
{%- for part in message.content -%}
{%- if part.type == 'image' -%}IMAGE
{%- elif part.type == 'text' -%}{{ part.text }}{%- endif -%}
{%- endfor -%}{%- endif -%}<|im_end|>
{% endfor -%}
{%- if add_generation_prompt -%}<|im_start|>assistant
{% endif -%}"""


class TinyFamily:
    """One family at test size.

    `plain` and `plain_pruned` are the oracle: transformers' own model class and its own image processor, written
    without a look at the adapter, so that the two are two implementations.
    """

    name: str  # `model_type` of config.json
    variant: str = ""  # tells apart several tiny models of one family
    model_class: str  # in transformers
    special: tuple[str, ...] = ()  # special tokens beside those of the chat layout
    chat_template: str = CHATML
    photo_sizes: list[tuple[int, int]]  # (height, width) of the test photos, the first is the query
    longer_side: int = 512
    max_tokens: int = 200

    @property
    def key(self) -> str:
        """What the tests call it: the family, and the variant where there are several."""
        return f"{self.name}-{self.variant}" if self.variant else self.name

    def config(self, tokenizer: Any, hidden: int, layers: int, tower: tuple[int, int]) -> Any:
        """Return a configuration; `tower` is width and depth of the vision."""
        raise NotImplementedError

    def preparation(self, config: Any) -> dict[str, dict[str, Any]]:
        """Return the JSON files of a folder that say how photos are prepared, by name."""
        raise NotImplementedError

    def plain(self, network: Any, tokenizer: Any, folder: Path, text: str, photos: list[np.ndarray]) -> torch.Tensor:
        """Return (vocabulary,) logits after a rendered prompt: one forward on input_ids and pixel_values."""
        raise NotImplementedError

    def plain_pruned(
        self,
        network: Any,
        tokenizer: Any,
        folder: Path,
        text: str,
        photos: list[np.ndarray],
        kept: list[np.ndarray],
    ) -> torch.Tensor:
        """The same with visual tokens deleted from the full sequence, and explicit position ids of the full sequence.

        `kept` has a mask over the visual tokens of each photo, in the order of the prompt.
        """
        raise NotImplementedError

    def text_settings(self, tokenizer: Any, hidden: int, layers: int) -> dict[str, Any]:
        return {
            "vocab_size": len(tokenizer),
            "hidden_size": hidden,
            "intermediate_size": 2 * hidden,
            "num_hidden_layers": layers,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "max_position_embeddings": 4096,
            "pad_token_id": tokenizer.pad_token_id,
            "bos_token_id": None,
            "eos_token_id": tokenizer.eos_token_id,
        }

    def write_preparation(self, folder: Path, config: Any) -> None:
        for name, values in self.preparation(config).items():
            (folder / name).write_text(json.dumps(values))
