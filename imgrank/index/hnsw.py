"""HNSW graphs built and searched by hnswlib; the only module that imports that library.

hnswlib's own state is one array that interleaves links, vectors and labels. Only the links are taken out of it
(`Graph`) and the state is put together again from links and descriptors. The library is imported when needed, so
this module loads where it is not installed. Knows no files.
"""

from __future__ import annotations

import os
from functools import cached_property
from typing import Any

import numpy as np
import numpy.typing as npt

from imgrank.arrays import Floats, Ids
from imgrank.errors import InputError, MissingError, SettingsError
from imgrank.index.base import Neighbours
from imgrank.index.exact import ExactIndex
from imgrank.index.graph import MAX_M, Graph, Links, empty_graph, refuse_damaged, search_width
from imgrank.index.similarity import ROWS_PER_BLOCK, best_first, check_queries, rescore, searchable_rows
from imgrank.progress import Advance


def build(
    descriptors: Floats,
    *,
    m: int = 16,
    ef_construction: int = 200,
    seed: int = 100,
    threads: int = 1,
    valid: npt.NDArray[np.bool_] | None = None,
    advance: Advance | None = None,
) -> Graph:
    """Build the graph of all searchable rows.

    With one thread the same input gives the same graph. With several, the graph depends on how the threads
    interleave; its recall does not suffer.

    Args:
        descriptors: (n, dim) float32, unit rows; may be memory-mapped. All-zero rows get no node.
        m: links per node and upper level, 2 to 1024; level 0 has 2 m.
        ef_construction: candidates considered for the links of a node; raised to m where it is lower.
        seed: of the draw of the levels, from 0.
        threads: threads; 0 takes one per core.
        valid: (n,) False for rows that get no node; None: all are valid.
        advance: called after each block with the number of rows added.

    Raises:
        InputError: a valid row is neither zero nor of length 1, or the shapes disagree.
        SettingsError: `m`, `ef_construction`, `seed` or `threads` is out of range.
        MissingError: hnswlib is not installed.

    Source:
        Malkov and Yashunin, arXiv:1603.09320.
    """
    _check_settings(m, ef_construction, seed)
    _check_threads(threads)
    rows = np.flatnonzero(searchable_rows(descriptors, valid))
    return extend(empty_graph(m, max(m, ef_construction), seed), descriptors, rows, threads=threads, advance=advance)


def extend(graph: Graph, descriptors: Floats, rows: Ids, *, threads: int = 1, advance: Advance | None = None) -> Graph:
    """Return the graph with nodes for more rows; the given graph is left as it is.

    The levels of the new nodes are drawn with a seed made of the graph's seed and its number of nodes, so
    extending is as reproducible as building (but a graph that grew in steps differs from one built at once).

    Args:
        graph: what `build`, `extend` or `from_arrays` returned.
        descriptors: (n, dim) float32, with the old rows unchanged and the new ones.
        rows: (r,) descriptor rows to add, none of which has a node. All-zero rows are passed over.
        threads: threads; 0 takes one per core.
        advance: called after each block with the number of rows added.

    Raises:
        InputError: the graph is damaged, a row has a node or does not exist, or is not of length 1.
        SettingsError: `threads` is negative.
        MissingError: hnswlib is not installed.
    """
    _check_threads(threads)
    if len(rows) and not 0 <= int(rows.min()) <= int(rows.max()) < len(descriptors):
        raise InputError(f"rows to index lie outside the {len(descriptors)} descriptors")
    wanted = np.zeros(len(descriptors), dtype=bool)
    wanted[rows] = True
    refuse_damaged(graph, len(descriptors))
    if wanted[graph.rows].any():
        raise InputError("a row to index has a node already; pass only the new rows")
    new = np.flatnonzero(searchable_rows(descriptors, wanted))
    if len(new) == 0:
        return graph
    index = _to_library(graph, descriptors, room=len(new), threads=threads)
    for start in range(0, len(new), ROWS_PER_BLOCK):
        block = new[start : start + ROWS_PER_BLOCK]
        index.add_items(np.ascontiguousarray(descriptors[block], dtype=np.float32), block)
        if advance is not None:
            advance(len(block))
    return _from_library(index, graph)


