"""Gated DeltaNet layers (arXiv:2412.06464) over a prefix, and over the packed suffixes of several candidates.

Such a layer attends to nothing. What it knows of the past is a state of fixed size: the last inputs of a short
convolution, and one matrix for each head. So a mask cannot keep candidates apart; each of them continues a copy of the
prefix's state instead. Only the convolution and the recurrence need that; the rest of the layer works on packed rows.

The states are kept here and not in transformers' own cache, which before 5.18 or so started anew when several tokens
followed a prefix. This module knows no model.
"""

from __future__ import annotations

import copy
import sys
from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
import transformers
from transformers.activations import ACT2FN

from imgrank.errors import SettingsError
from imgrank.mllm.packed import Layout

CHUNK = 64  # rows that the recurrence takes in one step; shorter sequences are padded to it

_PARTS = ("in_proj_qkv", "in_proj_z", "in_proj_b", "in_proj_a", "conv1d", "A_log", "dt_bias", "norm", "out_proj")
_NUMBERS = ("num_k_heads", "num_v_heads", "head_k_dim", "head_v_dim", "activation", "layer_idx")


@dataclass(frozen=True, eq=False)
class DeltaState:
    """What one layer knows of the prefix.

    Attributes:
        inputs: (1, channels, kernel - 1), the last inputs of the convolution; zeros stand before the first.
        memory: (1, value heads, key dim, value dim), float32 whatever the model's type.
    """

    inputs: torch.Tensor
    memory: torch.Tensor


@dataclass(frozen=True, eq=False)
class Batch:
    """Suffixes that are run side by side, padded at their ends, which in a causal layer changes nothing before.

    Attributes:
        count: how many.
        length: of the longest.
        rows: (n,) int64, their rows in the packed part.
        places: (n,) int64, where those rows lie in (count * length).
    """

    count: int
    length: int
    rows: torch.Tensor
    places: torch.Tensor

    def pad(self, packed: torch.Tensor) -> torch.Tensor:
        """Return (count, length, width) from (packed rows, width), with zeros behind the ends."""
        padded = packed.new_zeros(self.count * self.length, packed.shape[1])
        return padded.index_copy_(0, self.places, packed[self.rows]).view(self.count, self.length, -1)


