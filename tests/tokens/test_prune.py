import time

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from imgrank.errors import InputError
from imgrank.tokens.base import Amount
from imgrank.tokens.prune import DivPrune, most_diverse, torch_product


def reference(vectors, k):
    """The published rule in float64, one distance at a time."""
    vectors = np.asarray(vectors, dtype=np.float64)
    n = len(vectors)

    def distance(i, j):
        if np.array_equal(vectors[i], vectors[j]):
            return 0.0
        lengths = np.linalg.norm(vectors[i]) * np.linalg.norm(vectors[j])
        return 1.0 - float(vectors[min(i, j)] @ vectors[max(i, j)]) / lengths if lengths else 1.0

    if k >= n:
        return list(range(n))
    distances = np.array([[distance(i, j) for j in range(n)] for i in range(n)])
    nearest = [min(distances[i, j] for j in range(n) if j != i) for i in range(n)]
    chosen = [int(np.argmax(nearest))]
    while len(chosen) < k:
        rest = [i for i in range(n) if i not in chosen]
        chosen.append(max(rest, key=lambda i: (min(distances[i, j] for j in chosen), -i)))
    return sorted(chosen)


def at_angles(*degrees):
    radians = np.deg2rad(degrees)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


def test_hand_worked_angles():
    # The nearest others are 10, 10, 30, 20 and 20 degrees away, so the token at 40 comes first.
    tokens = at_angles(0, 10, 40, 70, 90)
    assert most_diverse(tokens, 1).tolist() == [2]
    assert most_diverse(tokens, 2).tolist() == [2, 4]  # 90 is 50 degrees from 40; 0 is 40 degrees from it
    assert most_diverse(tokens, 3).tolist() == [0, 2, 4]
    assert most_diverse(tokens, 4).tolist() == [0, 2, 3, 4]  # 70 is 20 degrees from 90; 10 is 10 from 0


def test_lengths_do_not_matter():
    tokens = at_angles(0, 10, 40, 70, 90)
    lengths = np.array([1e-3, 50, 1, 700, 0.2], dtype=np.float32)[:, None]
    for k in range(1, 5):
        np.testing.assert_array_equal(most_diverse(tokens * lengths, k), most_diverse(tokens, k))


@pytest.mark.parametrize(("n", "hidden", "k"), [(40, 8, 13), (60, 256, 20), (25, 3, 24)])
def test_equals_the_reference_on_random_tokens(n, hidden, k):
    for seed in range(5):
        tokens = np.random.default_rng(seed).normal(size=(n, hidden)).astype(np.float32)
        assert most_diverse(tokens, k).tolist() == reference(tokens, k)


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_equals_the_reference_among_copies_and_zeros(data):
    # Few different tokens, many copies of each: wrong rounding or tie rules show at once.
    kinds = np.random.default_rng(data.draw(st.integers(0, 10))).normal(size=(6, 37)).astype(np.float32)
    kinds[0] = 0
    order = data.draw(st.lists(st.integers(0, 5), min_size=1, max_size=30))
    k = data.draw(st.integers(1, 31))
    assert most_diverse(kinds[order], k).tolist() == reference(kinds[order], k)


def test_copies_are_kept_last_and_in_order():
    tokens = np.eye(4, dtype=np.float32)[[0, 0, 0, 1, 1, 2, 3]]
    assert most_diverse(tokens, 4).tolist() == [0, 3, 5, 6]
    assert most_diverse(tokens, 5).tolist() == [0, 1, 3, 5, 6]


def test_minus_zero_is_zero():
    tokens = np.array([[0.0, 0.0], [-0.0, 0.0], [1.0, 0.0], [1.0, -0.0], [0.0, 1.0]], dtype=np.float32)
    assert most_diverse(tokens, 3).tolist() == [0, 2, 4]


def test_only_zero_tokens():
    assert most_diverse(np.zeros((5, 3), dtype=np.float32), 2).tolist() == [0, 1]


@pytest.mark.parametrize("scale", [1e-30, 1e-18, 1e18, 1e30])
def test_very_small_and_very_large_tokens_are_no_special_case(scale):
    tokens = np.random.default_rng(3).normal(size=(30, 16)).astype(np.float32)
    scaled = (tokens * np.float32(scale)).astype(np.float32)
    np.testing.assert_array_equal(most_diverse(scaled, 9), most_diverse(tokens, 9))


@given(
    hnp.arrays(np.float32, st.tuples(st.integers(0, 12), st.integers(1, 5)), elements=st.floats(width=32)),
    st.integers(1, 14),
)
def test_any_tokens_give_distinct_rising_indices(tokens, k):
    if not np.isfinite(tokens).all() and k < len(tokens):
        with pytest.raises(InputError, match="not finite"):
            most_diverse(tokens, k)
        return
    kept = most_diverse(tokens, k)
    assert kept.dtype == np.int64
    assert len(kept) == min(k, len(tokens))
    assert (np.diff(kept) > 0).all()
    assert set(kept.tolist()) <= set(range(len(tokens)))


