import numpy as np
import pytest

from imgrank.arrays import unit_rows
from imgrank.errors import InputError
from imgrank.index.exact import ExactIndex
from imgrank.index.graph import empty_graph
from imgrank.index.hnsw import HnswIndex, build
from imgrank.index.numpy_search import NumpyHnswIndex
from tests.index.graphs import changed, clustered, small_graph

DESCRIPTORS = clustered(1200, 16, seed=5)
GRAPH = build(DESCRIPTORS, m=6, ef_construction=60)
QUERIES = unit_rows(DESCRIPTORS[::40] + 0.1 * np.random.default_rng(6).normal(size=(30, 16)))


@pytest.mark.parametrize("ef", [10, 30, 100])
def test_follows_the_same_path_as_the_library(ef):
    ours = NumpyHnswIndex(GRAPH, DESCRIPTORS).search(QUERIES, 10, ef=ef)
    theirs = HnswIndex(GRAPH, DESCRIPTORS).search(QUERIES, 10, ef=ef)
    # The same algorithm on the same links; only a tie in the last bits could part them.
    assert (ours.rows == theirs.rows).mean() > 0.99
    same = ours.rows == theirs.rows
    np.testing.assert_array_equal(ours.similarities[same], theirs.similarities[same])
    if ef == 10:  # so few candidates that a search which simply looked at everything would differ
        assert (ours.rows != ExactIndex(DESCRIPTORS).search(QUERIES, 10).rows).any()


def test_hand_written_graph():
    # Nodes 0 to 3 are rows 5, 0, 2, 3; the query is row 2, which is node 2.
    descriptors = np.eye(6, dtype=np.float32)
    found = NumpyHnswIndex(small_graph(), descriptors).search(descriptors[2:3], 9)
    assert found.rows.tolist() == [[2, 0, 3, 5]]
    assert found.similarities.tolist() == [[1, 0, 0, 0]]


def test_empty_graph():
    index = NumpyHnswIndex(empty_graph(4, 10, 1), np.empty((0, 16), np.float32))
    assert index.search(QUERIES, 3).rows.shape == (30, 0)


def test_reads_memory_mapped_arrays(tmp_path):
    np.save(tmp_path / "d.npy", DESCRIPTORS)
    mapped = NumpyHnswIndex(GRAPH, np.load(tmp_path / "d.npy", mmap_mode="r")).search(QUERIES[:4], 10)
    np.testing.assert_array_equal(mapped.rows, NumpyHnswIndex(GRAPH, DESCRIPTORS).search(QUERIES[:4], 10).rows)


@pytest.mark.parametrize(
    "changes",
    [
        {"links0": changed(small_graph().links0, 1, 0, 4)},
        {"links0": changed(small_graph().links0, 1, 0, -7)},
        {"upper_links": changed(small_graph().upper_links, 0, 0, 99)},
        {"upper_links": changed(small_graph().upper_links, 1, 0, 0)},  # node 0 has no level 2
        {"rows": changed(small_graph().rows, 3, 6)},
        {"entry_point": -1},
        {"entry_point": 4},
        {"max_level": 10**12},
    ],
)
def test_a_link_that_leads_nowhere_is_refused_when_it_is_met(changes):
    # Row 5 is node 0, so a search for it goes wherever a link to node 0 leads.
    with pytest.raises(InputError, match="build it again"):
        NumpyHnswIndex(small_graph(**changes), np.eye(6, dtype=np.float32)).search(np.eye(6, dtype=np.float32)[5:], 4)


def test_a_table_of_the_wrong_shape_is_refused_at_once():
    with pytest.raises(InputError, match="links0 has shape"):
        NumpyHnswIndex(small_graph(links0=small_graph().links0[:2]), np.eye(6, dtype=np.float32))
