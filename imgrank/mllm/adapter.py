"""What every adapter of a transformers model with a plain causal decoder shares: prompts, prefix, packed suffixes.

Knows no vision tower and no position scheme; a family's class adds `encode`, `image_segment` and what of its own the
decoder needs. Families whose decoder is not plain causal attention bring their own `prefill` and `last_hidden`.
"""

from __future__ import annotations

import copy
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Self, cast

import jinja2
import torch
import transformers

from imgrank.errors import MissingModelError
from imgrank.mllm.base import Prefix, Segment
from imgrank.mllm.folder import ModelFolder
from imgrank.mllm.loading import load_tokenizer, load_weights
from imgrank.mllm.packed import Layout, layout_of
from imgrank.mllm.segments import follow, side_by_side


@dataclass(frozen=True, eq=False)
class CachedPrefix:
    """Keys and values of a prefix, and the position at which what follows it begins."""

    cache: Any  # transformers.DynamicCache
    length: int
    span: int

    def fork(self) -> Any:
        """Return a cache that starts from the prefix; what is added to it leaves the prefix alone.

        The layers share the prefix's tensors: a layer grows by concatenation into new ones. So a forward pass that
        dies half way, for want of memory, leaves nothing to crop.
        """
        fork = copy.copy(self.cache)
        fork.layers = [copy.copy(layer) for layer in self.cache.layers]
        return fork


class DecoderAdapter:
    """Base of the adapters; see `imgrank.mllm.base.VisionLanguageModel` for what the members mean."""

    family: ClassVar[str]
    model_class: ClassVar[str]  # name in transformers
    axes: ClassVar[int] = 1  # of the position ids

    def __init__(self, folder: ModelFolder, network: Any, tokenizer: Any, *, device: str, dtype: str) -> None:
        self.name, self.revision = folder.name, folder.revision
        self.device, self.dtype = device, dtype
        self._network, self._tokenizer = network, tokenizer
        self._template = folder.chat_template
        self.image_token: int = network.config.image_token_id
        self.hidden: int = network.config.text_config.hidden_size
        placeholder = tokenizer.convert_ids_to_tokens(self.image_token)
        if placeholder is None or self.tokenize(placeholder) != [self.image_token]:
            raise MissingModelError(
                self.name, f"its tokenizer does not know the image placeholder, token {self.image_token}"
            )

    @classmethod
    def load(cls, folder: ModelFolder, *, device: str, dtype: str) -> Self:
        """Load the model of a folder whose `model_type` is this family's.

        Raises:
            MissingModelError, MissingDeviceError: see `imgrank.mllm.loading`.
            SettingsError: the model uses a variant of its architecture that is not supported.
        """
        network = load_weights(getattr(transformers, cls.model_class), folder, device=device, dtype=dtype)
        return cls(folder, network, load_tokenizer(folder), device=device, dtype=dtype)

    @property
    def levels(self) -> int:
        """Vectors per visual token."""
        return 1

    # Prompts

    def chat(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """Write messages in the chat format of the folder's template; it wraps images itself."""
        try:
            text = self._tokenizer.apply_chat_template(
                [dict(message) for message in messages],
                chat_template=self._template,
                add_generation_prompt=True,
                tokenize=False,
            )
        except (ValueError, TypeError, jinja2.TemplateError) as error:
            raise MissingModelError(self.name, f"its chat template cannot be used: {error}") from error
        return cast(str, text)

    def tokenize(self, text: str) -> list[int]:
        """Return the token ids of text that may hold special tokens."""
        return cast(list[int], self._tokenizer(text, add_special_tokens=False)["input_ids"])

    # Scoring

    def text_segment(self, ids: Sequence[int]) -> Segment:
        """Return text: each token is one step on all axes."""
        rows = torch.tensor(ids, dtype=torch.long, device=self.device)
        with torch.inference_mode():
            inputs = self._network.get_input_embeddings()(rows)
        positions = torch.arange(len(ids), device=self.device).expand(self.axes, -1)
        visual = torch.zeros(len(ids), dtype=torch.bool, device=self.device)
        return Segment(inputs, visual, inputs.new_zeros(self.levels - 1, 0, self.hidden), positions, len(ids))

    @torch.inference_mode()
    def prefill(self, segment: Segment) -> Prefix:
        """Run what all candidates share."""
        cache = transformers.DynamicCache()  # without a config: no layer may forget the start of the prefix
        self._decode(follow([segment]), cache, None)
        return CachedPrefix(cache, len(segment), segment.span)

    @torch.inference_mode()
    def last_hidden(self, prefix: Prefix, suffixes: Sequence[Segment]) -> torch.Tensor:
        """Run the suffixes of several candidates as one packed sequence."""
        if not isinstance(prefix, CachedPrefix):
            raise TypeError("this prefix was not made by this model")
        layout = layout_of(prefix.length, [len(suffix) for suffix in suffixes], self.device)
        return self._decode(side_by_side(suffixes, prefix.span), prefix.fork(), layout)[layout.ends]

    def _decode(self, segment: Segment, cache: Any, layout: Layout | None) -> torch.Tensor:
        """Run the language model; return its (length, hidden) final states. Without a layout: plain causal."""
        output = self._network.model.language_model(
            inputs_embeds=segment.inputs[None],
            position_ids=segment.positions[:, None] if self.axes > 1 else segment.positions,
            past_key_values=cache,
            use_cache=True,
            packed_layout=layout,
            **self._visual_arguments(segment),
        )
        return cast(torch.Tensor, output.last_hidden_state[0])

    def _visual_arguments(self, segment: Segment) -> dict[str, Any]:
        """Return what else the family's decoder takes beside the inputs, such as DeepStack rows."""
        return {}

    @torch.inference_mode()
    def answer_logits(self, hidden: torch.Tensor, ids: Sequence[int]) -> torch.Tensor:
        """Multiply by the answers' rows of the output matrix in float32: bfloat16 would make false ties."""
        rows: torch.Tensor = self._network.get_output_embeddings().weight[list(ids)].float()
        return hidden.float() @ rows.T

    def precision_advice(self) -> str:
        """Say what to do about numbers that are NaN or infinite."""
        return "the photo or the weights are damaged" if self.dtype == "float32" else "try --dtype float32"
