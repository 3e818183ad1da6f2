"""Attention over one packed sequence that holds the suffixes of several candidates after a shared prefix.

The sequence is [prefix | suffix 1 | suffix 2 | ...] in a batch of one: every other part of a transformer works on rows
and needs no padding. Only attention must know that a suffix sees the prefix and itself. Two kernels do that:

- "flex" (CUDA): FlexAttention with a block mask over the whole sequence; nothing is copied, empty blocks are skipped.
- "sdpa" (everywhere): suffixes of equal length are computed together, so pruned candidates, which all have the same
  number of tokens, take one call; no mask grows with the square of the packed length.

This module knows no model.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, cached_property
from itertools import accumulate
from typing import Any, cast

import torch
from torch.nn.attention.flex_attention import BlockMask, create_block_mask, flex_attention
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from imgrank.devices import is_out_of_memory
from imgrank.mllm.base import Segment

ATTENTION = "imgrank_packed"  # the name under which transformers finds `packed_attention`
_FLEX_FAILED: set[int] = set()  # sizes of heads for which the compiler of FlexAttention has given up


@dataclass(frozen=True, eq=False)
class RowFacts:
    """What masks that are not plain causal must know of the rows of [prefix | suffix 1 | ...].

    Attributes:
        positions: (prefix + rows,) int64, for sliding windows: the distance of two tokens is that of their positions
            and not of their rows, so that pruning moves nothing into or out of a window.
        images: (prefix + rows,) int64, the same number (from 0) for the rows of one image, which see each other both
            ways; -1 for text.
        window: how far back a token of a sliding layer sees; None where no layer slides.
    """

    positions: torch.Tensor
    images: torch.Tensor
    window: int | None

    def allows(self, query: torch.Tensor, key: torch.Tensor, *, sliding: bool) -> torch.Tensor:
        """Tell which rows see which, of those that may at all; `query` and `key` broadcast against each other."""
        seen = (key <= query) | ((self.images[query] == self.images[key]) & (self.images[query] >= 0))
        if sliding and self.window is not None:
            # The window cuts images, too. Releases of transformers around 5.5 left them whole; the two are the same
            # for windows that hold an image.
            seen = seen & (self.positions[key] > self.positions[query] - self.window)
        return seen


@dataclass(frozen=True, eq=False)
class Group:
    """Suffixes of equal length.

    Attributes:
        rows: (suffixes, length) int64, their rows in the packed part.
        mask: (suffixes or 1, length, prefix + length) bool, True where a row may attend.
        sliding: the same for layers with a sliding window.
    """

    rows: torch.Tensor
    mask: torch.Tensor
    sliding: torch.Tensor


@dataclass(frozen=True, eq=False)
class Layout:
    """Where each suffix of a packed sequence lies, and what it may attend to.

    Attributes:
        prefix: tokens in the cache, seen by every suffix.
        lengths: of the suffixes.
        device: of the masks.
        kernel: "sdpa" or "flex".
        facts: None for plain causal models.
        watch: told at every layer what the last row of the only suffix attends to, as `end_weights` gives it.
    """

    prefix: int
    lengths: tuple[int, ...]
    device: str
    kernel: str = "sdpa"
    facts: RowFacts | None = None
    watch: Callable[[torch.Tensor], None] | None = None

    @cached_property
    def ends(self) -> torch.Tensor:
        """(suffixes,) int64, the last row of each suffix in the packed part."""
        return torch.tensor(list(accumulate(self.lengths)), device=self.device) - 1

    @cached_property
    def groups(self) -> tuple[Group, ...]:
        """The suffixes by length."""
        starts: defaultdict[int, list[int]] = defaultdict(list)
        for length, end in zip(self.lengths, accumulate(self.lengths), strict=True):
            starts[length].append(end - length)
        return tuple(self._group(length, first) for length, first in starts.items())

    def _group(self, length: int, starts: list[int]) -> Group:
        rows = torch.tensor(starts)[:, None] + torch.arange(length)
        rows = rows.to(self.device)
        if self.facts is None:
            mask = torch.ones(1, length, self.prefix + length, dtype=torch.bool).tril(self.prefix).to(self.device)
            return Group(rows, mask, mask)
        own = self.prefix + rows  # (suffixes, length)
        shared = torch.arange(self.prefix, device=self.device).expand(len(starts), -1)
        key = torch.cat([shared, own], dim=1)[:, None, :]
        masks = [self.facts.allows(own[:, :, None], key, sliding=sliding) for sliding in (False, True)]
        return Group(rows, *masks)

    @cached_property
    def block_mask(self) -> BlockMask:
        """What the flex kernel skips and masks."""
        return self._block_mask(sliding=False)

    @cached_property
    def sliding_block_mask(self) -> BlockMask:
        """The same for layers with a sliding window."""
        return self._block_mask(sliding=True)

    def _block_mask(self, *, sliding: bool) -> BlockMask:
        prefix, rows, facts = self.prefix, sum(self.lengths), self.facts
        owner = torch.repeat_interleave(
            torch.arange(len(self.lengths), device=self.device), torch.tensor(self.lengths, device=self.device)
        )
        # The prefix belongs to everyone; as a tensor, because mask functions may not branch.
        owner = torch.cat([owner.new_full((prefix,), -1), owner])

        def sees(batch: Any, head: Any, query: torch.Tensor, key: torch.Tensor) -> torch.Tensor:
            query = query + prefix
            mine = (owner[key] == -1) | (owner[key] == owner[query])
            return mine & (key <= query if facts is None else facts.allows(query, key, sliding=sliding))

        return create_block_mask(sees, None, None, rows, prefix + rows, device=self.device)


def layout_of(
    prefix: int, lengths: Sequence[int], device: str, facts: RowFacts | None = None, kernel: str = "sdpa"
) -> Layout:
    """Plan a packed sequence of suffixes with the given lengths, in order, after `prefix` cached tokens."""
    return Layout(prefix, tuple(lengths), device, kernel, facts)


@cache
def attention_kernel(device: str, dim: int = 128, dtype: torch.dtype = torch.float16) -> str:
    """Return the kernel for packed attention with heads of `dim` numbers: "flex" where it works, else "sdpa".

    FlexAttention is tried once: it needs a compiler, and a card that Triton knows and that has room for such heads.
    """
    if not device.startswith("cuda"):
        return "sdpa"
    random = torch.Generator(device).manual_seed(0)
    states = torch.randn(3, 1, 2, 200, dim, generator=random, device=device, dtype=dtype)
    query, key, value = states[0], states[1, :, :1], states[2, :, :1]
    places = torch.arange(200, device=device)
    facts = RowFacts(places, torch.where((places > 20) & (places < 60), 0, -1), 50)
    layout = Layout(0, (130, 70), device, "sdpa", facts)
    try:
        found = _flex(query, key, value, replace(layout, kernel="flex"), None, sliding=True)
        agrees = torch.allclose(found, _sdpa(query, key, value, layout, None, sliding=True), atol=2e-2)
    except Exception:  # noqa: BLE001  # whatever the compiler chain raises: the other kernel is there for that
        return "sdpa"
    return "flex" if agrees else "sdpa"


def image_numbers(segments: Sequence[Segment]) -> torch.Tensor:
    """Return (rows,) int64: a number for each image, -1 for text.

    Text must stand between any two images, as it does in the families that need this, so that visual rows in a row are
    one image.
    """
    visual = torch.cat([segment.visual for segment in segments])
    before = torch.cat([torch.cat([s.visual.new_zeros(1), s.visual])[:-1] for s in segments])
    return torch.where(visual, (visual & ~before).cumsum(0) - 1, -1)


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
    sliding_window: int | None = None,
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
        sliding_window: of the layer; with a layout, any but None chooses the layout's sliding masks.
        kwargs: whatever else the layer passes to plain attention.

    Returns:
        (1, rows, heads, dim), and None for the weights, as transformers expects.
    """
    if packed_layout is None:
        plain: tuple[torch.Tensor, None] = sdpa_attention_forward(
            module, query, key, value, attention_mask, scaling=scaling, **kwargs
        )
        return plain
    sliding = sliding_window is not None
    if packed_layout.watch is not None:
        packed_layout.watch(end_weights(query, key, packed_layout, scaling, sliding=sliding))
    if packed_layout.kernel == "flex" and query.shape[-1] not in _FLEX_FAILED:
        try:
            return _flex(query, key, value, packed_layout, scaling, sliding=sliding), None
        except Exception as error:
            if is_out_of_memory(error):
                raise
            # The trial run in `attention_kernel` cannot stand for every shape.
            _FLEX_FAILED.add(query.shape[-1])
    return _sdpa(query, key, value, packed_layout, scaling, sliding=sliding), None