class HnswIndex:
    """Approximate search in a graph.

    Reported similarities come from `rescore`, so a pair has the bits that exact search reports. Where the graph
    reaches fewer than k rows from a query (parts of it can be cut off by masses of duplicates), that query is
    answered by exact search. One search at a time: `ef` is a property of the library's index.
    """

    def __init__(self, graph: Graph, descriptors: Floats, *, threads: int = 0) -> None:
        """Check the graph and load it, with a copy of the descriptors, into hnswlib.

        Args:
            graph: what `build`, `extend` or `from_arrays` returned.
            descriptors: (n, dim) float32, the rows that the graph was built over.
            threads: threads for batches of queries; 0 takes one per core.

        Raises:
            InputError: the graph does not pass `validate`, or a row with a node is not finite.
            SettingsError: `threads` is negative.
            MissingError: hnswlib is not installed.
        """
        _check_threads(threads)
        refuse_damaged(graph, len(descriptors))
        self.graph, self.descriptors = graph, descriptors
        self._index = _to_library(graph, descriptors, room=0, threads=threads) if len(graph) else None

    def search(self, queries: Floats, k: int, ef: int = 0) -> Neighbours:
        """Return the `k` most similar rows that the graph leads to; see `NeighbourIndex.search`.

        Args:
            queries: (q, dim) float32, unit rows.
            k: neighbours, at least 1.
            ef: candidates kept while searching; see `search_width`.

        Raises:
            InputError: as `NeighbourIndex.search`.
            SettingsError: `k` is below 1, or `ef` is negative.
        """
        queries = check_queries(queries, self.descriptors.shape[1], k)
        k = min(k, len(self.graph))
        if self._index is None or len(queries) == 0:
            return Neighbours(np.empty((len(queries), k), np.int64), np.empty((len(queries), k), np.float32))
        self._index.set_ef(min(search_width(k, ef), len(self.graph)))
        rows = np.empty((len(queries), k), dtype=np.int64)
        similarities = np.empty((len(queries), k), dtype=np.float32)
        for i, candidates in enumerate(self._reachable(self._index, queries, k)):
            exact = rescore(self.descriptors, queries[i], candidates)
            rows[i], similarities[i] = best_first(candidates, exact, k)
        return Neighbours(rows, similarities)

    def _reachable(self, index: Any, queries: Floats, k: int) -> Ids:
        """Return (q, k) rows in no particular order."""
        try:
            labels: Ids = index.knn_query(queries, k=k)[0].astype(np.int64)
            return labels
        except RuntimeError:  # the library refuses the whole batch when one query reaches fewer than k nodes
            if len(queries) > 1:
                return np.concatenate([self._reachable(index, query[None], k) for query in queries])
        return self._exact.search(queries, k).rows

    @cached_property
    def _exact(self) -> ExactIndex:
        return ExactIndex.of_rows(self.descriptors, self.graph.rows)


def _to_library(graph: Graph, descriptors: Floats, *, room: int, threads: int) -> Any:
    """Load a checked graph into a new hnswlib index with room for more nodes."""
    hnswlib = _library()
    dim, n = descriptors.shape[1], len(graph)
    # Extensions must not replay one draw of levels: nodes added one by one would all get the first level drawn.
    seed = graph.seed if n == 0 else int(np.random.SeedSequence([graph.seed, n]).generate_state(1)[0])
    fresh = hnswlib.Index(space="ip", dim=dim)
    fresh.init_index(max_elements=max(room, 1), M=graph.m, ef_construction=graph.ef_construction, random_seed=seed)
    if n == 0:
        fresh.set_num_threads(threads or os.cpu_count() or 1)
        return fresh
    (state,) = fresh.__getstate__()  # sizes and constants of this version of the library, without nodes
    levels = np.zeros(n + room, dtype=np.int32)
    levels[:n] = graph.levels
    upper_lists = np.zeros(len(graph.upper_links), dtype=_upper_list(graph.m))
    _write_links(graph.upper_links, upper_lists)
    state |= {
        "ep_added": True,
        "seed": seed,
        "max_elements": n + room,
        "cur_element_count": n,
        "max_level": graph.max_level,
        "enterpoint_node": graph.entry_point,
        "label_lookup_external": graph.rows.astype(np.uint64),
        "label_lookup_internal": np.arange(n, dtype=np.uint32),
        "element_levels": levels,
        "data_level0": _level0_bytes(graph, descriptors),
        "link_lists": upper_lists.view(np.int8),
    }
    # __setstate__ on an index that already has a state crashes the process; __new__ makes one without.
    index = hnswlib.Index.__new__(hnswlib.Index)
    index.__setstate__((state,))
    index.set_num_threads(threads or os.cpu_count() or 1)
    return index


