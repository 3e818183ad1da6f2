"""Qwen3.5: 32 pixels per token, interleaved M-RoPE, and a language model of two kinds of layers.

Most layers are Gated DeltaNets (arXiv:2412.06464), every fourth attends to everything; `imgrank.mllm.delta` runs the
former. The vision tower is that of Qwen3-VL (arXiv:2511.21631) without DeepStack.
"""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from typing import Any, ClassVar

import torch
import transformers

from imgrank.devices import torch_dtype
from imgrank.errors import SettingsError
from imgrank.mllm.base import Segment
from imgrank.mllm.delta import CHUNK, HybridCache, attach
from imgrank.mllm.folder import ModelFolder
from imgrank.mllm.packed import Layout
from imgrank.mllm.qwen_vl import QwenVL
from imgrank.pretrained import quiet


class Qwen35(QwenVL):
    """Adapter of `Qwen3_5ForConditionalGeneration`."""

    family = "qwen3_5"
    model_class = "Qwen3_5ForConditionalGeneration"
    layer_kinds: ClassVar[frozenset[str]] = frozenset({"full_attention", "linear_attention"})

    def __init__(self, folder: ModelFolder, network: Any, tokenizer: Any, *, device: str, dtype: str) -> None:
        super().__init__(folder, network, tokenizer, device=device, dtype=dtype)
        delta = [layer.linear_attn for layer in self._decoder.layers if hasattr(layer, "linear_attn")]
        for one in delta:
            attach(one)
        self._delta_layers = len(delta)

    def _new_cache(self) -> HybridCache:
        return HybridCache(self._text_config)  # no layer of these kinds forgets

    def _decode(self, segment: Segment, cache: Any, layout: Layout | None) -> torch.Tensor:
        with self._fitting_advice():
            found = super()._decode(segment, cache if layout is None else cache.packed(layout), layout)
        if len(cache.states) != self._delta_layers:
            raise SettingsError(
                f"transformers {transformers.__version__} gives its cache to Gated DeltaNet layers in a way that "
                "imgrank does not know, and scores would be wrong; install an older one"
            )
        return found

    def _plain_forward(self, ids: torch.Tensor, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        with self._fitting_advice():
            return super()._plain_forward(ids, inputs)

    def _fitting_advice(self) -> AbstractContextManager[None]:
        """Silence transformers where it advises kernels that the device cannot run."""
        return nullcontext() if self.device.startswith("cuda") else quiet()

    @property
    def row_bytes(self) -> int:
        """Memory of one packed token: of a layer of either kind, whichever holds more."""
        text = self._text_config
        size = torch_dtype(self.dtype).itemsize
        heads, wide = text.linear_num_value_heads, max(text.linear_key_head_dim, text.linear_value_head_dim)
        keys, values = text.linear_num_key_heads * text.linear_key_head_dim, heads * text.linear_value_head_dim
        shared = 4 * text.hidden_size + self._feed_forward_width
        attention = shared + 10 * text.num_attention_heads * text.head_dim
        delta = shared + 4 * (2 * keys + values) + 4 * values
        # In float32: queries, keys, values and what the recurrence makes of them, its matrices between the rows of a
        # chunk, and a share of the candidate's state; twice, as a little more than a chunk is padded to two.
        recurrence = 2 * 4 * heads * (12 * wide + 4 * CHUNK + 3 * wide * wide // CHUNK)
        return int(max(attention * size, delta * size + recurrence))

    @property
    def _feed_forward_width(self) -> int:
        """Numbers that the feed-forward part of a layer holds for one token."""
        return 4 * int(self._text_config.intermediate_size)


class Qwen35Moe(Qwen35):
    """Adapter of `Qwen3_5MoeForConditionalGeneration`: the feed-forward part is a mixture of experts."""

    family = "qwen3_5_moe"
    model_class = "Qwen3_5MoeForConditionalGeneration"

    @property
    def _feed_forward_width(self) -> int:
        text = self._text_config
        routed = text.num_experts_per_tok * (4 * text.moe_intermediate_size + 2 * text.hidden_size)
        return int(routed + 4 * text.shared_expert_intermediate_size + text.num_experts)