def end_weights(
    query: torch.Tensor, key: torch.Tensor, layout: Layout, scaling: float | None, *, sliding: bool
) -> torch.Tensor:
    """Return (heads, prefix + rows) float32, the attention of the last row of the only suffix; rows sum to 1.

    Kernels do not give weights; one row of them is cheap to compute again.
    """
    (group,) = layout.groups
    heads, dim = query.shape[1], query.shape[-1]
    keys = key[0].float().repeat_interleave(heads // key.shape[1], dim=0)  # (heads, prefix + rows, dim)
    scores = (keys @ query[0, :, -1, :, None].float())[..., 0] * (dim**-0.5 if scaling is None else scaling)
    seen = (group.sliding if sliding else group.mask)[0, -1]
    return scores.masked_fill(~seen, -torch.inf).softmax(dim=-1)


def _sdpa(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    layout: Layout,
    scaling: float | None,
    *,
    sliding: bool,
) -> torch.Tensor:
    _, heads, rows, dim = query.shape
    key_heads = key.shape[1]
    sharing = heads // key_heads  # query heads per key head
    output = query.new_empty(rows, heads, dim)
    for group in layout.groups:
        count, length = group.rows.shape
        mask = group.sliding if sliding else group.mask
        # The query heads of one key head are laid out as more rows, so that keys need not be repeated for them.
        asked = query[0, :, group.rows].view(key_heads, sharing, count, length, dim).permute(2, 0, 1, 3, 4)
        found = torch.nn.functional.scaled_dot_product_attention(
            asked.reshape(count, key_heads, sharing * length, dim),
            _with_prefix(key[0], layout.prefix, group.rows),
            _with_prefix(value[0], layout.prefix, group.rows),
            attn_mask=mask.repeat(1, sharing, 1)[:, None],
            scale=scaling,
        )
        found = found.view(count, key_heads, sharing, length, dim).permute(0, 3, 1, 2, 4)
        output[group.rows] = found.reshape(count, length, heads, dim)
    return output[None]


def _with_prefix(states: torch.Tensor, shared: int, rows: torch.Tensor) -> torch.Tensor:
    """Return (suffixes, key heads, prefix + length, dim) from (key heads, prefix + rows, dim)."""
    prefix = states[None, :, :shared].expand(len(rows), -1, -1, -1)
    own = states[:, shared + rows].transpose(0, 1)
    return torch.cat([prefix, own], dim=2)


def _flex(
    query: torch.Tensor,
    key: torch.Tensor,
    value: torch.Tensor,
    layout: Layout,
    scaling: float | None,
    *,
    sliding: bool,
) -> torch.Tensor:
    mask = layout.sliding_block_mask if sliding else layout.block_mask
    found = _compiled(query.device.type)(query, key, value, block_mask=mask, scale=scaling, enable_gqa=True)
    return found.transpose(1, 2)


@cache
def _compiled(device_type: str) -> Callable[..., torch.Tensor]:
    """Return FlexAttention as a kernel; uncompiled it computes the whole matrix, which only a test wants."""
    compiled: Any = flex_attention if device_type == "cpu" else torch.compile(flex_attention, dynamic=True)
    return cast(Callable[..., torch.Tensor], compiled)