def test_reduces_to_the_most_diverse_and_leaves_its_input_alone():
    tokens = np.random.default_rng(0).normal(size=(6, 4)).astype(np.float32)
    positions = np.argwhere(np.ones((1, 2, 3)))
    before = tokens.copy()
    for amount, k in ((Amount(count=3), 3), (Amount(share=0.3), 2), (Amount(count=6), 6), (Amount(count=9), 6)):
        groups = DivPrune(amount).reduce(tokens, positions, (2, 3))
        np.testing.assert_array_equal(groups.places, most_diverse(tokens, k))
        assert groups.members is None
    np.testing.assert_array_equal(tokens, before)
    assert DivPrune(Amount(count=3)).reduce(tokens[:0], positions[:0], (2, 3)).places.tolist() == []
    with pytest.raises(InputError, match="outside its grid"):
        DivPrune(Amount(count=3)).reduce(tokens, positions, (2, 2))
    with pytest.raises(InputError, match="positions of shape"):
        DivPrune(Amount(count=3)).reduce(tokens, positions[:5], (2, 3))


def test_computes_with_the_product_it_is_given():
    asked = []

    def product(vectors):
        asked.append(vectors.shape)
        return vectors @ np.diag([0, 1]).astype(np.float32) @ vectors.T  # blind to the first number

    # By the second number alone: 1, 1, and -1, which is as far from both as can be.
    tokens = np.array([[0, 1], [9, 1], [0, -1]], dtype=np.float32)
    kept = DivPrune(Amount(count=1), product).reduce(tokens, np.argwhere(np.ones((1, 1, 3))), (1, 3))
    assert kept.places.tolist() == [2]
    assert asked == [(3, 2)]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_torch_equals_the_reference_among_copies_and_zeros(data):
    kinds = np.random.default_rng(data.draw(st.integers(0, 10))).normal(size=(6, 37)).astype(np.float32)
    kinds[0] = 0
    tokens = kinds[data.draw(st.lists(st.integers(0, 5), min_size=1, max_size=30))]
    k = data.draw(st.integers(1, 31))
    tokens.setflags(write=False)
    assert most_diverse(tokens, k, torch_product("cpu")).tolist() == reference(tokens, k)


@pytest.mark.parametrize("scale", [1, 1e-30, 1e30])
def test_torch_keeps_what_numpy_keeps(scale):
    tokens = (np.random.default_rng(3).normal(size=(90, 384)) * scale).astype(np.float32)
    np.testing.assert_array_equal(most_diverse(tokens, 30, torch_product("cpu")), most_diverse(tokens, 30))


def test_torch_products_are_symmetric_though_those_of_the_library_are_not(monkeypatch):
    tokens = np.random.default_rng(0).normal(size=(50, 64)).astype(np.float32)
    plain = torch.Tensor.__matmul__
    tilt = 1 + torch.triu(torch.full((50, 50), 2.0**-20))
    monkeypatch.setattr(torch.Tensor, "__matmul__", lambda a, b: plain(a, b) * tilt)
    products = torch_product("cpu")(tokens)
    np.testing.assert_array_equal(products, products.T)
    np.testing.assert_allclose(products, tokens @ tokens.T, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize("precision", ["highest", "high", "medium"])
def test_torch_computes_in_float32_whatever_the_program_allows(monkeypatch, precision):
    plain, seen = torch.Tensor.__matmul__, []

    def spied(a, b):
        seen.append(precisions())
        return plain(a, b)

    def precisions():
        return torch.get_float32_matmul_precision(), [
            getattr(torch.backends, backend).matmul.fp32_precision
            for backend in ("cuda", "mkldnn")
            if hasattr(torch.backends, "fp32_precision")
        ]

    monkeypatch.setattr(torch.Tensor, "__matmul__", spied)
    tokens = np.random.default_rng(0).normal(size=(40, 512)).astype(np.float32)
    torch.set_float32_matmul_precision(precision)
    try:
        before = precisions()
        torch_product("cpu")(tokens)
        assert precisions() == before
    finally:
        torch.set_float32_matmul_precision("highest")
    ((older, newer),) = seen
    assert set(newer) == {"ieee"} if newer else older == "highest"


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a CUDA device")
def test_a_gpu_keeps_what_numpy_keeps_even_where_tf32_is_allowed():
    tokens = np.random.default_rng(3).normal(size=(300, 3584)).astype(np.float32)
    tokens[200:] = tokens[:100]
    product = torch_product("cuda")
    torch.set_float32_matmul_precision("high")
    try:
        products = product(tokens)
        kept = most_diverse(tokens, 64, product)
    finally:
        torch.set_float32_matmul_precision("highest")
    exact = tokens.astype(np.float64) @ tokens.T.astype(np.float64)
    assert np.abs(products - exact).max() < 1e-2  # TF32 loses 2^-11 of each of 3,584 summands: about 0.02 to 0.1
    np.testing.assert_array_equal(kept, most_diverse(tokens, 64))


def test_costs_little_more_than_its_matrix_product():
    tokens = np.random.default_rng(0).normal(size=(300, 3584)).astype(np.float32)

    def fastest(run):
        times = []
        for _ in range(7):
            start = time.perf_counter()
            run()
            times.append(time.perf_counter() - start)
        return min(times)

    # The bound leaves room for a busy machine; a pairwise loop in Python would take a hundred times as long.
    assert fastest(lambda: most_diverse(tokens, 75)) < 4 * fastest(lambda: tokens @ tokens.T) + 5e-3
