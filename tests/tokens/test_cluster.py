import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy.cluster.vq import kmeans2

from imgrank.errors import InputError, SettingsError
from imgrank.tokens.base import Amount
from imgrank.tokens.cluster import KMeans, lloyd
from imgrank.tokens.prune import most_diverse


def in_a_row(vectors):
    vectors = np.asarray(vectors, dtype=np.float32)
    return vectors, np.argwhere(np.ones((1, 1, len(vectors)))), (1, len(vectors))


def partition(labels):
    return sorted(np.flatnonzero(labels == label).tolist() for label in np.unique(labels))


def cost(vectors, labels):
    """The sum of squared distances to the means."""
    clusters = [vectors[labels == label].astype(np.float64) for label in np.unique(labels)]
    return sum(((cluster - cluster.mean(axis=0)) ** 2).sum() for cluster in clusters)


def test_hand_worked_line():
    points = np.array([[0], [1], [5], [6], [20]], dtype=np.float32)
    ones = np.ones(5, dtype=np.int64)
    # From 0 and 1: the others are nearer to 1, whose mean becomes 8; then 1 is nearer to 0; then {0, 1} and {5, 6, 20}
    # have means 0.5 and 10.33, and 5 is nearer to 0.5; then 2 and 13, and 6 changes; 3 and 20 is where it ends.
    by_iterations = {1: [0, 1, 1, 1, 1], 2: [0, 0, 1, 1, 1], 3: [0, 0, 0, 1, 1], 4: [0, 0, 0, 0, 1], 9: [0, 0, 0, 0, 1]}
    for iterations, labels in by_iterations.items():
        assert lloyd(points, ones, np.array([0, 1]), iterations).tolist() == labels


def test_ends_where_nothing_changes_any_more(monkeypatch):
    rounds = []
    monkeypatch.setattr("imgrank.tokens.cluster._fill_empty", lambda *_: rounds.append(1))
    points = np.array([[0], [1], [5], [6], [20]], dtype=np.float32)
    lloyd(points, np.ones(5, dtype=np.int64), np.array([0, 1]), 100)
    assert len(rounds) == 5  # the fifth finds what the fourth found


def test_copies_pull_a_mean_as_often_as_they_are_there():
    points = np.array([[0], [3], [5], [12]], dtype=np.float32)
    # From 0 and 3, the others join 3: their mean is 6.7, and 5 stays. With 8 copies of 12 it is 10.4, and 5 goes to 0.
    assert lloyd(points, np.array([1, 1, 1, 1]), np.array([0, 1]), 2).tolist() == [0, 0, 1, 1]
    assert lloyd(points, np.array([1, 1, 1, 8]), np.array([0, 1]), 2).tolist() == [0, 0, 0, 1]


def test_an_empty_cluster_takes_the_point_farthest_from_its_centroid():
    # The first two clusters start at the same place, and ties leave the second without points; 13 is 3 from 10.
    points = np.array([[0], [0], [10], [11], [13]], dtype=np.float32)
    assert lloyd(points, np.ones(5, dtype=np.int64), np.array([0, 1, 2]), 1).tolist() == [0, 0, 2, 2, 1]


def test_empty_clusters_leave_no_other_empty():
    # All start at 0. 9 is moved first; it is alone then, and the next must not take it although it is farthest still.
    points = np.array([[0], [0], [0], [9]], dtype=np.float32)
    labels = lloyd(points, np.ones(4, dtype=np.int64), np.array([0, 1, 2, 2]), 1)
    assert sorted(labels.tolist()) == [0, 1, 2, 3]


@settings(max_examples=200, deadline=None)
@given(st.data())
def test_no_cluster_is_ever_empty(data):
    points = np.array(data.draw(st.lists(st.integers(0, 3), min_size=1, max_size=9)), dtype=np.float32)[:, None]
    n = len(points)
    k = data.draw(st.integers(1, n))
    starts = np.array(data.draw(st.lists(st.integers(0, n - 1), min_size=k, max_size=k)))
    labels = lloyd(points, np.ones(n, dtype=np.int64), starts, data.draw(st.integers(1, 4)))
    assert set(labels.tolist()) == set(range(k))


