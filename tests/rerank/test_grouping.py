"""From links to groups: against scipy, by hand, and by what a group promises."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.sparse import coo_array
from scipy.sparse.csgraph import connected_components

from imgrank.rerank.grouping import DisjointSets, grouped, under_leaders

N = 12
links = st.sets(st.tuples(st.integers(0, N - 1), st.integers(0, N - 1)).filter(lambda pair: pair[0] < pair[1]))


def ends(pairs):
    first, second = (np.array([pair[side] for pair in sorted(pairs)], dtype=np.int64) for side in (0, 1))
    return first, second


@given(links)
def test_single_linkage_finds_the_connected_components_of_scipy(pairs):
    first, second = ends(pairs)
    labels = grouped(N, first, second, np.ones(len(first), np.float32), "single")
    _, expected = connected_components(coo_array((np.ones(len(first)), (first, second)), shape=(N, N)), directed=False)
    lowest = [int(np.flatnonzero(expected == component)[0]) for component in expected]
    assert labels.tolist() == lowest


@given(links, st.randoms(use_true_random=False))
def test_complete_linkage_makes_cliques_and_average_stays_inside_components(pairs, random):
    first, second = ends(pairs)
    strengths = np.array([random.random() for _ in first], dtype=np.float32)
    complete = grouped(N, first, second, strengths, "complete")
    for a in range(N):
        for b in range(a + 1, N):
            assert complete[a] != complete[b] or (a, b) in pairs
    single, average = (grouped(N, first, second, strengths, how) for how in ("single", "average"))
    for label in set(average.tolist()):
        assert len(set(single[average == label].tolist())) == 1


@pytest.mark.parametrize(
    ("linkage", "labels"),
    [("single", [0, 0, 0, 0, 0, 0]), ("average", [0, 0, 0, 3, 3, 3]), ("complete", [0, 0, 0, 3, 3, 3])],
)
def test_one_link_between_two_triangles_joins_them_by_single_linkage_alone(linkage, labels):
    pairs = [(0, 1), (0, 2), (1, 2), (3, 4), (3, 5), (4, 5), (2, 3)]
    first, second = (np.array(side) for side in zip(*pairs, strict=True))
    assert grouped(6, first, second, np.linspace(1, 0.5, 7, dtype=np.float32), linkage).tolist() == labels


@pytest.mark.parametrize(
    ("linkage", "labels"), [("single", [0, 0, 0, 0]), ("average", [0, 0, 0, 3]), ("complete", [0, 0, 2, 2])]
)
def test_a_chain_by_hand(linkage, labels):
    # 0-1 joins; 1-2 has 1 of 2 pairs; 2-3 has 1 of 3 in the group of three, and 1 of 1 where 2 is still alone.
    first, second = np.array([0, 1, 2]), np.array([1, 2, 3])
    assert grouped(4, first, second, np.array([0.9, 0.8, 0.7], np.float32), linkage).tolist() == labels


@given(links, st.permutations(range(N)))
def test_members_are_linked_with_their_leader_which_comes_before_them(pairs, order):
    first, second = ends(pairs)
    leaders = under_leaders(N, first, second, np.array(order))
    for member, leader in enumerate(leaders.tolist()):
        assert leaders[leader] == leader
        if member != leader:
            assert (min(member, leader), max(member, leader)) in pairs
            assert order.index(leader) < order.index(member)
    chosen = np.flatnonzero(leaders == np.arange(N)).tolist()
    assert not any(a in chosen and b in chosen for a, b in pairs)  # what is kept has no copy among what is kept


def test_disjoint_sets_count_their_members():
    sets = DisjointSets(4)
    assert sets.sizes[sets.join(sets.find(3), sets.find(1))] == 2
    assert sets.labels().tolist() == [0, 1, 2, 1]
    assert DisjointSets(0).labels().tolist() == []
