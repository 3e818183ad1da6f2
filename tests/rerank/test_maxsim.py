import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from imgrank.errors import InputError
from imgrank.rerank import maxsim as module
from imgrank.rerank.maxsim import maxsim

sets = hnp.arrays(np.float32, st.tuples(st.integers(0, 7), st.just(3)), elements=st.floats(-10, 10, width=32))


def reference(query, candidate):
    """The definition, one pair at a time in float64."""
    if len(query) == 0 or len(candidate) == 0:
        return 0.0

    def cosine(a, b):
        a, b = a.astype(np.float64), b.astype(np.float64)
        lengths = np.linalg.norm(a) * np.linalg.norm(b)
        return float(a @ b / lengths) if lengths else 0.0

    to_candidate = np.mean([max(cosine(a, b) for b in candidate) for a in query])
    to_query = np.mean([max(cosine(a, b) for a in query) for b in candidate])
    return float(to_candidate + to_query) / 2


def test_hand_worked():
    # Query x, y. Candidate x and (3, 4) / 5: best of x is 1, best of y is 0.8; backwards 1 and 0.8.
    query = np.array([[2.0, 0.0], [0.0, 1.0]], dtype=np.float32)
    one = np.array([[1.0, 0.0], [3.0, 4.0]], dtype=np.float32)
    # Candidate -x: best of x is -1, of y is 0; backwards max(-1, 0) = 0: (-0.5 + 0) / 2.
    other = np.array([[-7.0, 0.0]], dtype=np.float32)
    np.testing.assert_allclose(maxsim(query, [one, other]), [0.9, -0.25], atol=1e-7)


@given(sets, st.lists(sets, max_size=4))
def test_equals_the_definition(query, candidates):
    scores = maxsim(query, candidates)
    assert scores.dtype == np.float32
    assert scores.shape == (len(candidates),)
    np.testing.assert_allclose(scores, [reference(query, candidate) for candidate in candidates], atol=2e-6)


@given(sets, sets)
def test_both_directions_agree(one, other):
    np.testing.assert_allclose(maxsim(one, [other]), maxsim(other, [one]), atol=1e-6)


@given(sets, st.integers(-20, 20))
def test_a_set_is_most_similar_to_itself_and_lengths_do_not_matter(vectors, power):
    vectors = vectors[np.abs(vectors).max(axis=1, initial=0) > 1e-3]
    np.testing.assert_allclose(maxsim(vectors, [vectors]), [1.0 if len(vectors) else 0.0], atol=1e-6)
    np.testing.assert_array_equal(maxsim(vectors, [vectors * 2.0**power]), maxsim(vectors, [vectors]))


def test_empty_sets_and_zero_vectors_score_0():
    zeros, some = np.zeros((3, 4), np.float32), np.ones((2, 4), np.float32)
    none = np.empty((0, 4), np.float32)
    np.testing.assert_array_equal(maxsim(some, [none, zeros]), [0, 0])
    np.testing.assert_array_equal(maxsim(none, [some, none]), [0, 0])
    assert maxsim(some, []).shape == (0,)


def test_a_score_has_the_same_bits_whatever_stands_beside_it():
    rng = np.random.default_rng(0)
    query = rng.normal(size=(97, 64)).astype(np.float32)
    candidates = [rng.normal(size=(size, 64)).astype(np.float32) for size in (1, 2, 31, 100, 333, 64)]
    together = maxsim(query, candidates)
    alone = np.concatenate([maxsim(query, [candidate]) for candidate in candidates])
    np.testing.assert_array_equal(together, alone)
    np.testing.assert_array_equal(maxsim(query, candidates[::-1])[::-1], together)


def test_blocks_of_query_vectors_give_the_same_score(monkeypatch):
    rng = np.random.default_rng(1)
    query, candidate = (rng.normal(size=(n, 16)).astype(np.float32) for n in (50, 20))
    whole = maxsim(query, [candidate])
    monkeypatch.setattr(module, "_COSINES_PER_BLOCK", 70)  # 3 query vectors at a time
    np.testing.assert_allclose(maxsim(query, [candidate]), whole, atol=1e-7)


def test_refuses_other_dimensions_and_numbers_that_are_not_finite():
    query = np.ones((2, 4), np.float32)
    with pytest.raises(InputError, match="3 numbers in candidate 1, of 4 in the query"):
        maxsim(query, [query, np.ones((2, 3), np.float32)])
    with pytest.raises(InputError, match="candidate 0"):
        maxsim(query, [np.full((1, 4), np.nan, np.float32)])
    with pytest.raises(InputError, match="the query"):
        maxsim(np.ones(4, np.float32), [])


def test_fifty_candidates_of_400_tokens_are_a_matter_of_milliseconds():
    rng = np.random.default_rng(2)
    query = rng.normal(size=(400, 128)).astype(np.float32)
    candidates = [rng.normal(size=(400, 128)).astype(np.float32) for _ in range(50)]
    start = time.perf_counter()
    maxsim(query, candidates)
    assert time.perf_counter() - start < 1.0  # about 0.04 s on an idle core; a loop over pairs takes minutes
