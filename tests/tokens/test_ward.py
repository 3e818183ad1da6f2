import time

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.cluster.hierarchy import fcluster, linkage

from imgrank.errors import InputError
from imgrank.tokens.base import Amount
from imgrank.tokens.ward import Ward, merges, ward


def in_a_row(vectors):
    vectors = np.asarray(vectors, dtype=np.float32)
    return vectors, np.argwhere(np.ones((1, 1, len(vectors)))), (1, len(vectors))


def at_angles(*degrees):
    radians = np.deg2rad(degrees)
    return np.stack([np.cos(radians), np.sin(radians)], axis=1).astype(np.float32)


def partition(labels):
    return sorted(np.flatnonzero(labels == label).tolist() for label in np.unique(labels))


def units(vectors):
    vectors = np.asarray(vectors, dtype=np.float64)
    lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
    return vectors / np.where(lengths > 0, lengths, 1)


def cost(vectors, labels):
    """The sum of squared distances to the means, of the vectors at unit length."""
    clusters = [units(vectors)[labels == label] for label in np.unique(labels)]
    return sum(((cluster - cluster.mean(axis=0)) ** 2).sum() for cluster in clusters)


def squared_distances(points):
    points = np.asarray(points, dtype=np.float64)
    return ((points[:, None] - points) ** 2).sum(axis=2)


def test_hand_worked_line():
    points = [[0], [1], [3], [7], [20]]
    # Merges by |A||B| / (|A| + |B|) times the squared distance of the means: {0, 1} costs 1/2, then {0, 1, 3} 2/3 of
    # 6.25 = 4.2 against {3, 7} 8, then {0, 1, 3, 7} 3/4 of 32.1 = 24 against {7, 20} 84.5.
    assert partition(ward(squared_distances(points), 5)) == [[0], [1], [2], [3], [4]]
    assert ward(squared_distances(points), 4).tolist() == [0, 0, 2, 3, 4]
    assert ward(squared_distances(points), 3).tolist() == [0, 0, 0, 3, 4]
    assert ward(squared_distances(points), 2).tolist() == [0, 0, 0, 0, 4]
    assert ward(squared_distances(points), 1).tolist() == [0, 0, 0, 0, 0]


def test_large_clusters_merge_later_than_their_distance_says():
    # The pair at 10 and 13.9 is farther apart than the means of the two fours, 3 apart, but 1/2 of 3.9² = 7.6 is less
    # than 16/8 of 3² = 18. By distance alone the fours would merge first.
    points = [[0], [0], [0], [0], [3], [3], [3], [3], [10], [13.9]]
    assert ward(squared_distances(points), 3).tolist() == [0, 0, 0, 0, 4, 4, 4, 4, 8, 8]


def test_clusters_by_direction_and_averages_of_the_tokens_as_they_are():
    tokens = at_angles(0, 90, 2, 93, 45) * np.array([1, 3, 5, 1, 1], dtype=np.float32)[:, None]
    groups = Ward(Amount(count=3)).reduce(*in_a_row(tokens))
    assert groups.members.tolist() == [0, 1, 0, 1, 2]
    assert groups.places.tolist() == [0, 1, 4]  # a mean of two is equally far from both: the lower
    np.testing.assert_allclose(groups.apply(tokens)[0], (tokens[0] + tokens[2]) / 2, rtol=1e-6)


def test_a_cluster_stands_at_its_member_nearest_to_the_mean():
    tokens = np.array([[4, 0], [0, 1], [0, 2], [1, 0], [2, 0]], dtype=np.float32)
    groups = Ward(Amount(count=2)).reduce(*in_a_row(tokens))
    assert groups.members.tolist() == [1, 0, 0, 1, 1]  # numbered by place: (0, 1) at 1, and (2, 0), near 7/3, at 4
    assert groups.places.tolist() == [1, 4]


def test_a_zero_is_at_distance_1_from_all_others():
    # Tokens 75 degrees apart are at 2 - 2 cos 75 = 1.48, tokens 55 degrees apart at 0.85, squared.
    for degrees, clusters in ((75, [[0, 1], [2]]), (55, [[0], [1, 2]])):
        tokens = np.concatenate([np.zeros((1, 2), dtype=np.float32), at_angles(0, degrees)])
        assert partition(Ward(Amount(count=2)).reduce(*in_a_row(tokens)).members) == clusters


