import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgrank.arrays import unit_rows
from imgrank.errors import InputError, MissingError, SettingsError
from imgrank.index import hnsw
from imgrank.index.exact import ExactIndex
from imgrank.index.graph import arrays, empty_graph, from_arrays, validate
from imgrank.index.hnsw import HnswIndex, build, extend
from imgrank.index.numpy_search import NumpyHnswIndex
from imgrank.index.recall import sample_rows, self_recall
from tests.index.graphs import changed, clustered, same, small_graph

DESCRIPTORS = clustered(1500, 24, seed=0)
GRAPH = build(DESCRIPTORS, m=8, ef_construction=80)
QUERIES = unit_rows(DESCRIPTORS[::50] + 0.05 * np.random.default_rng(1).normal(size=(30, 24)))


def test_one_thread_builds_the_same_graph_and_another_seed_another():
    assert same(build(DESCRIPTORS, m=8, ef_construction=80), GRAPH)
    assert not same(build(DESCRIPTORS, m=8, ef_construction=80, seed=3), GRAPH)
    assert (GRAPH.m, GRAPH.ef_construction, GRAPH.seed) == (8, 80, 100)
    assert validate(GRAPH, 1500) == []


def test_recall_is_high_with_one_thread_and_with_two():
    exact = ExactIndex(DESCRIPTORS)
    rows = sample_rows(exact.searchable, 200, seed=0)
    two_threads = build(DESCRIPTORS, m=8, ef_construction=80, threads=2)
    assert validate(two_threads, 1500) == []
    for graph in (GRAPH, two_threads):
        assert self_recall(HnswIndex(graph, DESCRIPTORS), exact, DESCRIPTORS, rows, 10) > 0.97


def test_a_pair_has_the_bits_of_exact_search_and_hits_are_in_order():
    index = HnswIndex(GRAPH, DESCRIPTORS)
    found, everything = index.search(QUERIES, 20), ExactIndex(DESCRIPTORS).search(QUERIES, 1500)
    for i in range(len(QUERIES)):
        similarity_of = dict(zip(everything.rows[i].tolist(), everything.similarities[i].tolist(), strict=True))
        assert [similarity_of[row] for row in found.rows[i].tolist()] == found.similarities[i].tolist()
    order = list(zip((-found.similarities).ravel().tolist(), found.rows.ravel().tolist(), strict=True))
    for i in range(len(QUERIES)):
        assert order[20 * i : 20 * i + 20] == sorted(order[20 * i : 20 * i + 20])


def test_batches_single_queries_and_threads_agree():
    batch = HnswIndex(GRAPH, DESCRIPTORS, threads=2).search(QUERIES, 10, ef=40)
    index = HnswIndex(GRAPH, DESCRIPTORS, threads=1)
    for i, query in enumerate(QUERIES):
        alone = index.search(query[None], 10, ef=40)
        np.testing.assert_array_equal(alone.rows[0], batch.rows[i])
        np.testing.assert_array_equal(alone.similarities[0], batch.similarities[i])


def test_more_candidates_find_more():
    exact = ExactIndex(DESCRIPTORS).search(QUERIES, 20)
    index = HnswIndex(GRAPH, DESCRIPTORS)

    def right(ef):
        return int((index.search(QUERIES, 20, ef=ef).similarities >= exact.similarities[:, -1:]).sum())

    assert right(20) < right(400) == exact.rows.size


def test_storing_the_graph_changes_nothing():
    stored = {name: array.copy() for name, array in arrays(GRAPH).items()}
    again = from_arrays(stored)
    before, after = HnswIndex(GRAPH, DESCRIPTORS), HnswIndex(again, DESCRIPTORS)
    np.testing.assert_array_equal(before.search(QUERIES, 20).rows, after.search(QUERIES, 20).rows)
    # through the library and back: the same links
    loaded = hnsw._to_library(GRAPH, DESCRIPTORS, room=0, threads=1)
    assert same(hnsw._from_library(loaded, GRAPH), GRAPH)


def test_extending_keeps_old_nodes_and_finds_the_new():
    half = build(DESCRIPTORS[:750], m=8, ef_construction=80)
    whole = extend(half, DESCRIPTORS, np.arange(750, 1500))
    assert same(half, build(DESCRIPTORS[:750], m=8, ef_construction=80))  # left as it was
    assert same(whole, extend(half, DESCRIPTORS, np.arange(750, 1500)))
    assert validate(whole, 1500) == []
    np.testing.assert_array_equal(whole.rows[:750], half.rows)
    exact = ExactIndex(DESCRIPTORS)
    assert self_recall(HnswIndex(whole, DESCRIPTORS), exact, DESCRIPTORS, np.arange(0, 1500, 9), 10) > 0.97


def test_rows_added_one_by_one_get_levels_of_their_own():
    # With the seed of the graph replayed at each step, every node would get the first level drawn.
    descriptors = DESCRIPTORS[:120]
    graph = build(descriptors[:1], m=2, ef_construction=20)
    for row in range(1, 120):
        graph = extend(graph, descriptors, np.array([row]))
    assert validate(graph, 120) == []
    shares = np.bincount(graph.levels, minlength=3)[:2] / 120  # half, a quarter, ... expected with m = 2
    assert 0.35 < shares[0] < 0.65
    assert 0.12 < shares[1] < 0.4


