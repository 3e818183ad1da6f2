"""Matches of tiny sets of vectors, worked by hand."""

import numpy as np
import pytest

from imgrank.rerank.matches import best_matches, mutual_matches, strongest_first
from imgrank.rerank.maxsim import maxsim

# Cosines with the candidate:    east  north-east  west
QUERY = np.array(
    [[2.0, 0.0], [1.0, 1.0], [0.0, 3.0]], np.float32
)  # east 1 .71 -1; north-east .71 1 -.71; north 0 .71 0
CANDIDATE = np.array([[5.0, 0.0], [0.5, 0.5], [-1.0, 0.0]], np.float32)


def listed(matches) -> list[tuple[int, int]]:
    return list(zip(matches.query.tolist(), matches.candidate.tolist(), strict=True))


def test_only_mutual_neighbours_match():
    # North is nearest to north-east, which is nearer to the query's own north-east; west is nobody's nearest.
    found = mutual_matches(QUERY, CANDIDATE)
    assert listed(found) == [(0, 0), (1, 1)]
    np.testing.assert_allclose(found.strengths, [1, 1], atol=1e-6)


def test_best_matches_may_meet_in_one_vector():
    found = best_matches(QUERY, CANDIDATE)
    assert listed(found) == [(0, 0), (1, 1), (2, 1)]
    np.testing.assert_allclose(found.strengths, [1, 1, np.sqrt(0.5)], atol=1e-6)


def test_the_means_of_both_directions_are_the_maxsim():
    there, back = best_matches(QUERY, CANDIDATE), best_matches(CANDIDATE, QUERY)
    expected = maxsim(QUERY, [CANDIDATE])[0]
    assert (there.strengths.mean() + back.strengths.mean()) / 2 == pytest.approx(expected, abs=1e-6)


def test_equal_vectors_match_once_the_first_with_the_first():
    twins = np.array([[1.0, 0.0], [1.0, 0.0]], np.float32)
    assert listed(mutual_matches(twins, twins)) == [(0, 0)]


def test_without_vectors_nothing_matches():
    none = np.zeros((0, 2), np.float32)
    for one, other in ((none, QUERY), (QUERY, none), (none, none)):
        assert len(mutual_matches(one, other)) == 0
        assert len(best_matches(one, other)) == 0
    assert len(strongest_first([], [], []).spread(none)) == 0


def test_the_strongest_of_each_cell_come_first():
    matches = strongest_first([0, 1, 2, 3], [0, 1, 2, 3], [0.9, 0.8, 0.7, 0.6])
    # The first two lie in one cell, the others in one of their own each.
    spread = matches.spread([[0.1, 0.1], [0.9, 0.5], [1.1, 0.1], [0.2, 2.0]])
    assert spread.query.tolist() == [0, 2, 3, 1]
    assert spread.first(2).strengths.tolist() == pytest.approx([0.9, 0.7])