@pytest.mark.parametrize(("n", "hidden"), [(10, 3), (30, 2), (60, 8), (150, 64), (300, 5)])
def test_equals_scipy_on_random_tokens(n, hidden):
    tokens = np.random.default_rng(n).normal(size=(n, hidden)).astype(np.float32)
    tree = linkage(units(tokens), method="ward")
    for k in sorted({1, 2, n // 7 + 1, n // 4 + 1, n // 2, n - 1}):
        groups = Ward(Amount(count=k)).reduce(*in_a_row(tokens))
        assert partition(groups.members) == partition(fcluster(tree, k, criterion="maxclust"))


@settings(max_examples=60, deadline=None)
@given(st.data())
def test_equals_scipy_among_copies_and_puts_zeros_somewhere(data):
    kinds = np.random.default_rng(data.draw(st.integers(0, 10))).normal(size=(8, 5)).astype(np.float32)
    kinds[0] = 0
    order = data.draw(st.lists(st.integers(0, 7), min_size=2, max_size=30))
    tokens, different = kinds[order], len(set(order))
    k = data.draw(st.integers(1, len(tokens) - 1))
    groups = Ward(Amount(count=k)).reduce(*in_a_row(tokens))
    assert len(groups.places) == len(set(groups.members.tolist())) == k
    assert (np.diff(groups.places) > 0).all()
    for i, place in enumerate(groups.places.tolist()):
        assert groups.members[place] == i
    if k >= different:
        assert cost(tokens, groups.members) == pytest.approx(0, abs=1e-12)
    elif 0 not in order:  # a zero is equally far from all: scipy and we may merge it with others
        expected = fcluster(linkage(units(tokens), method="ward"), k, criterion="maxclust")
        assert partition(groups.members) == partition(expected)


@settings(max_examples=100, deadline=None)
@given(st.integers(2, 40), st.floats(0.1, 10), st.data())
def test_ties_and_rounding_leave_every_cut_a_partition_of_the_one_before(n, distance, data):
    # All points are equally far from each other, but for a few copies: distances that rounding moves up and down.
    copies = data.draw(st.lists(st.integers(0, n - 1), min_size=n, max_size=n))
    distances = np.where(np.equal.outer(copies, copies), 0, distance)
    finer = partition(ward(distances.copy(), n))
    assert len(finer) == n
    for k in range(n - 1, 0, -1):
        coarser = partition(ward(distances.copy(), k))
        assert len(coarser) == k
        assert all(any(set(part) <= set(whole) for whole in coarser) for part in finer)
        finer = coarser


@settings(max_examples=100, deadline=None)
@given(st.integers(2, 30), st.floats(0.1, 10))
def test_rounding_puts_no_merge_below_those_inside_it(n, distance):
    lower, upper, heights = merges(np.full((n, n), distance))
    assert sorted(upper.tolist()) == list(range(1, n))
    tops = np.zeros(n)
    for a, b, height in zip(lower, upper, heights, strict=True):
        assert a < b
        assert height >= max(tops[a], tops[b])
        tops[a] = height


def test_heights_are_twice_what_the_merges_add_to_the_squared_distances():
    points = np.random.default_rng(5).normal(size=(20, 3))
    heights = np.sort(merges(squared_distances(points))[2])
    costs = []
    for k in range(20, 0, -1):
        labels = ward(squared_distances(points), k)
        costs.append(sum(points[labels == label].var(axis=0).sum() * (labels == label).sum() for label in set(labels)))
    np.testing.assert_allclose(np.diff(costs) * 2, heights)


@pytest.mark.parametrize(("n", "k"), [(0, 3), (3, 3), (3, 9)])
def test_keeps_all_where_there_are_not_more_than_asked(n, k):
    groups = Ward(Amount(count=k)).reduce(*in_a_row(np.random.default_rng(0).normal(size=(n, 2))))
    assert groups.places.tolist() == list(range(n))
    assert groups.members is None


def test_refuses_what_it_cannot_compare():
    vectors, positions, _ = in_a_row(np.eye(3))
    with pytest.raises(InputError, match="1 rows and 2 columns"):
        Ward(Amount(count=2)).reduce(vectors, positions, (1, 2))
    vectors[1, 1] = np.nan
    with pytest.raises(InputError, match="not finite"):
        Ward(Amount(count=2)).reduce(vectors, positions, (1, 3))


def test_a_thousand_tokens_take_well_under_a_second():
    distances = squared_distances(np.random.default_rng(0).normal(size=(1280, 4)))
    times = []
    for _ in range(3):
        start = time.perf_counter()
        ward(distances.copy(), 64)
        times.append(time.perf_counter() - start)
    # 0.07 s on an idle core; a search over all pairs for each merge would take a minute.
    assert min(times) < 1
