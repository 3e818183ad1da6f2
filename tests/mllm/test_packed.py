import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from imgrank.mllm.packed import layout_of, packed_attention


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
    assert (pair.count, pair.rows.tolist()) == (2, [0, 1, 5, 6])
    assert pair.mask.int().tolist() == [[1, 1, 0], [1, 1, 1]]
    assert (single.count, single.rows.tolist()) == (1, [2, 3, 4])
    assert single.mask.int().tolist() == [[1, 1, 0, 0], [1, 1, 1, 0], [1, 1, 1, 1]]


@given(
    prefix=st.integers(0, 5),
    lengths=st.lists(st.integers(1, 4), min_size=1, max_size=6),
    sharing=st.sampled_from([1, 2, 3]),
    seed=st.integers(0, 2**31),
)
@settings(max_examples=60, deadline=None)
def test_grouped_attention_equals_attention_under_a_dense_mask(prefix, lengths, sharing, seed):
    random = torch.Generator().manual_seed(seed)
    rows, key_heads, dim = sum(lengths), 2, 8
    query = torch.randn(1, key_heads * sharing, rows, dim, generator=random)
    key, value = (torch.randn(1, key_heads, prefix + rows, dim, generator=random) for _ in range(2))
    found, _ = packed_attention(
        torch.nn.Identity(), query, key, value, None, scaling=0.3, packed_layout=layout_of(prefix, lengths, "cpu")
    )
    wide_key, wide_value = (states.repeat_interleave(sharing, dim=1) for states in (key, value))
    scores = (query @ wide_key.transpose(2, 3) * 0.3).masked_fill(~dense_mask(prefix, lengths), float("-inf"))
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
