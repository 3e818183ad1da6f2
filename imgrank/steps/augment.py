"""Database-side augmentation: a graph over descriptors that were moved towards their neighbours.

`/descriptors` stay as they are. The moved ones are kept with the graph that was built over them, and searched instead.
"""

from __future__ import annotations

import numpy as np

from imgrank.arrays import Floats
from imgrank.bundle.graph import VECTORS, GraphTable
from imgrank.config import GraphSettings
from imgrank.errors import DamagedBundleError, InputError
from imgrank.index.expansion import expanded
from imgrank.index.graph import Graph
from imgrank.index.similarity import searchable_rows
from imgrank.progress import Reporter

_BLOCK = 1024  # rows


def augmented(descriptors: Floats, graph: Graph, settings: GraphSettings, reporter: Reporter) -> Floats:
    """Return descriptors of which those with a node are moved towards their nearest neighbours.

    Args:
        descriptors: (n, dim) float32, unit rows.
        graph: over them.
        settings: how many neighbours, and how they weigh.
        reporter: hears of progress.

    Returns:
        (n, dim) float32, unit rows; rows without a node as they were.

    Source:
        Gordo et al., arXiv:1610.07940: every descriptor of the database by the weighted sum of itself and its
        neighbours; the weights are those of Radenović, Tolias and Chum, arXiv:1711.02512.
    """
    from imgrank.index.hnsw import HnswIndex

    index = HnswIndex(graph, descriptors)
    moved = np.array(descriptors, dtype=np.float32)
    count = min(settings.augment, len(graph) - 1)
    with reporter.bar(len(graph), "neighbours", "photo") as advance:
        for start in range(0, len(graph), _BLOCK):
            rows = graph.rows[start : start + _BLOCK].astype(np.int64)
            near = index.search(descriptors[rows], count + 1)
            # A photo finds itself first, but for copies of it, and takes no part twice.
            own = near.rows == rows[:, None]
            own[~own.any(axis=1), -1] = True
            others = near.rows[~own].reshape(len(rows), count)
            similarities = near.similarities[~own].reshape(len(rows), count)
            moved[rows] = expanded(descriptors[rows], descriptors[others], similarities, settings.augment_alpha)
            advance(len(rows))
    return moved


def searched_vectors(descriptors: Floats, table: GraphTable, graph: Graph) -> Floats:
    """Return what is searched: the descriptors, or those that were augmented when the graph was built.

    Args:
        descriptors: (n, dim) float32.
        table: of the graph.
        graph: read from it, with rows below n.

    Raises:
        DamagedBundleError: the augmented ones do not fit the graph, or are not of length 1.
    """
    stored = table.vectors()
    if stored is None:
        return descriptors
    part = f"/graph/{VECTORS}"
    if stored.shape != (len(graph), descriptors.shape[1]):
        raise DamagedBundleError(table.path, part, f"has shape {stored.shape}, which is not that of the graph's nodes")
    try:
        searchable = searchable_rows(stored)
    except InputError as error:
        raise DamagedBundleError(table.path, part, str(error)) from error
    if not searchable.all():
        raise DamagedBundleError(table.path, part, "has rows of zeros")
    moved = np.array(descriptors, dtype=np.float32)
    moved[graph.rows] = stored
    return moved
