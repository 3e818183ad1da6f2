"""What every adapter of a transformers model shares: prompts, prefix, packed suffixes, and the plain forward.

Knows no vision tower and no position scheme; a family's class adds `encode`, `image_segment`, `_plain_inputs`, and what
of its own the decoder needs. Families whose decoder is not plain causal attention bring their own `_layout`.
"""

from __future__ import annotations

import copy
import inspect
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from typing import Any, ClassVar, Self, cast

import jinja2
import numpy as np
import torch
import transformers
from transformers.cache_utils import DynamicLayer

from imgrank.arrays import Floats, Pixels
from imgrank.devices import torch_dtype
from imgrank.errors import ImgrankError, MissingModelError
from imgrank.mllm.base import Prefix, Segment, VisualTokens
from imgrank.mllm.folder import ModelFolder
from imgrank.mllm.loading import load_tokenizer, load_weights
from imgrank.mllm.packed import ATTENTION, Layout, attention_kernel, layout_of
from imgrank.mllm.regions import grid_regions
from imgrank.mllm.segments import follow, side_by_side


class _PrefixLayer(DynamicLayer):  # type: ignore[misc]  # transformers is not typed
    """Keys and values of a prefix: what follows sees them and leaves nothing behind.

    So a forward pass that dies half way, for want of memory, leaves nothing to crop, and the keys of packed suffixes
    are freed layer by layer.
    """

    def update(self, key_states: torch.Tensor, value_states: torch.Tensor, *args: Any, **kwargs: Any) -> Any:
        """Return the prefix's states followed by new ones."""
        return torch.cat([self.keys, key_states], dim=-2), torch.cat([self.values, value_states], dim=-2)


def _frozen_layer(layer: Any) -> _PrefixLayer:
    kept = _PrefixLayer()
    kept.lazy_initialization(layer.keys, layer.values)
    kept.keys, kept.values = layer.keys, layer.values
    return kept


@dataclass(frozen=True, eq=False)
class CachedPrefix:
    """Keys and values of a prefix, and the rows it was made of."""

    cache: Any  # transformers.DynamicCache
    segment: Segment

    @property
    def length(self) -> int:
        """Tokens in the prefix."""
        return len(self.segment)


