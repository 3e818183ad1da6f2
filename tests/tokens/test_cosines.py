import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from imgrank.errors import InputError
from imgrank.tokens.cosines import cosines, first_equal


def test_hand_worked():
    tokens = np.array([[2, 0], [3, 4], [0, 0], [0, -5], [0, 0]], dtype=np.float32)
    expected = [[1, 0.6, 0, 0, 0], [0.6, 1, 0, -0.8, 0], [0, 0, 1, 0, 1], [0, -0.8, 0, 1, 0], [0, 0, 1, 0, 1]]
    np.testing.assert_allclose(cosines(tokens), expected, rtol=1e-6)


@pytest.mark.parametrize("scale", [1, 1e-30, 1e30])
def test_right_and_symmetric_for_tokens_of_all_lengths(scale):
    rng = np.random.default_rng(0)
    tokens = (rng.normal(size=(80, 24)) * rng.uniform(1e-3, 1e3, size=(80, 1)) * scale).astype(np.float32)
    wide = tokens.astype(np.float64)
    wide /= np.linalg.norm(wide, axis=1, keepdims=True)
    found = cosines(tokens)
    assert found.dtype == np.float32
    np.testing.assert_array_equal(found, found.T)
    np.testing.assert_allclose(found, wide @ wide.T, atol=1e-6)


@given(hnp.arrays(np.float32, (4, 3), elements=st.integers(-1, 1)), st.lists(st.integers(0, 3), min_size=1, max_size=9))
def test_copies_are_the_same_to_all_others_however_a_library_rounds(kinds, order):
    def product(vectors):
        wobble = np.arange(len(vectors)) * 2.0**-21
        return (vectors @ vectors.T * (1 + np.add.outer(wobble, wobble))).astype(np.float32)

    tokens = kinds[order]
    found = cosines(tokens, product)
    for i, token in enumerate(tokens):
        copies = np.flatnonzero((tokens == token).all(axis=1))
        others = np.setdiff1d(np.arange(len(tokens)), copies)
        if len(copies) > 1:
            assert (found[i, copies] == 1).all()
        for copy in copies:
            np.testing.assert_array_equal(found[copy, others], found[i, others])
            np.testing.assert_array_equal(found[others, copy], found[others, i])


def test_first_equal_looks_only_at_the_rows_it_is_given():
    tokens = np.array([[1, 2], [0.0, 1], [1, 2], [-0.0, 1], [1, 2]], dtype=np.float32)
    assert first_equal(tokens, np.arange(5)).tolist() == [0, 1, 0, 1, 0]
    assert first_equal(tokens, np.array([1, 2, 4])).tolist() == [0, 1, 2, 3, 2]


@pytest.mark.parametrize("bad", [np.nan, np.inf, -np.inf])
def test_refuses_numbers_that_are_not_finite(bad):
    tokens = np.eye(3, dtype=np.float32)
    tokens[1, 2] = bad
    with pytest.raises(InputError, match="not finite; run the model with a wider --dtype"):
        cosines(tokens)
