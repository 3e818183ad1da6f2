import itertools

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgrank.arrays import unit_rows
from imgrank.errors import InputError
from imgrank.index import exact as module
from imgrank.index.exact import ExactIndex

# All 16 vectors of four halves: unit rows whose products are exact in float32, so ties are exact too.
HALVES = np.array(list(itertools.product([-0.5, 0.5], repeat=4)), dtype=np.float32)


def reference(descriptors, query, k, left_out=()):
    """Sort all rows by the float64 product rounded to float32, then by row."""
    similarities = [np.float32(np.sum(row.astype(np.float64) * query.astype(np.float64))) for row in descriptors]
    rows = [i for i in range(len(descriptors)) if i not in left_out and descriptors[i].any()]
    rows.sort(key=lambda i: (-similarities[i], i))
    return rows[:k], [similarities[i] for i in rows[:k]]


def test_hand_worked():
    descriptors = np.array([[1, 0], [0, 1], [0.6, 0.8], [1, 0]], dtype=np.float32)
    found = ExactIndex(descriptors).search(np.array([[1, 0], [0, -1]], dtype=np.float32), 3)
    assert found.rows.tolist() == [[0, 3, 2], [0, 3, 2]]
    np.testing.assert_allclose(found.similarities, [[1, 1, 0.6], [0, 0, -0.8]])
    assert found.rows.dtype == np.int64
    assert found.similarities.dtype == np.float32


@settings(max_examples=80, deadline=None)
@given(
    picks=st.lists(st.integers(0, 15), min_size=1, max_size=60),
    left_out=st.sets(st.integers(0, 59)),
    query=st.integers(0, 15),
    k=st.integers(1, 70),
    block=st.integers(1, 20),
)
def test_ties_masks_and_blocks(picks, left_out, query, k, block):
    descriptors = HALVES[picks]
    valid = np.array([i not in left_out for i in range(len(picks))])
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "ROWS_PER_BLOCK", block)
        found = ExactIndex(descriptors, valid).search(HALVES[query : query + 1], k)
    rows, similarities = reference(descriptors, HALVES[query], k, left_out)
    assert found.rows.tolist() == [rows]
    assert found.similarities.tolist() == [similarities]


def test_differences_below_the_error_of_the_matrix_product_are_ordered_right():
    rng = np.random.default_rng(0)
    dim = 700
    base = unit_rows(rng.normal(size=(1, dim)))
    # 500 rows that differ from one in the last bit of a few numbers
    ulps = rng.integers(-1, 2, size=(500, dim)) * (rng.random((500, dim)) < 0.05)
    descriptors = (base + ulps * np.spacing(base)).astype(np.float32)
    query = unit_rows(base + 0.3 * rng.normal(size=(1, dim)) / np.sqrt(dim))
    rows, similarities = reference(descriptors, query[0], 40)
    product = (descriptors @ query[0]).argsort(kind="stable")[::-1][:40]
    assert product.tolist() != rows  # so the case is hard enough
    found = ExactIndex(descriptors).search(query, 40)
    assert found.rows[0].tolist() == rows
    np.testing.assert_array_equal(found.similarities[0], similarities)


def test_a_query_gets_the_same_bits_alone_in_a_batch_and_in_any_blocks(monkeypatch):
    rng = np.random.default_rng(1)
    descriptors, queries = unit_rows(rng.normal(size=(900, 48))), unit_rows(rng.normal(size=(150, 48)))
    index = ExactIndex(descriptors)
    batch = index.search(queries, 25)
    alone = [index.search(query[None], 25) for query in queries]
    np.testing.assert_array_equal(batch.rows, np.concatenate([found.rows for found in alone]))
    np.testing.assert_array_equal(batch.similarities, np.concatenate([found.similarities for found in alone]))
    monkeypatch.setattr(module, "ROWS_PER_BLOCK", 37)
    np.testing.assert_array_equal(index.search(queries, 25).similarities, batch.similarities)


def test_all_rows_are_sorted_when_k_exceeds_the_collection():
    descriptors = unit_rows(np.random.default_rng(2).normal(size=(20, 6)))
    descriptors[[3, 7]] = 0
    found = ExactIndex(descriptors).search(descriptors[:2], 1000)
    assert found.rows.shape == (2, 18)
    assert sorted(found.rows[0].tolist()) == [i for i in range(20) if i not in (3, 7)]
    assert (np.diff(found.similarities, axis=1) <= 0).all()


def test_failed_rows_may_hold_anything():
    descriptors = np.array([[1, 0], [np.nan, np.inf], [1e30, 1e30], [0, 1]], dtype=np.float32)
    found = ExactIndex(descriptors, np.array([True, False, False, True])).search(descriptors[3:], 4)
    assert found.rows.tolist() == [[3, 0]]


def test_empty_collections_and_no_queries():
    empty = ExactIndex(np.empty((0, 5), np.float32))
    assert empty.search(np.eye(5, dtype=np.float32), 3).rows.shape == (5, 0)
    nothing_valid = ExactIndex(np.eye(5, dtype=np.float32), np.zeros(5, dtype=bool))
    assert nothing_valid.search(np.eye(5, dtype=np.float32), 3).similarities.shape == (5, 0)
    one = ExactIndex(np.eye(5, dtype=np.float32)[:1])
    assert one.search(np.empty((0, 5), np.float32), 3).rows.shape == (0, 1)


def test_memory_mapped_descriptors(tmp_path):
    descriptors = unit_rows(np.random.default_rng(3).normal(size=(50, 8)))
    np.save(tmp_path / "d.npy", descriptors)
    mapped = np.load(tmp_path / "d.npy", mmap_mode="r")
    np.testing.assert_array_equal(
        ExactIndex(mapped).search(descriptors[:4], 9).rows, ExactIndex(descriptors).search(descriptors[:4], 9).rows
    )


def test_some_rows_only():
    descriptors = np.eye(4, dtype=np.float32)
    assert ExactIndex.of_rows(descriptors, np.array([3, 1])).search(descriptors[:1], 9).rows.tolist() == [[1, 3]]
    with pytest.raises(InputError, match="outside"):
        ExactIndex.of_rows(descriptors, np.array([1, 4]))
    with pytest.raises(InputError, match="twice"):
        ExactIndex.of_rows(descriptors, np.array([1, 1]))
