import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

from imgrank.errors import InputError, SettingsError
from imgrank.tokens.averages import averaged
from imgrank.tokens.base import Amount, Groups, check_tokens


def test_without_members_the_places_stay_as_they_are():
    vectors = np.arange(24, dtype=np.float16).reshape(4, 2, 3)
    left = Groups(np.array([1, 3])).apply(vectors)
    assert left.dtype == np.float32
    np.testing.assert_array_equal(left, vectors[[1, 3]])


def test_hand_worked_averages_of_every_level():
    vectors = np.array([[[1, 10]], [[2, 20]], [[6, 60]], [[9, 90]]], dtype=np.float32)
    left = Groups(np.array([0, 1]), np.array([1, 0, 1, -1])).apply(vectors)
    assert left.dtype == np.float32
    np.testing.assert_array_equal(left, [[[2, 20]], [[3.5, 35]]])


@given(
    hnp.arrays(np.float32, hnp.array_shapes(min_dims=2, max_dims=3, max_side=9), elements=st.floats(-9, 9, width=32)),
    st.data(),
)
def test_averages_are_those_of_each_group_alone(vectors, data):
    n = len(vectors)
    k = data.draw(st.integers(1, n))
    # Each group has at least one token; the others are anywhere, or nowhere (-1).
    rest = data.draw(st.lists(st.integers(-1, k - 1), min_size=n - k, max_size=n - k))
    members = np.array(data.draw(st.permutations([*range(k), *rest])))
    left = Groups(np.arange(k), members).apply(vectors)
    assert left.shape == (k, *vectors.shape[1:])
    for group in range(k):
        expected = vectors[members == group].astype(np.float64).mean(axis=0)
        np.testing.assert_allclose(left[group], expected, rtol=1e-6, atol=1e-40)


def test_the_average_of_large_numbers_and_of_copies_is_exact():
    largest = np.full((3, 2), np.finfo(np.float32).max)
    np.testing.assert_array_equal(Groups(np.array([0]), np.zeros(3, dtype=np.int64)).apply(largest), largest[:1])
    tenths = np.full((7, 2), 0.1, dtype=np.float32)
    np.testing.assert_array_equal(Groups(np.array([0]), np.zeros(7, dtype=np.int64)).apply(tenths), tenths[:1])


def test_nothing_is_left_of_nothing():
    assert Groups(np.arange(0)).apply(np.empty((0, 2, 3), dtype=np.float32)).shape == (0, 2, 3)


def test_averaged_numbers_clusters_by_their_most_typical_member():
    # Cluster 7: tokens 0, 2, 3 with mean 3, nearest to token 3. Cluster -2: tokens 1 and 4, equally far from 11.
    vectors = np.array([[0], [10], [5], [4], [12]], dtype=np.float32)
    groups = averaged(vectors, np.array([7, -2, 7, 7, -2]))
    assert groups.places.tolist() == [1, 3]
    assert groups.members.tolist() == [1, 0, 1, 1, 0]
    np.testing.assert_array_equal(groups.apply(vectors), [[11], [3]])


@given(st.data())
def test_averaged_equals_the_rule_one_cluster_at_a_time(data):
    n = data.draw(st.integers(1, 25))
    # Small whole numbers: many exact ties.
    vectors = data.draw(hnp.arrays(np.float32, (n, 2), elements=st.integers(-3, 3)))
    labels = np.array(data.draw(st.lists(st.integers(0, 5), min_size=n, max_size=n)))
    groups = averaged(vectors, labels)
    assert groups.places.dtype == np.int64
    assert groups.members.dtype == np.int64
    assert (np.diff(groups.places) > 0).all()
    assert len(groups.places) == len(set(labels.tolist()))
    for group, place in enumerate(groups.places):
        inside = np.flatnonzero(labels == labels[place])
        np.testing.assert_array_equal(np.flatnonzero(groups.members == group), inside)
        # n squared times the squared distance to the mean, in whole numbers
        distances = ((len(inside) * vectors[inside] - vectors[inside].sum(axis=0)) ** 2).sum(axis=1)
        assert distances[inside == place] == distances.min()


@pytest.mark.parametrize(
    ("amount", "n", "left"),
    [
        (Amount(count=5), 9, 5),
        (Amount(count=5), 3, 3),
        (Amount(share=0.25), 16, 4),
        (Amount(share=0.25), 17, 5),
        (Amount(share=0.29), 100, 29),  # a little above 29 in float64
        (Amount(share=0.001), 100, 1),
        (Amount(share=1), 100, 100),
        (Amount(count=5), 0, 0),
        (Amount(share=0.5), 0, 0),
    ],
)
def test_amounts(amount, n, left):
    assert amount.of(n) == left


@given(st.floats(0, 1, exclude_min=True), st.integers(1, 5000))
def test_a_share_leaves_at_least_itself_and_at_most_one_more(share, n):
    left = Amount(share=share).of(n)
    assert 1 <= left <= n
    assert left >= share * n - 1e-5
    assert left <= share * n + 1  # equal to it where the share is next to nothing


@pytest.mark.parametrize(
    "values", [{}, {"count": 3, "share": 0.5}, {"count": 0}, {"share": 0.0}, {"share": 1.1}, {"share": float("nan")}]
)
def test_refuses_other_amounts(values):
    with pytest.raises(SettingsError):
        Amount(**values)


def test_positions_are_checked_in_every_tile():
    vectors = np.zeros((2, 3), dtype=np.float32)
    places = check_tokens(vectors, np.array([[0, 1, 1], [7, 0, 2]], dtype=np.uint16), (2, 3))
    assert places.dtype == np.int64
    np.testing.assert_array_equal(places, [[0, 1, 1], [7, 0, 2]])
    for wrong in ([-1, 0, 0], [0, 2, 0], [0, 0, 3], [0, -1, 0]):
        with pytest.raises(InputError, match="outside its grid"):
            check_tokens(vectors, np.array([[0, 0, 0], wrong]), (2, 3))
    with pytest.raises(InputError, match="positions of shape"):
        check_tokens(vectors, np.zeros((2, 2), dtype=np.int64), (2, 3))
    with pytest.raises(InputError, match="positions of shape"):
        check_tokens(np.zeros((2, 1, 3)), np.zeros((2, 3), dtype=np.int64), (2, 3))
