"""The logit of an expected grade, against the expected grade itself."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from imgrank.rerank.base import PairScores
from imgrank.rerank.grades import match_logits

some_logits = arrays(
    np.float32, array_shapes(min_dims=2, max_dims=2, min_side=2, max_side=10), elements=st.floats(-12, 12, width=32)
)


def expected_grades(logits: np.ndarray) -> np.ndarray:
    """(n,) float64 in [0, 1], by way of the probabilities of all grades."""
    weights = np.exp(logits.astype(np.float64))
    probabilities = weights / weights.sum(axis=1, keepdims=True)
    return probabilities @ np.linspace(0, 1, logits.shape[1])


@pytest.mark.parametrize(
    ("probabilities", "odds"),
    [
        ([0.5, 0.5], 1),
        ([0.25, 0.75], 3),
        ([1 / 6, 2 / 6, 3 / 6], 2),  # expected grade 4/3 of 2
        ([0, 1, 0], 1),
        ([0.1] * 10, 1),
        ([0, 0, 0, 0, 0, 0, 0, 0, 1, 0], 8),  # 8 of 9
    ],
)
def test_by_hand(probabilities: list[float], odds: float) -> None:
    logits = np.log(np.maximum(probabilities, 1e-30), dtype=np.float32)[None] + np.float32(3)
    np.testing.assert_allclose(match_logits(logits), [np.log(odds)], atol=1e-6)


@given(some_logits)
def test_is_the_logit_of_the_expected_grade(logits: np.ndarray) -> None:
    found = match_logits(logits)
    assert found.dtype == np.float32
    share = expected_grades(logits)
    np.testing.assert_allclose(found, np.log(share) - np.log1p(-share), atol=1e-5, rtol=1e-5)
    np.testing.assert_allclose(PairScores.of_logits(found).values, share, atol=1e-6)


@given(arrays(np.float32, (50, 2), elements=st.floats(-(2.0**100), 2.0**100, width=32)))
def test_of_two_grades_it_is_their_difference_to_the_bit(logits: np.ndarray) -> None:
    np.testing.assert_array_equal(match_logits(logits), logits[:, 1] - logits[:, 0])


@given(some_logits)
def test_turning_the_scale_round_changes_the_sign(logits: np.ndarray) -> None:
    np.testing.assert_allclose(match_logits(logits[:, ::-1]), -match_logits(logits), atol=1e-6)


@given(some_logits)
def test_a_pair_does_not_depend_on_the_others(logits: np.ndarray) -> None:
    alone = np.concatenate([match_logits(row[None]) for row in logits])
    np.testing.assert_array_equal(match_logits(logits), alone)


@pytest.mark.parametrize("size", [50, 1e3, 1e30])
def test_extreme_logits_stay_finite_and_in_order(size: float) -> None:
    """One grade is far above all others, so a probability would be 0, 1 or that grade's share."""
    certain = np.where(np.eye(10, dtype=bool), np.float32(size), np.float32(-size))
    found = match_logits(certain)
    assert np.isfinite(found).all()
    assert (np.diff(found) > 0).all()
    np.testing.assert_allclose(found[1:-1], np.log(np.arange(1, 9) / np.arange(8, 0, -1)), atol=1e-6)
    assert found[-1] == pytest.approx(2 * size, rel=0.1)
    values = PairScores.of_logits(found).values
    np.testing.assert_allclose(values, np.linspace(0, 1, 10), atol=1e-6)
