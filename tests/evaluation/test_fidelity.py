"""Comparing scores: numbers worked by hand, and a second implementation."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgrank.errors import InputError
from imgrank.evaluation.fidelity import fidelity, kendall_tau
from imgrank.evaluation.metrics import average_precision
from imgrank.evaluation.qrels import read_qrels

scores = st.lists(st.integers(-3, 3), min_size=2, max_size=12)


def floats(*values):
    return np.array(values, dtype=np.float32)


def test_hand_worked():
    found = fidelity([floats(0, 2, 1), floats(3)], [floats(0, 1, 2), floats(3)])
    assert (found.pairs, found.queries) == (4, 2)
    assert found.logit_change == 0.5  # 0, 1, 1, 0
    assert found.kendall_tau == pytest.approx(1 / 3)  # 2 of 3 pairs in order; one candidate alone has no order
    assert found.same_first == 0.5
    # Means 1.5; deviations -1.5 .5 -.5 1.5 and -1.5 -.5 .5 1.5: 4 / 5.
    assert found.correlation == pytest.approx(0.8)
    sigmoid = 1 / (1 + np.exp(-np.array([1.0, 2.0])))
    assert found.probability_change == pytest.approx(2 * (sigmoid[1] - sigmoid[0]) / 4)


def test_equal_scores_lose_nothing():
    found = fidelity([floats(1, 2, 3)], [floats(1, 2, 3)])
    assert (found.correlation, found.kendall_tau) == (pytest.approx(1), 1)
    assert found.same_first == 1
    assert (found.logit_change, found.probability_change) == (0, 0)


def test_what_is_not_defined_is_none():
    found = fidelity([floats(1, 1)], [floats(1, 2)])
    assert found.correlation is None
    assert found.kendall_tau is None
    assert found.record()["correlation"] is None


def test_other_pairs_are_refused():
    for before, after in (([floats(1)], [floats(1, 2)]), ([], []), ([floats()], [floats()])):
        with pytest.raises(InputError):
            fidelity(before, after)


@settings(deadline=None)
@given(scores, st.randoms(use_true_random=False))
def test_tau_is_that_of_scipy(first, random):
    stats = pytest.importorskip("scipy.stats")
    second = [random.choice([value, random.randint(-3, 3)]) for value in first]
    expected = stats.kendalltau(first, second).statistic
    found = kendall_tau(floats(*first), floats(*second))
    assert found is None if np.isnan(expected) else found == pytest.approx(expected)


def test_average_precision_worked_by_hand():
    assert average_precision([True, False, True], 2) == pytest.approx((1 + 2 / 3) / 2)
    assert average_precision([False, True], 4) == pytest.approx(0.5 / 4)
    assert average_precision([], 3) == 0
    assert average_precision([False], 0) == 0


def test_judgements_of_two_three_and_four_columns(tmp_path):
    path = tmp_path / "q"
    path.write_bytes(b"a b.jpg\t0\tc\xff.jpg\t2\na b.jpg\t0\td.jpg\t0\n\n")
    assert read_qrels(path) == {b"a b.jpg": {b"c\xff.jpg": 2, b"d.jpg": 0}}
    path.write_text("q 0 d 1\nq 0 e -1\nr d\nr e 3\n")
    assert read_qrels(path) == {b"q": {b"d": 1, b"e": -1}, b"r": {b"d": 1, b"e": 3}}


@pytest.mark.parametrize(("text", "reason"), [("", "no relevance"), ("a", "1 columns"), ("a 0 b x", "whole number"),
                                              ("a b c d e", "line 1")])  # fmt: skip
def test_other_lines_are_named(tmp_path, text, reason):
    (tmp_path / "q").write_text(text)
    with pytest.raises(InputError, match=reason):
        read_qrels(tmp_path / "q")
