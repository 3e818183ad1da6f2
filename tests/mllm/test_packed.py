from dataclasses import replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from imgrank.mllm import packed
from imgrank.mllm.packed import RowFacts, layout_of, packed_attention


def dense_mask(prefix: int, lengths: list[int]) -> torch.Tensor:
    """Who may see whom, cell by cell."""
    owner = [number for number, length in enumerate(lengths) for _ in range(length)]
    rows = len(owner)
    return torch.tensor(
        [
            [
                key < prefix or (owner[key - prefix] == owner[row] and key - prefix <= row)
                for key in range(prefix + rows)
            ]
            for row in range(rows)
        ]
    )


def test_layout_of_two_short_suffixes_and_a_long_one():
    layout = layout_of(1, [2, 3, 2], "cpu")
    assert layout.ends.tolist() == [1, 4, 6]
    pair, single = layout.groups
    assert pair.rows.tolist() == [[0, 1], [5, 6]]
    assert pair.mask.int().tolist() == [[[1, 1, 0], [1, 1, 1]]]
    assert single.rows.tolist() == [[2, 3, 4]]
    assert single.mask.int().tolist() == [[[1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]]


def test_windows_count_positions_and_images_see_both_ways():
    # Prefix: text at 0, text at 1. Suffix: an image of which two tokens are left, at 2 and 5; text at 6. Window 3.
    facts = RowFacts(torch.tensor([0, 1, 2, 5, 6]), torch.tensor([-1, -1, 0, 0, -1]), 3)
    (group,) = layout_of(2, [3], "cpu", facts).groups
    assert group.mask.int().tolist() == [[[1, 1, 1, 1, 0], [1, 1, 1, 1, 0], [1, 1, 1, 1, 1]]]
    assert group.sliding.int().tolist() == [[[1, 1, 1, 1, 0], [0, 0, 0, 1, 0], [0, 0, 0, 1, 1]]]


def dense_facts(facts: RowFacts, prefix: int, mask: torch.Tensor, sliding: bool) -> torch.Tensor:
    """Lay the rules of facts over a mask of who belongs to whom, cell by cell."""
    mask = mask.clone()
    for row in range(mask.shape[0]):
        for key in range(mask.shape[1]):
            near = not sliding or facts.positions[prefix + row] - facts.positions[key] < facts.window
            image = facts.images[key] == facts.images[prefix + row] >= 0
            mask[row, key] &= bool(near and (key <= prefix + row or image))
    return mask


@given(
    prefix=st.integers(0, 5),
    lengths=st.lists(st.integers(1, 4), min_size=1, max_size=6),
    sharing=st.sampled_from([1, 2, 3]),
    kernel=st.sampled_from(["sdpa", "flex"]),
    with_facts=st.booleans(),
    window=st.sampled_from([None, 3]),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=80, deadline=None)
def test_both_kernels_equal_attention_under_a_dense_mask(prefix, lengths, sharing, kernel, with_facts, window, seed):
    random = torch.Generator().manual_seed(seed)
    rows, key_heads, dim = sum(lengths), 2, 16
    query = torch.randn(1, key_heads * sharing, rows, dim, generator=random)
    key, value = (torch.randn(1, key_heads, prefix + rows, dim, generator=random) for _ in range(2))
    mask, facts = dense_mask(prefix, lengths), None
    if with_facts:
        positions = torch.randint(0, 3, (prefix + rows,), generator=random).cumsum(0)
        # Images of neighbouring rows; those of one suffix never share a number with another's.
        owner = torch.tensor([-1] * prefix + [n for n, length in enumerate(lengths) for _ in range(length)])
        picture = torch.randint(0, 2, (prefix + rows,), generator=random)
        facts = RowFacts(positions, torch.where(picture > 0, owner + 1, -1), 3)
        # Blind rows have no defined answer: a window always holds the row itself.
        wide = torch.ones_like(mask)
        wide[:, prefix:] = torch.tensor(
            [[owner[prefix + row] == owner[prefix + key] for key in range(rows)] for row in range(rows)]
        )
        mask = dense_facts(facts, prefix, wide, window is not None)
    layout = replace(layout_of(prefix, lengths, "cpu", facts), kernel=kernel)
    found, _ = packed_attention(
        torch.nn.Identity(), query, key, value, None, scaling=0.3, packed_layout=layout, sliding_window=window
    )
    wide_key, wide_value = (states.repeat_interleave(sharing, dim=1) for states in (key, value))
    scores = (query @ wide_key.transpose(2, 3) * 0.3).masked_fill(~mask, float("-inf"))
    expected = (scores.softmax(-1) @ wide_value).transpose(1, 2)  # (1, rows, heads, dim)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)


def test_without_a_layout_attention_is_plain_and_causal():
    module = torch.nn.Identity()
    module.is_causal, module.num_key_value_groups = True, 1
    random = torch.Generator().manual_seed(0)
    query, key, value = (torch.randn(1, 2, 5, 8, generator=random) for _ in range(3))
    found, _ = packed_attention(module, query, key, value, None, scaling=0.3)
    scores = (query @ key.transpose(2, 3) * 0.3).masked_fill(~dense_mask(0, [5]), float("-inf"))
    torch.testing.assert_close(found, (scores.softmax(-1) @ value).transpose(1, 2), atol=1e-5, rtol=0)


def test_a_kernel_that_fails_is_replaced_and_running_out_of_memory_is_not_hidden(monkeypatch):
    random = torch.Generator().manual_seed(0)
    states = [torch.randn(1, 2, 5, 24, generator=random) for _ in range(3)]
    plain, flex = (replace(layout_of(0, [3, 2], "cpu"), kernel=kernel) for kernel in ("sdpa", "flex"))
    expected, _ = packed_attention(torch.nn.Identity(), *states, None, packed_layout=plain)
    monkeypatch.setattr(packed, "_FLEX_FAILED", set())

    def full(*arguments, **named):
        raise torch.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(packed, "_flex", full)
    with pytest.raises(torch.OutOfMemoryError):
        packed_attention(torch.nn.Identity(), *states, None, packed_layout=flex)
    tries = []

    def broken(*arguments, **named):
        tries.append(1)
        raise ValueError("no valid triton configs")

    monkeypatch.setattr(packed, "_flex", broken)
    for _ in range(2):
        found, _ = packed_attention(torch.nn.Identity(), *states, None, packed_layout=flex)
        torch.testing.assert_close(found, expected)
    assert len(tries) == 1
