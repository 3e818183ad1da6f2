"""How many multiplications the language model of a loaded model makes of a token; counted, not measured."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import nn

from imgrank.errors import SettingsError
from imgrank.mllm.adapter import DecoderAdapter
from imgrank.mllm.base import VisionLanguageModel


@dataclass(frozen=True)
class DecoderWork:
    """What the work of the decoder follows from.

    Attributes:
        weights: numbers of its matrices that a token is multiplied by: without embeddings and output layer, and of a
            mixture of experts with those of a token's experts only.
        last: those of them in the last layer's MLP, which only the last token of each suffix is multiplied by.
        windows: for each layer with attention how far back a token sees; None: everything.
        heads: of attention.
        dim: of a head.
    """

    weights: float
    last: float
    windows: tuple[int | None, ...]
    heads: int
    dim: int

    def prefix(self, length: int) -> float:
        """Return the floating-point operations of a prefix."""
        return length * (2 * (self.weights - self.last) + self._attention(length / 2))

    def suffixes(self, prefix: int, lengths: Sequence[int]) -> float:
        """Return the floating-point operations of suffixes that each follow the same prefix."""
        rows = sum(
            length * (2 * (self.weights - self.last) + self._attention(prefix + length / 2)) for length in lengths
        )
        return rows + 2 * self.last * len(lengths)

    def _attention(self, seen: float) -> float:
        """Return those of one row that sees so many others: a product for the score, and one for the value."""
        rows = sum(seen if window is None else min(seen, window) for window in self.windows)
        return 4 * self.heads * self.dim * rows


def decoder_work(model: VisionLanguageModel) -> DecoderWork:
    """Count the work of a model's decoder.

    Raises:
        SettingsError: the model is none of transformers'.
    """
    if not isinstance(model, DecoderAdapter):
        raise SettingsError(f"the work of {model.name!r} cannot be counted: its adapter has no decoder of transformers")
    decoder, text = model._decoder, model._text_config
    embeddings = {id(part.weight) for part in decoder.modules() if isinstance(part, nn.Embedding)}
    experts = getattr(text, "num_experts", None) or getattr(text, "num_local_experts", None)
    active = text.num_experts_per_tok / experts if experts else 1.0

    def multiplied(part: nn.Module) -> float:
        return sum(
            weight.numel() * (active if ".experts." in f".{name}" else 1.0)
            for name, weight in part.named_parameters()
            if weight.ndim > 1 and id(weight) not in embeddings
        )

    kinds = getattr(text, "layer_types", None) or ["full_attention"] * text.num_hidden_layers
    windows = {"full_attention": None, "sliding_attention": getattr(text, "sliding_window", None)}
    heads = text.num_attention_heads
    return DecoderWork(
        weights=multiplied(decoder),
        last=multiplied(decoder.layers[-1].mlp),
        windows=tuple(windows[kind] for kind in kinds if kind in windows),
        heads=heads,
        dim=getattr(text, "head_dim", None) or text.hidden_size // heads,
    )
