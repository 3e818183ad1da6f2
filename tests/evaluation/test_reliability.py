"""Reliability, by hand and against scikit-learn."""

import numpy as np
import pytest

from imgrank.errors import InputError
from imgrank.evaluation.reliability import quality, reliability


def test_the_table_by_hand():
    # Bins [0, 0.5) and [0.5, 1]: of 0.1, 0.3 none is true; of 0.5, 0.9, 1.0 two are.
    table = reliability([0.1, 0.3, 0.5, 0.9, 1.0], [False, False, False, True, True], 2)
    assert table.counts.tolist() == [2, 3]
    np.testing.assert_allclose(table.predicted, [0.2, 0.8])
    np.testing.assert_allclose(table.observed, [0, 2 / 3])
    assert table.error == pytest.approx((2 * 0.2 + 3 * (0.8 - 2 / 3)) / 5)


def test_an_empty_bin_has_zeros_and_no_weight():
    table = reliability([0.0, 1.0], [False, True], 3)
    assert table.counts.tolist() == [1, 0, 1]
    assert table.predicted.tolist() == table.observed.tolist() == [0, 0, 1]
    assert table.error == 0


def test_brier_and_log_loss_by_hand():
    found = quality([0.5, 0.8], [True, False], 1)
    assert found.brier == pytest.approx((0.25 + 0.64) / 2)
    assert found.log_loss == pytest.approx(-(np.log(0.5) + np.log(0.2)) / 2)
    assert found.ece == pytest.approx(0.65 - 0.5)


def test_the_numbers_are_those_of_scikit_learn():
    metrics = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    stated, true = rng.uniform(size=500), rng.uniform(size=500) < 0.3
    found = quality(stated, true, 10)
    assert found.brier == pytest.approx(metrics.brier_score_loss(true, stated))
    assert found.log_loss == pytest.approx(metrics.log_loss(true, stated))


def test_certainty_that_is_wrong_has_a_finite_log_loss():
    assert 30 < quality([0.0, 1.0], [True, False], 10).log_loss < 40


@pytest.mark.parametrize(
    ("stated", "true"), [([], []), ([0.5], [True, False]), ([1.5], [True]), ([float("nan")], [False]), ([-0.1], [True])]
)
def test_what_is_no_probability_is_refused(stated, true):
    with pytest.raises(InputError):
        reliability(stated, true, 10)
