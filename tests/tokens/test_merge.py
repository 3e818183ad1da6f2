import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgrank.errors import InputError, SettingsError
from imgrank.tokens.merge import GreedyMerging


def in_a_row(vectors):
    vectors = np.asarray(vectors, dtype=np.float32)
    return vectors, np.argwhere(np.ones((1, 1, len(vectors)))), (1, len(vectors))


def at_angles(*degrees):
    radians = np.deg2rad(degrees)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


def reference(vectors, size):
    """Groups as sets of tokens: the rule in float64, one similarity at a time."""
    vectors = np.asarray(vectors, dtype=np.float64)

    def similarity(i, j):
        if np.array_equal(vectors[i], vectors[j]):
            return 1.0
        lengths = np.linalg.norm(vectors[i]) * np.linalg.norm(vectors[j])
        return float(vectors[min(i, j)] @ vectors[max(i, j)]) / lengths if lengths else 0.0

    free, groups = list(range(len(vectors))), []
    while free:
        leader, *others = free
        taken = sorted(others, key=lambda i: (-similarity(leader, i), i))[: size - 1]
        groups.append({leader, *taken})
        free = [i for i in others if i not in taken]
    return groups


def test_hand_worked_angles():
    tokens = at_angles(0, 90, 50, 5, 80, 40, 10)
    # 0 takes 5 and 10 (tokens 3, 6), which average near 5; 90 takes 80 and 50 (4, 2), near 80; 40 stays alone.
    groups = GreedyMerging(3).reduce(*in_a_row(tokens))
    assert groups.places.tolist() == [3, 4, 5]
    assert groups.members.tolist() == [0, 1, 1, 0, 1, 2, 0]
    np.testing.assert_allclose(groups.apply(tokens)[1], tokens[[1, 2, 4]].mean(axis=0), rtol=1e-6)


def test_similarity_ignores_lengths_and_the_average_does_not():
    # Token 0 is nearest to token 2 in distance and to token 1 in direction. The mean of 1 and 10 is equally far from
    # both, and goes to the lower; among 1, 10 and 10 it is 7, nearer to 10.
    tokens = np.array([[1, 0], [10, 0], [1, 0.5]], dtype=np.float32)
    groups = GreedyMerging(2).reduce(*in_a_row(tokens))
    assert groups.members.tolist() == [0, 0, 1]
    assert groups.places.tolist() == [0, 2]
    np.testing.assert_array_equal(groups.apply(tokens), [[5.5, 0], [1, 0.5]])
    assert GreedyMerging(3).reduce(*in_a_row([[1, 0], [10, 0], [10, 0]])).places.tolist() == [1]


def test_equal_similarities_go_to_the_lowest_index():
    tokens = np.eye(5, dtype=np.float32)
    groups = GreedyMerging(2).reduce(*in_a_row(tokens))
    assert groups.members.tolist() == [0, 0, 1, 1, 2]
    assert groups.places.tolist() == [0, 2, 4]


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_equals_the_reference_among_copies_and_zeros(data):
    kinds = np.random.default_rng(data.draw(st.integers(0, 10))).normal(size=(9, 37)).astype(np.float32)
    kinds[0] = 0
    tokens = kinds[data.draw(st.lists(st.integers(0, 8), min_size=2, max_size=30))]
    size = data.draw(st.integers(2, 6))
    groups = GreedyMerging(size).reduce(*in_a_row(tokens))
    found = [set(np.flatnonzero(groups.members == g).tolist()) for g in range(len(groups.places))]
    assert sorted(map(sorted, found)) == sorted(map(sorted, reference(tokens, size)))
    assert (np.diff(groups.places) > 0).all()
    assert all(place in group for place, group in zip(groups.places.tolist(), found, strict=True))


@pytest.mark.parametrize(("n", "size"), [(0, 4), (1, 4), (5, 1)])
def test_nothing_to_merge(n, size):
    tokens = np.random.default_rng(0).normal(size=(n, 3))
    groups = GreedyMerging(size).reduce(*in_a_row(tokens))
    assert groups.places.tolist() == list(range(n))
    assert groups.members is None


def test_refuses_what_it_cannot_compare_and_a_size_of_0():
    vectors, positions, _ = in_a_row(np.eye(3))
    with pytest.raises(InputError, match="1 rows and 2 columns"):
        GreedyMerging().reduce(vectors, positions, (1, 2))
    vectors[1, 1] = np.nan
    with pytest.raises(InputError, match="not finite"):
        GreedyMerging().reduce(vectors, positions, (1, 3))
    with pytest.raises(SettingsError):
        GreedyMerging(size=0)