class DecoderAdapter:
    """Base of the adapters; see `imgrank.mllm.base.VisionLanguageModel` for what the members mean."""

    family: ClassVar[str]
    model_class: ClassVar[str]  # name in transformers; a class of our own is loaded by an own `load`
    axes: ClassVar[int] = 1  # of the position ids

    def __init__(self, folder: ModelFolder, network: Any, tokenizer: Any, *, device: str, dtype: str) -> None:
        self.name, self.revision = folder.name, folder.revision
        self.device, self.dtype = device, dtype
        self._network, self._tokenizer = network, tokenizer
        self._template = folder.chat_template
        arguments = inspect.signature(self._decoder.forward).parameters
        self._cache_argument = "cache" if "cache" in arguments else "past_key_values"  # before transformers 5.24
        self._ends: torch.Tensor | None = None  # of the packed run that is on; see `_read_ends_only`
        self._read_ends_only()
        self.image_token: int = network.config.image_token_id
        self.hidden: int = self._text_config.hidden_size
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

    @property
    def kernel(self) -> str:
        """How packed attention is computed."""
        return attention_kernel(self.device, self._head_dim, torch_dtype(self.dtype))

    @property
    def _head_dim(self) -> int:
        text = self._text_config
        return int(getattr(text, "head_dim", None) or text.hidden_size // text.num_attention_heads)

    @property
    def row_bytes(self) -> int:
        """Memory of one packed token: of the layer that holds most, since layers leave nothing behind."""
        text = self._text_config
        # The stream and its norms; gate, up and their product; queries, keys, values and their turned copies, with
        # room for what attention gathers.
        numbers = 8 * text.hidden_size + 4 * text.intermediate_size + 8 * text.num_attention_heads * self._head_dim
        return int(numbers * torch_dtype(self.dtype).itemsize)

    def compile_layers(self) -> None:
        """Compile the parts of the layers that see neither a cache nor a layout, once for all lengths."""
        last = self._decoder.layers[-1].mlp  # runs on a few rows only; see `_read_ends_only`
        for module in self._decoder.modules():
            if type(module).__name__.endswith(("MLP", "RMSNorm")) and module is not last:
                module.compile(dynamic=True)

    @property
    def _text_config(self) -> Any:
        return self._network.config.text_config

    @property
    def _decoder(self) -> Any:
        """The language model without its output layer."""
        return self._network.model.language_model

    # Prompts

    def chat(self, messages: Sequence[Mapping[str, Any]]) -> str:
        """Write messages in the chat format of the folder's template."""
        try:
            text = self._tokenizer.apply_chat_template(
                [dict(message) for message in messages],
                chat_template=self._template,
                add_generation_prompt=True,
                tokenize=False,
                enable_thinking=False,  # templates that know the word end where the answer begins, not its thoughts
            )
        except (ValueError, TypeError, jinja2.TemplateError) as error:
            raise MissingModelError(self.name, f"its chat template cannot be used: {error}") from error
        return self._wrap_images(cast(str, text))

    def _wrap_images(self, text: str) -> str:
        """Put around each image what the family's processor puts there, where its template does not."""
        return text

    def tokenize(self, text: str) -> list[int]:
        """Return the token ids of text that may hold special tokens."""
        return cast(list[int], self._tokenizer(text, add_special_tokens=False)["input_ids"])

    # Visual tokens

    @property
    def encoding_threads(self) -> int:
        """One: a vision tower fills its device."""
        return 1

    @torch.inference_mode()
    def encode(self, images: Sequence[Pixels], *, longer_side: int, max_tokens: int) -> list[VisualTokens]:
        """Compute the visual tokens of each photo, one photo at a time."""
        return [self._encode(image, longer_side, max_tokens) for image in images]

    def _encode(self, image: Pixels, longer_side: int, max_tokens: int) -> VisualTokens:
        raise NotImplementedError

    def decode_side(self, longer_side: int) -> int:
        """Return `longer_side`: the model sees no more than that."""
        return longer_side

    def regions(self, tokens: VisualTokens, size: tuple[int, int], photo: Pixels | None) -> Floats | None:
        """Return the cells of the grid, which is stretched over the photo."""
        return grid_regions(tokens.grid, tokens.tiles)

    @property
    def on_grid(self) -> bool:
        """Whether visual tokens are cells of a grid."""
        return True

    def _checked(self, vectors: torch.Tensor) -> Floats:
        """Return visual tokens as float32 on the host.

        Raises:
            ImgrankError: one is NaN or infinite.
        """
        values: Floats = vectors.float().cpu().numpy()
        if not np.isfinite(values).all():
            raise ImgrankError(f"{self.name} gave NaN or infinite visual tokens; {self.precision_advice()}")
        return np.ascontiguousarray(values)

    # Scoring

    def text_segment(self, ids: Sequence[int]) -> Segment:
        """Return text: each token is one step on all axes."""
        rows = torch.tensor(ids, dtype=torch.long, device=self.device)
        with torch.inference_mode():
            inputs = self._network.get_input_embeddings()(rows)
        positions = torch.arange(len(ids), device=self.device).expand(self.axes, -1)
        visual = torch.zeros(len(ids), dtype=torch.bool, device=self.device)
        return Segment(inputs, visual, inputs.new_zeros(self.levels - 1, 0, self.hidden), positions, len(ids))

    def image_segment(self, tokens: VisualTokens) -> Segment:
        """Return an image: its tokens stand at their place in the full sequence, whichever of them are left."""
        index = torch.from_numpy(tokens.index).to(self.device)
        return self._visual_segment(tokens, index.expand(self.axes, -1), tokens.full_length)

    def _visual_segment(self, tokens: VisualTokens, positions: torch.Tensor, span: int) -> Segment:
        vectors = torch.from_numpy(tokens.vectors).to(self.device, torch_dtype(self.dtype))
        visual = torch.ones(len(tokens), dtype=torch.bool, device=self.device)
        return Segment(vectors[:, 0], visual, vectors[:, 1:].transpose(0, 1).contiguous(), positions, span)

    @torch.inference_mode()
    def prefill(self, segment: Segment) -> Prefix:
        """Run what all candidates share."""
        cache = self._new_cache()
        with self._reading(torch.zeros(0, dtype=torch.long, device=self.device)):
            self._decode(follow([segment]), cache, self._layout(None, [segment]))
        return CachedPrefix(self._frozen(cache), segment)

    def _new_cache(self) -> Any:
        return transformers.DynamicCache()  # without a config: no layer may forget the start of the prefix

    def _frozen(self, cache: Any) -> Any:
        """Return a cache with the same states that suffixes leave as it is."""
        frozen = copy.copy(cache)
        frozen.layers = [_frozen_layer(layer) if isinstance(layer, DynamicLayer) else layer for layer in cache.layers]
        return frozen

    @torch.inference_mode()
    def last_hidden(self, prefix: Prefix, suffixes: Sequence[Segment]) -> torch.Tensor:
        """Run the suffixes of several candidates as one packed sequence."""
        return self._run(prefix, suffixes, None)

    @torch.inference_mode()
    def end_attention(self, prefix: Prefix, suffix: Segment) -> torch.Tensor:
        """Return what the last row of a suffix attends to, layer by layer."""
        found: list[torch.Tensor] = []
        self._run(prefix, [suffix], found.append)
        return torch.stack(found)

    def _run(
        self, prefix: Prefix, suffixes: Sequence[Segment], watch: Callable[[torch.Tensor], None] | None
    ) -> torch.Tensor:
        if not isinstance(prefix, CachedPrefix):
            raise TypeError("this prefix was not made by this model")
        layout = self._layout(prefix, suffixes)
        assert layout is not None  # only a prefix may do without
        if watch is not None:
            layout = replace(layout, watch=watch)
        with self._reading(layout.ends):
            return self._decode(side_by_side(suffixes, prefix.segment.span), prefix.cache, layout)[layout.ends]

    def _layout(self, prefix: CachedPrefix | None, suffixes: Sequence[Segment]) -> Layout | None:
        """Say what each row may attend to; None: plain causal attention, for the only suffix of no prefix."""
        if prefix is None:
            return None
        return layout_of(prefix.length, [len(suffix) for suffix in suffixes], self.device, kernel=self.kernel)

    def _read_ends_only(self) -> None:
        """Let the last layer's MLP, more than half of that layer, compute only the rows that somebody reads.

        Nothing follows it but the final norm and the answers, which want the last row of each suffix, and of a prefix
        none. The zeros in the other rows go nowhere.
        """
        mlp = self._decoder.layers[-1].mlp
        whole = mlp.forward

        def forward(states: torch.Tensor, *args: Any, **kwargs: Any) -> torch.Tensor:
            if self._ends is None:
                found: torch.Tensor = whole(states, *args, **kwargs)
                return found
            output = torch.zeros_like(states)
            if len(self._ends):
                output[:, self._ends] = whole(states[:, self._ends], *args, **kwargs)
            return output

        mlp.forward = forward

    @contextmanager
    def _reading(self, ends: torch.Tensor) -> Iterator[None]:
        """Say which rows of the final states will be read."""
        self._ends = ends
        try:
            yield
        finally:
            self._ends = None

    def _decode(self, segment: Segment, cache: Any, layout: Layout | None) -> torch.Tensor:
        """Run the language model; return its (length, hidden) final states. Without a layout: plain causal."""
        output = self._decoder(
            inputs_embeds=segment.inputs[None],
            position_ids=segment.positions[:, None] if self.axes > 1 else segment.positions,
            use_cache=True,
            packed_layout=layout,
            **{self._cache_argument: cache},
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

    # The measure of all this

    @torch.inference_mode()
    def plain_logits(
        self, ids: Sequence[int], images: Sequence[Pixels], answers: Sequence[int], *, longer_side: int, max_tokens: int
    ) -> torch.Tensor:
        """Run transformers' own forward on token ids and pixels."""
        inputs, expansions = self._plain_inputs(images, longer_side, max_tokens)
        places = iter(expansions)
        whole = [part for token in ids for part in (next(places) if token == self.image_token else [token])]
        with self._plain_attention():
            logits = self._plain_forward(torch.tensor([whole], device=self.device), inputs)
        return logits[0, -1, list(answers)].float()

    def _plain_inputs(
        self, images: Sequence[Pixels], longer_side: int, max_tokens: int
    ) -> tuple[dict[str, torch.Tensor], list[list[int]]]:
        """Return the model's arguments for pixels, and the ids that stand for each image in `input_ids`."""
        raise NotImplementedError

    def _plain_forward(self, ids: torch.Tensor, inputs: dict[str, torch.Tensor]) -> torch.Tensor:
        """Return (1, length, vocabulary) logits, or at least those of the last position."""
        return cast(torch.Tensor, self._network(input_ids=ids, use_cache=False, logits_to_keep=1, **inputs).logits)

    @contextmanager
    def _plain_attention(self) -> Iterator[None]:
        """Attend as transformers does by default, with masks of its own making."""
        self._network.set_attn_implementation({"text_config": "sdpa"})
        try:
            yield
        finally:
            self._network.set_attn_implementation({"text_config": ATTENTION})

    def precision_advice(self) -> str:
        """Say what to do about numbers that are NaN or infinite."""
        return "the photo or the weights are damaged" if self.dtype == "float32" else "try --dtype float32"