def _level0_bytes(graph: Graph, descriptors: Floats) -> npt.NDArray[np.int8]:
    nodes = np.zeros(len(graph), dtype=_level0_node(graph.m, descriptors.shape[1]))
    nodes["label"] = graph.rows
    for start in range(0, len(graph), ROWS_PER_BLOCK):
        part = slice(start, start + ROWS_PER_BLOCK)
        vectors = np.asarray(descriptors[graph.rows[part]], dtype=np.float32)
        if not np.isfinite(vectors).all():
            raise InputError("a descriptor of the graph holds numbers that are not finite; embed the photos again")
        nodes["vector"][part] = vectors
        _write_links(graph.links0[part], nodes[part])
    return nodes.view(np.int8)


def _write_links(links: Links, lists: npt.NDArray[np.void]) -> None:
    """Write padded links, (n, width), into n records of a count and a list."""
    lists["count"] = np.count_nonzero(links >= 0, axis=1)
    lists["links"] = np.maximum(links, 0)


def _read_links(lists: npt.NDArray[np.void], width: int) -> Links:
    """Return (n, width) links padded with -1; the library leaves old links behind the counted ones."""
    links: Links = lists["links"].astype(np.int32)
    links[np.arange(width) >= lists["count"][:, None]] = -1
    return links


def _from_library(index: Any, source: Graph) -> Graph:
    """Take the links out of an hnswlib index."""
    (state,) = index.__getstate__()
    n, m = state["cur_element_count"], source.m
    nodes = state["data_level0"].view(_level0_node(m, state["dim"]))
    return Graph(
        rows=nodes["label"].astype(np.uint32),
        levels=state["element_levels"][:n].astype(np.uint8),
        links0=_read_links(nodes, 2 * m),
        upper_links=_read_links(state["link_lists"].view(_upper_list(m)), m),
        entry_point=state["enterpoint_node"],
        max_level=state["max_level"],
        m=m,
        ef_construction=source.ef_construction,
        seed=source.seed,
    )


def _level0_node(m: int, dim: int) -> np.dtype[np.void]:
    """One node of hnswlib's level 0, packed: the count's third byte would mark a deleted node, and stays 0."""
    return np.dtype([("count", "<u4"), ("links", "<u4", (2 * m,)), ("vector", "<f4", (dim,)), ("label", "<u8")])


def _upper_list(m: int) -> np.dtype[np.void]:
    return np.dtype([("count", "<u4"), ("links", "<u4", (m,))])


def _check_settings(m: int, ef_construction: int, seed: int) -> None:
    if not 2 <= m <= MAX_M:
        raise SettingsError(f"m is {m}; choose 2 to {MAX_M} links per node")
    if not 1 <= ef_construction < 2**31:
        raise SettingsError(f"ef_construction is {ef_construction}; choose 1 or more, 200 is usual")
    if not 0 <= seed < 2**63:
        raise SettingsError(f"the seed is {seed}; choose 0 to 2^63 - 1")


def _check_threads(threads: int) -> None:
    if threads < 0:
        raise SettingsError(f"{threads} threads; choose 1 or more, or 0 for one per core")


def _library() -> Any:
    try:
        import hnswlib
    except ImportError as error:
        raise MissingError(
            "graph search needs hnswlib, which cannot be imported; run: pip install hnswlib (where no ready-made "
            "package exists for this machine, that compiles it and needs a C++ compiler and the Python headers, "
            "such as `apt install g++ python3-dev`), or search with --exact, which does without"
        ) from error
    return hnswlib
