"""Gated DeltaNet layers with a prefix and packed suffixes, against transformers' own layer on whole sequences."""

import copy

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.models.qwen3_5.modeling_qwen3_5 import Qwen3_5GatedDeltaNet

from imgrank.errors import SettingsError
from imgrank.mllm.delta import HybridCache, attach, batches_of, delta_rows
from imgrank.mllm.packed import layout_of

WIDTH = 24


def config(kernel: int = 4) -> transformers.Qwen3_5TextConfig:
    return transformers.Qwen3_5TextConfig(
        hidden_size=WIDTH,
        num_hidden_layers=4,
        linear_conv_kernel_dim=kernel,
        linear_num_key_heads=2,
        linear_num_value_heads=4,
        linear_key_head_dim=16,
        linear_value_head_dim=5,
        num_attention_heads=2,
        num_key_value_heads=1,
        head_dim=8,
        rms_norm_eps=0.01,  # else what is read of an almost empty memory is blown up, rounding errors and all
    )


def delta_layer(kernel: int = 4) -> torch.nn.Module:
    """A layer that forgets slowly, so that a state that is lost or wrong shows many rows later."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        layer = Qwen3_5GatedDeltaNet(config(kernel), 0).eval().requires_grad_(False)
        for weights in layer.parameters():
            if weights.ndim > 1:
                weights.normal_(std=1.5 / weights[0].numel() ** 0.5)
        layer.A_log.copy_(torch.tensor([-6.0, -4.0, -2.0, 1.0]))
    return layer


LAYER = delta_layer()


def rows(count: int, seed: int) -> torch.Tensor:
    return torch.randn(count, WIDTH, generator=torch.Generator().manual_seed(seed))


def run(layer, prefix: torch.Tensor, suffixes: list[torch.Tensor], cache: HybridCache) -> list[torch.Tensor]:
    layout = layout_of(len(prefix), [len(suffix) for suffix in suffixes], "cpu")
    found = delta_rows(layer, torch.cat(suffixes), cache.packed(layout))
    return list(found.split([len(suffix) for suffix in suffixes]))


lengths = st.one_of(st.integers(1, 5), st.integers(60, 68), st.integers(126, 140))


@given(prefix=lengths, suffixes=st.lists(lengths, min_size=1, max_size=5), seed=st.integers(0, 2**31))
@settings(max_examples=60, deadline=None)
def test_each_suffix_continues_the_prefix_as_if_alone(prefix, suffixes, seed):
    start = rows(prefix, seed)
    ends = [rows(length, seed + 1 + i) for i, length in enumerate(suffixes)]
    cache = HybridCache(config())
    found = delta_rows(LAYER, start, cache)
    torch.testing.assert_close(found, LAYER(start[None])[0], atol=1e-4, rtol=0)
    for end, output in zip(ends, run(LAYER, start, ends, cache), strict=True):
        whole = LAYER(torch.cat([start, end])[None])[0]
        torch.testing.assert_close(output, whole[prefix:], atol=1e-4, rtol=0)


@pytest.mark.parametrize("kernel", [1, 2, 7])
def test_other_widths_of_the_convolution(kernel):
    layer, cache = delta_layer(kernel), HybridCache(config(kernel))
    start, end = rows(3, 1), rows(9, 2)
    delta_rows(layer, start, cache)
    (found,) = run(layer, start, [end], cache)
    torch.testing.assert_close(found, layer(torch.cat([start, end])[None])[0, 3:], atol=1e-5, rtol=0)


def test_the_prefix_matters_long_after_it_ended():
    # Else the tests above could not tell a state from none.
    end = rows(66, 0)
    first, second = (LAYER(torch.cat([rows(70, seed), end])[None])[0, 70:] for seed in (1, 2))
    difference = (first - second).abs().amax(dim=1)
    assert difference[:5].min() > 0.1
    assert difference[-1] > 0.01


def test_suffixes_leave_the_prefix_as_it_was():
    cache = HybridCache(config())
    delta_rows(LAYER, rows(10, 0), cache)
    state = cache.states[0]
    before = state.inputs.clone(), state.memory.clone()
    ends = [rows(length, length) for length in (1, 70, 3)]
    first = run(LAYER, rows(10, 0), ends, cache)
    again = run(LAYER, rows(10, 0), ends, cache)
    assert cache.states == {0: state}
    assert cache.batches is None
    for kept, now in zip(before, (state.inputs, state.memory), strict=True):
        torch.testing.assert_close(now, kept, atol=0, rtol=0)
    for one, other in zip(first, again, strict=True):
        torch.testing.assert_close(one, other, atol=0, rtol=0)


def test_states_stay_precise_when_the_weights_are_not():
    layer, cache = delta_layer().bfloat16(), HybridCache(config())
    delta_rows(layer, rows(10, 0).bfloat16(), cache)
    assert cache.states[0].inputs.dtype == torch.bfloat16
    assert cache.states[0].memory.dtype == torch.float32
    (found,) = run(layer, rows(10, 0), [rows(5, 1).bfloat16()], cache)
    assert found.dtype == torch.bfloat16


def test_suffixes_with_equally_many_chunks_run_side_by_side():
    short, long = batches_of([3, 70, 2], "cpu")
    assert (short.count, short.length, long.count, long.length) == (2, 3, 1, 70)
    assert short.rows.tolist() == [0, 1, 2, 73, 74]
    assert short.places.tolist() == [0, 1, 2, 3, 4]
    packed = torch.arange(75.0)[:, None]
    assert short.pad(packed)[..., 0].tolist() == [[0, 1, 2], [73, 74, 0]]
    assert [batch.count for batch in batches_of([64, 65, 1, 128], "cpu")] == [2, 2]


def test_an_attached_layer_still_serves_others():
    layer = delta_layer()
    expected = layer(rows(5, 0)[None])
    attach(layer)
    torch.testing.assert_close(layer(hidden_states=rows(5, 0)[None], cache_params=None, attention_mask=None), expected)
    cache = HybridCache(config())
    found = layer(hidden_states=rows(5, 0)[None], cache_params=cache, attention_mask=None, packed_layout=None)
    torch.testing.assert_close(found, expected, atol=1e-5, rtol=0)
    assert 0 in cache.states


def test_layers_of_another_make_are_refused():
    layer = copy.deepcopy(LAYER)
    del layer.in_proj_qkv
    with pytest.raises(SettingsError, match="in_proj_qkv"):
        attach(layer)