@pytest.mark.parametrize(("n", "hidden", "k"), [(60, 5, 7), (200, 16, 30), (120, 64, 119)])
def test_equals_scipy_on_random_tokens(n, hidden, k):
    for seed in range(3):
        tokens = np.random.default_rng(seed).normal(size=(n, hidden)).astype(np.float32) + 3
        starts = tokens[most_diverse(tokens, k)]
        for iterations in (1, 3, 50):
            _, expected = kmeans2(tokens.astype(np.float64), starts.astype(np.float64), iterations, minit="matrix")
            groups = KMeans(Amount(count=k), iterations).reduce(*in_a_row(tokens))
            assert partition(groups.members) == partition(expected)


def test_more_iterations_never_cost_more():
    tokens = np.random.default_rng(1).normal(size=(150, 12)).astype(np.float32)
    labels = [KMeans(Amount(count=20), i).reduce(*in_a_row(tokens)).members for i in (1, 2, 4, 8, 16)]
    costs = [cost(tokens, one) for one in labels]
    assert costs == sorted(costs, reverse=True)
    assert costs[-1] < costs[0]


@settings(max_examples=80, deadline=None)
@given(st.data())
def test_as_many_clusters_as_asked_or_as_there_are_different_tokens(data):
    kinds = np.random.default_rng(data.draw(st.integers(0, 10))).normal(size=(8, 3)).astype(np.float32)
    kinds[0], kinds[1] = 0, 2 * kinds[2]  # a zero, and two that DivPrune cannot tell apart
    order = data.draw(st.lists(st.integers(0, 7), min_size=2, max_size=30))
    tokens = kinds[order]
    k = data.draw(st.integers(1, len(tokens) - 1))
    groups = KMeans(Amount(count=k)).reduce(*in_a_row(tokens))
    clusters = partition(groups.members)
    assert len(clusters) == len(groups.places) == min(k, len(set(order)))
    for cluster in clusters:  # copies are together
        kinds_inside = {order[i] for i in cluster}
        assert all((order[i] in kinds_inside) == (i in cluster) for i in range(len(order)))
    for i, place in enumerate(groups.places.tolist()):
        assert groups.members[place] == i
    assert (np.diff(groups.places) > 0).all()


@pytest.mark.parametrize("scale", [1e-36, 1e-20, 1e20, 1e36])
def test_very_small_and_very_large_tokens_are_no_special_case(scale):
    tokens = np.random.default_rng(3).normal(size=(40, 6)).astype(np.float32)
    usual = KMeans(Amount(count=9)).reduce(*in_a_row(tokens))
    scaled = KMeans(Amount(count=9)).reduce(*in_a_row(tokens * np.float32(scale)))
    np.testing.assert_array_equal(scaled.members, usual.members)
    np.testing.assert_array_equal(scaled.places, usual.places)


def test_clusters_hold_although_all_tokens_share_a_large_part():
    # The squares are 1e8 and the distances between clusters 1: float32 could not tell without centring.
    tokens = np.random.default_rng(0).normal(scale=0.05, size=(40, 4)).astype(np.float32)
    tokens[:, 0] += np.repeat([0, 1, 2, 3], 10)
    tokens[:, 3] += 1e4
    groups = KMeans(Amount(count=4)).reduce(*in_a_row(tokens))
    assert partition(groups.members) == [list(range(i, i + 10)) for i in (0, 10, 20, 30)]


@pytest.mark.parametrize(("n", "k"), [(0, 3), (3, 3), (3, 9)])
def test_keeps_all_where_there_are_not_more_than_asked(n, k):
    groups = KMeans(Amount(count=k)).reduce(*in_a_row(np.random.default_rng(0).normal(size=(n, 2))))
    assert groups.places.tolist() == list(range(n))
    assert groups.members is None


def test_refuses_what_it_cannot_compare_and_no_iterations():
    vectors, positions, _ = in_a_row(np.eye(3))
    with pytest.raises(InputError, match="1 rows and 2 columns"):
        KMeans(Amount(count=2)).reduce(vectors, positions, (1, 2))
    vectors[1, 1] = np.inf
    with pytest.raises(InputError, match="not finite"):
        KMeans(Amount(count=2)).reduce(vectors, positions, (1, 3))
    vectors[:2] = np.inf  # two different tokens, so that nothing is left to cluster
    with pytest.raises(InputError, match="not finite"):
        KMeans(Amount(count=2)).reduce(vectors, positions, (1, 3))
    with pytest.raises(SettingsError):
        KMeans(Amount(count=2), iterations=0)
