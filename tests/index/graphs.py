"""Small graphs written by hand or built for the tests of this folder."""

import dataclasses

import numpy as np

from imgrank.arrays import unit_rows
from imgrank.index.graph import Graph


def clustered(n, dim, seed, clusters=20, spread=0.7):
    """Return (n, dim) unit rows around a few centres."""
    rng = np.random.default_rng(seed)
    centres = rng.normal(size=(clusters, dim))
    return unit_rows(centres[rng.integers(clusters, size=n)] + spread * rng.normal(size=(n, dim)))


def small_graph(**changes):
    """Return a valid graph of 4 nodes over rows 5, 0, 2, 3, with nodes 1 (level 2) and 3 (level 1) above."""
    graph = Graph(
        rows=np.array([5, 0, 2, 3], dtype=np.uint32),
        levels=np.array([0, 2, 0, 1], dtype=np.uint8),
        links0=np.array([[1, 2, -1, -1], [0, 3, 2, -1], [0, 1, 3, -1], [1, 2, -1, -1]], dtype=np.int32),
        # node 1 on level 1, node 1 on level 2, node 3 on level 1
        upper_links=np.array([[3, -1], [-1, -1], [1, -1]], dtype=np.int32),
        entry_point=1,
        max_level=2,
        m=2,
        ef_construction=10,
        seed=7,
    )
    return dataclasses.replace(graph, **changes)


def changed(array, *index_and_value):
    """Return a copy of an array with one number changed."""
    *index, value = index_and_value
    array = array.copy()
    array[tuple(index)] = value
    return array


def same(one, other):
    """Tell whether two graphs are equal in every array and number."""
    return all(np.array_equal(getattr(one, f.name), getattr(other, f.name)) for f in dataclasses.fields(Graph))
