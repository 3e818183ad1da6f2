"""Attention over one packed sequence that holds the suffixes of several candidates after a shared prefix.

The sequence is [prefix | suffix 1 | suffix 2 | ...] in a batch of one: every other part of a transformer works on rows
and needs no padding. Only attention must know that a suffix sees the prefix and, causally, itself. Suffixes of equal
length are computed together, so pruned candidates, which all have the same number of tokens, take one kernel call; no
mask grows with the square of the packed length. This module knows no model.
"""

from __future__ import annotations

from collections import defaultdict
from dataclasses import dataclass
from itertools import accumulate
from typing import Any

import torch
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

ATTENTION = "imgrank_packed"  # the name under which transformers finds `packed_attention`


@dataclass(frozen=True, eq=False)
class Group:
    """Suffixes of equal length.

    Attributes:
        rows: (suffixes * length,) int64, their rows in the packed part.
        count: how many suffixes.
        mask: (length, prefix + length) bool, True where a row may attend.
    """

    rows: torch.Tensor
    count: int
    mask: torch.Tensor


@dataclass(frozen=True, eq=False)
class Layout:
    """Where each suffix of a packed sequence lies.

    Attributes:
        prefix: tokens in the cache, seen by every suffix.
        ends: (suffixes,) int64, the last row of each suffix in the packed part.
        groups: the suffixes by length.
    """

    prefix: int
    ends: torch.Tensor
    groups: tuple[Group, ...]


def layout_of(prefix: int, lengths: list[int], device: str) -> Layout:
    """Plan a packed sequence of suffixes with the given lengths, in order, after `prefix` cached tokens."""
    ends = list(accumulate(lengths))
    starts: defaultdict[int, list[int]] = defaultdict(list)
    for length, end in zip(lengths, ends, strict=True):
        starts[length].append(end - length)
    groups = []
    for length, first in starts.items():
        rows = torch.tensor(first)[:, None] + torch.arange(length)
        mask = torch.ones(length, prefix + length, dtype=torch.bool).tril(prefix)
        groups.append(Group(rows.flatten().to(device), len(first), mask.to(device)))
    return Layout(prefix, torch.tensor(ends, device=device) - 1, tuple(groups))


def register() -> None:
    """Make `packed_attention` known to transformers; called before a model is loaded, and harmless twice."""
    AttentionInterface.register(ATTENTION, packed_attention)


def packed_attention(
    module: torch.nn.Module,
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    attention_mask: torch.Tensor | None,
    scaling: float | None = None,
    packed_layout: Layout | None = None,
    **kwargs: Any,
) -> tuple[torch.Tensor, None]:
    """Attend within [prefix | suffix] for each suffix; without a layout, plain causal attention.

    Args:
        module: the attention layer.
        query: (1, heads, rows, dim) of the packed part.
        key: (1, key heads, prefix + rows, dim); heads is a multiple of key heads.
        value: like `key`.
        attention_mask: for plain attention only.
        scaling: factor of the scores; None is 1 / sqrt(dim).
        packed_layout: where the suffixes lie.
        kwargs: whatever else the layer passes to plain attention.

    Returns:
        (1, rows, heads, dim), and None for the weights, as transformers expects.
    """
    if packed_layout is None:
        plain: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **kwargs
        )
        return plain
    _, heads, rows, dim = query.shape
    shared = packed_layout.prefix
    key_heads = key.shape[1]
    sharing = heads // key_heads  # query heads per key head
    output = query.new_empty(rows, heads, dim)
    for group in packed_layout.groups:
        count, length = group.count, len(group.mask)
        # The query heads of one key head are laid out as more rows, so that keys need not be repeated for them.
        asked = query[0, :, group.rows].view(key_heads, sharing, count, length, dim).permute(2, 0, 1, 3, 4)
        found = torch.nn.functional.scaled_dot_product_attention(
            asked.reshape(count, key_heads, sharing * length, dim),
            _with_prefix(key[0], shared, group),
            _with_prefix(value[0], shared, group),
            attn_mask=group.mask.repeat(sharing, 1),
            scale=scaling,
        )
        found = found.view(count, key_heads, sharing, length, dim).permute(0, 3, 1, 2, 4)
        output[group.rows] = found.reshape(count * length, heads, dim)
    return output[None], None


def _with_prefix(states: torch.Tensor, shared: int, group: Group) -> torch.Tensor:
    """Return (suffixes, key heads, prefix + length, dim) from (key heads, prefix + rows, dim)."""
    heads, _, dim = states.shape
    prefix = states[None, :, :shared].expand(group.count, -1, -1, -1)
    own = states[:, shared + group.rows].view(heads, group.count, -1, dim).transpose(0, 1)
    return torch.cat([prefix, own], dim=2)