def batches_of(lengths: Sequence[int], device: str) -> tuple[Batch, ...]:
    """Put the suffixes together that take equally many chunks: then padding costs nothing that is not paid anyway."""
    alike: defaultdict[int, list[tuple[int, int]]] = defaultdict(list)
    for length, end in zip(lengths, accumulate(lengths), strict=True):
        alike[-(-length // CHUNK)].append((end - length, length))
    return tuple(_batch(members, device) for members in alike.values())


def _batch(members: list[tuple[int, int]], device: str) -> Batch:
    longest = max(length for _, length in members)
    rows = torch.cat([torch.arange(start, start + length) for start, length in members])
    places = torch.cat([torch.arange(length) + i * longest for i, (_, length) in enumerate(members)])
    return Batch(len(members), longest, rows.to(device), places.to(device))


class HybridCache(transformers.DynamicCache):  # type: ignore[misc]  # transformers is not typed
    """Keys and values of the attention layers, and the states of the Gated DeltaNet layers.

    Attributes:
        states: by number of the layer; written by the run of the prefix and never again.
        batches: of the suffixes that are run; None while the prefix is.
    """

    def __init__(self, config: Any) -> None:
        super().__init__(config=config)
        self.states: dict[int, DeltaState] = {}
        self.batches: tuple[Batch, ...] | None = None

    def packed(self, layout: Layout) -> HybridCache:
        """Return a view of this cache for one run of packed suffixes."""
        view = copy.copy(self)
        view.batches = batches_of(layout.lengths, layout.device)
        return view


def attach(layer: Any) -> None:
    """Make a Gated DeltaNet layer of transformers run as this module does whenever it is given a `HybridCache`.

    Raises:
        SettingsError: the installed transformers builds the layer from other parts.
    """
    lacking = [name for name in (*_PARTS, *_NUMBERS) if not hasattr(layer, name)]
    if lacking or _recurrence(layer) is None:
        raise SettingsError(
            f"transformers {transformers.__version__} builds {type(layer).__name__} from other parts than imgrank "
            f"knows (it lacks {', '.join(lacking) or 'the chunked recurrence'}); install an older one"
        )
    plain = layer.forward

    def forward(hidden_states: torch.Tensor, **kwargs: Any) -> torch.Tensor:
        cache = kwargs.get("cache", kwargs.get("cache_params"))  # the name before transformers 5.24
        if isinstance(cache, HybridCache):
            return delta_rows(layer, hidden_states[0], cache)[None]
        found: torch.Tensor = plain(hidden_states, **kwargs)
        return found

    layer.forward = forward


def delta_rows(layer: Any, rows: torch.Tensor, cache: HybridCache) -> torch.Tensor:
    """Run one layer: the prefix, whose state is put into the cache, or packed suffixes that continue from that state.

    Args:
        layer: a Gated DeltaNet layer of transformers.
        rows: (rows, hidden), all of the prefix or of the packed suffixes.
        cache: says which of the two by its `batches`.

    Returns:
        (rows, hidden).
    """
    batches = batches_of([len(rows)], str(rows.device)) if cache.batches is None else cache.batches
    mixed = layer.in_proj_qkv(rows)  # (rows, channels): queries, keys, values
    strength = layer.in_proj_b(rows).sigmoid()  # (rows, value heads)
    # In float32, where exp of a large A_log is still finite.
    rate = torch.nn.functional.softplus(layer.in_proj_a(rows).float() + layer.dt_bias)
    decay = -layer.A_log.float().exp() * rate  # (rows, value heads), logarithms
    read = rows.new_empty(len(rows), layer.num_v_heads, layer.head_v_dim)
    state = None if cache.batches is None else cache.states[layer.layer_idx]
    for batch in batches:
        output, after = _continue(layer, batch.pad(mixed), batch.pad(decay), batch.pad(strength), state)
        read[batch.rows] = output.flatten(0, 1)[batch.places].to(read.dtype)
        if cache.batches is None:
            cache.states[layer.layer_idx] = after
    gate = layer.in_proj_z(rows).view(-1, layer.head_v_dim)
    found: torch.Tensor = layer.out_proj(layer.norm(read.view(-1, layer.head_v_dim), gate).view(len(rows), -1))
    return found


def _continue(
    layer: Any, mixed: torch.Tensor, decay: torch.Tensor, strength: torch.Tensor, state: DeltaState | None
) -> tuple[torch.Tensor, DeltaState]:
    """Run convolution and recurrence of (count, length, ...) rows; return what is read, and the state after them."""
    count = len(mixed)
    weight, bias = layer.conv1d.weight, layer.conv1d.bias
    channels, _, kernel = weight.shape
    before = mixed.new_zeros(1, channels, kernel - 1) if state is None else state.inputs
    inputs = torch.cat([before.expand(count, -1, -1), mixed.transpose(1, 2)], dim=2)
    turned = ACT2FN[layer.activation](torch.nn.functional.conv1d(inputs, weight, bias, groups=channels))
    key_width, value_width = layer.num_k_heads * layer.head_k_dim, layer.num_v_heads * layer.head_v_dim
    query, key, value = turned.transpose(1, 2).split([key_width, key_width, value_width], dim=2)
    query, key = (part.unflatten(2, (-1, layer.head_k_dim)) for part in (query, key))
    sharing = layer.num_v_heads // layer.num_k_heads  # value heads of one key head
    if sharing > 1:
        query, key = (part.repeat_interleave(sharing, dim=2) for part in (query, key))
    recurrence = _recurrence(layer)
    assert recurrence is not None  # `attach` saw it
    output, memory = recurrence(
        query.contiguous(),
        key.contiguous(),
        value.unflatten(2, (-1, layer.head_v_dim)).contiguous(),
        g=decay,
        beta=strength,
        initial_state=None if state is None else state.memory.expand(count, -1, -1, -1).contiguous(),
        output_final_state=state is None,
        use_qk_l2norm_in_kernel=True,
    )
    return output, DeltaState(inputs[:, :, inputs.shape[2] - (kernel - 1) :].clone(), memory)


def _recurrence(layer: Any) -> Callable[..., tuple[torch.Tensor, torch.Tensor]] | None:
    """Return what transformers would run for several tokens: flash-linear-attention's kernel or plain torch.

    Older releases hang it on the layer; newer ones have a function that looks for the kernel itself.
    """
    function = getattr(layer, "chunk_gated_delta_rule", None)
    if function is None:
        function = getattr(sys.modules[type(layer).__module__], "torch_chunk_gated_delta_rule", None)
    return function
