import numpy as np

from imgrank.arrays import unit_rows
from imgrank.index.base import Neighbours
from imgrank.index.exact import ExactIndex
from imgrank.index.recall import sample_rows, self_recall
from imgrank.index.similarity import rescore


class Fixed:
    """Answers the rows it was given, whatever the query."""

    def __init__(self, descriptors, rows):
        self.descriptors, self.rows = descriptors, np.array(rows)

    def search(self, queries, k):
        rows = np.tile(self.rows[:k], (len(queries), 1))
        return Neighbours(rows, np.stack([rescore(self.descriptors, query, self.rows[:k]) for query in queries]))


def on_a_circle(*degrees):
    radians = np.deg2rad(degrees)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


def test_hand_worked():
    # From row 0 the order is 1, 2, 3, 4. An index that finds 0 (itself), 1 and 4 has one of the two nearest.
    descriptors = on_a_circle(0, 10, 20, 30, 40)
    exact = ExactIndex(descriptors)
    assert self_recall(Fixed(descriptors, [0, 1, 4]), exact, descriptors, np.array([0]), 2) == 0.5
    assert self_recall(Fixed(descriptors, [0, 2, 1]), exact, descriptors, np.array([0]), 2) == 1.0
    assert self_recall(Fixed(descriptors, [0, 3, 4]), exact, descriptors, np.array([0]), 2) == 0.0


def test_an_equal_neighbour_is_as_good():
    descriptors = on_a_circle(0, 10, 10, 10, 90)
    assert self_recall(Fixed(descriptors, [0, 3]), ExactIndex(descriptors), descriptors, np.array([0]), 1) == 1.0


def test_an_index_that_misses_the_row_itself_is_not_credited_for_it():
    descriptors = on_a_circle(0, 10, 20, 30)
    exact = ExactIndex(descriptors)
    assert self_recall(Fixed(descriptors, [3, 1, 2]), exact, descriptors, np.array([0]), 2) == 0.5


def test_exact_against_itself_and_nothing_to_find():
    descriptors = unit_rows(np.random.default_rng(0).normal(size=(40, 6)))
    exact = ExactIndex(descriptors)
    assert self_recall(exact, exact, descriptors, np.arange(40), 100) == 1.0
    assert self_recall(exact, exact, descriptors, np.array([], dtype=np.int64), 5) == 1.0
    one = ExactIndex(descriptors[:1])
    assert self_recall(one, one, descriptors[:1], np.array([0]), 5) == 1.0


def test_samples_are_seeded_searchable_and_different():
    searchable = np.arange(100) % 3 != 0
    rows = sample_rows(searchable, 20, seed=4)
    np.testing.assert_array_equal(rows, sample_rows(searchable, 20, seed=4))
    assert rows.tolist() != sample_rows(searchable, 20, seed=5).tolist()
    assert len(set(rows.tolist())) == 20
    assert searchable[rows].all()
    np.testing.assert_array_equal(sample_rows(searchable, 1000, seed=4), np.flatnonzero(searchable))
