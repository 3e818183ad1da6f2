import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from imgrank.encode import pooling

TOKENS = torch.tensor([[[1.0, -4.0], [2.0, 0.0], [3.0, 1.0]]])  # (1, 3, 2)


def test_cls_is_the_first_token():
    assert pooling.cls_token(TOKENS).tolist() == [[1.0, -4.0]]


def test_mean_of_three_tokens():
    assert pooling.mean(TOKENS).tolist() == [[2.0, -1.0]]


def test_mean_leaves_padding_out():
    mask = torch.tensor([[1, 1, 0]])
    assert pooling.mean(TOKENS, mask).tolist() == [[1.5, -2.0]]


def test_gem_is_the_cube_root_of_the_mean_cube():
    # (1 + 8 + 27) / 3 = 12; in the second channel only 1 is above the floor: 1 / 3.
    np.testing.assert_allclose(pooling.gem(TOKENS), [[12 ** (1 / 3), (1 / 3) ** (1 / 3)]], rtol=1e-6)


def test_gem_leaves_padding_out():
    np.testing.assert_allclose(pooling.gem(TOKENS, torch.tensor([[1, 1, 0]]))[0, 0], 4.5 ** (1 / 3), rtol=1e-6)


def test_gem_of_negative_tokens_is_the_floor():
    np.testing.assert_allclose(pooling.gem(torch.full((1, 4, 2), -3.0)), [[1e-6, 1e-6]], rtol=1e-4)


@given(hnp.arrays(np.float32, (2, 5, 3), elements=st.floats(0.015625, 100, width=32)))
def test_gem_lies_between_mean_and_maximum(values):
    tokens = torch.from_numpy(values)
    pooled = pooling.gem(tokens).numpy()
    assert (pooled >= values.mean(axis=1) * (1 - 1e-5)).all()
    assert (pooled <= values.max(axis=1) * (1 + 1e-5)).all()
    np.testing.assert_allclose(pooling.gem(tokens, p=1.0), values.mean(axis=1), rtol=1e-5)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_pooling_sums_in_float32(dtype):
    # 4096 ones sum to 4096, which bfloat16 sums stop short of (256 + 1 = 256 there).
    tokens = torch.ones((1, 4096, 2), dtype=dtype)
    tokens[0, 0] = 3.0
    for pooled in (pooling.cls_token(tokens), pooling.mean(tokens), pooling.gem(tokens)):
        assert pooled.dtype == torch.float32
    np.testing.assert_allclose(pooling.mean(tokens), 1 + 2 / 4096, rtol=1e-6)


def test_is_finite_names_the_rows():
    rows = torch.tensor([[0.0, 1.0], [float("nan"), 0.0], [0.0, float("-inf")]])
    assert pooling.is_finite(rows).tolist() == [True, False, False]