def test_invalid_and_zero_rows_get_no_node():
    descriptors = DESCRIPTORS[:50].copy()
    descriptors[4] = 0
    descriptors[9] = np.nan
    valid = np.ones(50, dtype=bool)
    valid[[9, 10]] = False
    graph = build(descriptors, m=4, ef_construction=20, valid=valid)
    assert sorted(graph.rows.tolist()) == [i for i in range(50) if i not in (4, 9, 10)]
    found = HnswIndex(graph, descriptors).search(DESCRIPTORS[:3], 1000)
    assert sorted(found.rows[0].tolist()) == sorted(graph.rows.tolist())
    assert same(extend(graph, descriptors, np.array([4])), graph)


def test_no_rows_one_row_and_no_queries():
    nothing = build(np.empty((0, 24), np.float32))
    assert same(nothing, empty_graph(16, 200, 100))
    assert HnswIndex(nothing, np.empty((0, 24), np.float32)).search(QUERIES, 5).rows.shape == (30, 0)
    one = build(DESCRIPTORS[:1])
    assert (len(one), one.entry_point) == (1, 0)
    assert HnswIndex(one, DESCRIPTORS[:1]).search(QUERIES, 5).rows.tolist() == [[0]] * 30
    assert HnswIndex(GRAPH, DESCRIPTORS).search(QUERIES[:0], 5).rows.shape == (0, 5)
    grown = extend(nothing, DESCRIPTORS[:40], np.arange(40))
    assert same(grown, build(DESCRIPTORS[:40]))


def test_masses_of_duplicates_cut_off_parts_of_the_graph_and_are_answered_exactly():
    descriptors = DESCRIPTORS[:600].copy()
    descriptors[100:400] = descriptors[50]
    graph = build(descriptors, m=4, ef_construction=20)
    index, exact = HnswIndex(graph, descriptors), ExactIndex(descriptors)
    with pytest.raises(RuntimeError):  # so the graph does have parts that this query cannot leave or reach
        index._index.knn_query(descriptors[50:51], k=590)
    found, truth = index.search(descriptors[[50, 0]], 590), exact.search(descriptors[[50, 0]], 590)
    np.testing.assert_array_equal(found.rows[0], truth.rows[0])
    slow = NumpyHnswIndex(graph, descriptors).search(descriptors[[50, 0]], 590)
    np.testing.assert_array_equal(slow.rows[0], truth.rows[0])


def test_progress_counts_every_row():
    counts = []
    build(DESCRIPTORS[:300], m=4, ef_construction=20, advance=counts.append)
    assert sum(counts) == 300


@pytest.mark.parametrize(
    "setting", [{"m": 1}, {"m": 5000}, {"ef_construction": 0}, {"seed": -1}, {"seed": 2**63}, {"threads": -1}]
)
def test_settings_out_of_range_are_refused(setting):
    with pytest.raises(SettingsError):
        build(DESCRIPTORS, **setting)


def test_a_low_ef_construction_is_raised_to_m():
    graph = build(DESCRIPTORS[:100], m=16, ef_construction=4)
    assert graph.ef_construction == 16
    HnswIndex(graph, DESCRIPTORS[:100])


def test_extend_refuses_rows_that_exist_already_or_not_at_all():
    with pytest.raises(InputError, match="already"):
        extend(GRAPH, DESCRIPTORS, np.array([3]))
    for row in (-1, 1500):
        with pytest.raises(InputError, match="outside"):
            extend(GRAPH, DESCRIPTORS, np.array([row]))


def test_descriptors_that_changed_are_refused():
    with pytest.raises(InputError, match="not finite"):
        HnswIndex(GRAPH, changed(DESCRIPTORS, 3, 3, np.nan))
    with pytest.raises(InputError, match="1500 nodes for 1499 descriptors"):
        HnswIndex(GRAPH, DESCRIPTORS[:-1])


@settings(max_examples=150, deadline=None)
@given(st.data())
def test_a_hostile_graph_is_refused_or_harmless(data):
    # Out-of-range reads inside the library would end the test process.
    name = data.draw(st.sampled_from(["rows", "levels", "links0", "upper_links", "entry_point", "max_level", "m"]))
    value = getattr(small_graph(), name)
    if isinstance(value, int):
        graph = small_graph(**{name: data.draw(st.one_of(st.integers(-3, 6), st.integers(-(2**40), 2**40)))})
    else:
        limits = np.iinfo(value.dtype)
        new = data.draw(st.one_of(st.integers(limits.min, limits.max), st.integers(0, 5)))
        table = value.copy()
        table.reshape(-1)[data.draw(st.integers(0, value.size - 1))] = new
        graph = small_graph(**{name: table})
    descriptors = DESCRIPTORS[:6]
    if validate(graph, 6):
        with pytest.raises(InputError, match="cannot be used"):
            HnswIndex(graph, descriptors)
        with pytest.raises((InputError, SettingsError)):
            extend(graph, descriptors, np.array([1]))
    else:
        assert HnswIndex(graph, descriptors).search(QUERIES[:3], 4).rows.shape == (3, 4)
        new = np.setdiff1d(np.arange(6), graph.rows)
        assert len(extend(graph, descriptors, new)) == 6
    # The search in numpy looks at each link itself and needs no check before.
    try:
        found = NumpyHnswIndex(graph, descriptors).search(QUERIES[:3], 4)
    except InputError:
        return
    assert found.rows.shape == (3, 4)
    assert found.rows.max() < 6


def test_without_the_library_the_message_names_both_ways_out(monkeypatch):
    monkeypatch.setitem(sys.modules, "hnswlib", None)
    with pytest.raises(MissingError, match="--exact") as caught:
        build(DESCRIPTORS)
    assert "pip install hnswlib" in str(caught.value)
    assert "C++ compiler" in str(caught.value)
