import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgrank.arrays import unit_rows
from imgrank.errors import InputError, SettingsError
from imgrank.index.similarity import best_first, check_queries, rescore, searchable_rows


def test_rescore_hand_worked():
    descriptors = np.array([[1, 0], [0.6, 0.8], [0, -1]], dtype=np.float32)
    query = np.array([0.8, 0.6], dtype=np.float32)
    similarities = rescore(descriptors, query, np.array([2, 0, 1, 1]))
    assert similarities.dtype == np.float32
    np.testing.assert_allclose(similarities, [-0.6, 0.8, 0.96, 0.96], rtol=1e-6)


@pytest.mark.parametrize("dim", [1, 2, 7, 8, 9, 100, 129, 256, 1000])
def test_rescore_gives_a_pair_the_same_bits_in_any_company(dim):
    rng = np.random.default_rng(dim)
    descriptors = unit_rows(rng.normal(size=(60, dim)))
    query = unit_rows(rng.normal(size=(1, dim)))[0]
    rows = np.arange(60)
    together = rescore(descriptors, query, rows)
    for layout in (descriptors, np.asfortranarray(descriptors)):
        alone = np.concatenate([rescore(layout, query, rows[i : i + 1]) for i in rows])
        np.testing.assert_array_equal(together, alone)
        shuffled = rng.permutation(60)
        np.testing.assert_array_equal(together[shuffled], rescore(layout, query, shuffled))
    # the exact sum of the products, rounded once
    exact = [math.fsum(float(a) * float(b) for a, b in zip(row, query, strict=True)) for row in descriptors]
    np.testing.assert_array_equal(together, np.float32(exact))


@given(st.lists(st.sampled_from([-1.0, 0.25, 0.5, 1.0]), max_size=12), st.integers(1, 14), st.randoms())
def test_best_first_breaks_ties_by_row(similarities, k, random):
    rows = list(range(len(similarities)))
    random.shuffle(rows)
    expected = sorted(zip(similarities, rows, strict=True), key=lambda pair: (-pair[0], pair[1]))[:k]
    got_rows, got = best_first(np.array(rows, dtype=np.int64), np.array(similarities, dtype=np.float32), k)
    assert list(zip(got.tolist(), got_rows.tolist(), strict=True)) == expected


def test_searchable_leaves_out_zero_and_invalid_rows():
    descriptors = np.array([[1, 0], [0, 0], [np.nan, 9], [0, 1]], dtype=np.float32)
    valid = np.array([True, True, False, True])
    assert searchable_rows(descriptors, valid).tolist() == [True, False, False, True]
    assert valid.tolist() == [True, True, False, True]
    assert searchable_rows(np.empty((0, 4), np.float32)).tolist() == []


@pytest.mark.parametrize(
    ("bad", "message"), [([3, 4], "row 2 has length 5, not 1"), ([np.nan, 0], "row 2 holds"), ([np.inf, 0], "row 2")]
)
def test_searchable_refuses_a_valid_row_that_is_not_unit(bad, message):
    descriptors = np.array([[1, 0], [0, 0], bad, bad], dtype=np.float32)
    with pytest.raises(InputError, match=message):
        searchable_rows(descriptors)


def test_searchable_refuses_wrong_shapes():
    with pytest.raises(InputError, match="mask"):
        searchable_rows(np.eye(3, dtype=np.float32), np.ones(2, dtype=bool))
    with pytest.raises(InputError, match="dim"):
        searchable_rows(np.ones(3, dtype=np.float32))


def test_queries_are_checked():
    unit = np.eye(3, dtype=np.float32)
    np.testing.assert_array_equal(check_queries(unit.astype(np.float64), 3, 1), unit)
    with pytest.raises(InputError, match="embed the query"):
        check_queries(unit, 4, 1)
    with pytest.raises(InputError, match="query 1 has length 0"):
        check_queries(unit * [[1], [0], [1]], 3, 1)
    with pytest.raises(InputError, match="query 2 holds"):
        check_queries(unit * np.array([[1], [1], [np.nan]]), 3, 1)
    with pytest.raises(SettingsError, match="at least 1"):
        check_queries(unit, 3, 0)
