"""The links of an HNSW graph as plain integer arrays, without the vectors and without the library.

Everything that search needs beside the descriptors is here, so the graph can be stored as named datasets, checked
before use, searched by numpy alone, and handed back to hnswlib. Nothing is stored twice.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from imgrank.errors import InputError, SettingsError

Links = npt.NDArray[np.int32]

MAX_M = 1024  # far above any useful value; keeps sizes computed from m small
_DTYPES = {"rows": np.uint32, "levels": np.uint8, "links0": np.int32, "upper_links": np.int32}
_DIMENSIONS = {"rows": 1, "levels": 1, "links0": 2, "upper_links": 2}
_NUMBERS = ("entry_point", "max_level", "m", "ef_construction", "seed")
_NODES_PER_BLOCK = 65536


@dataclass(frozen=True, eq=False)
class Graph:
    """An HNSW graph of n nodes (Malkov and Yashunin, arXiv:1603.09320).

    Attributes:
        rows: (n,) uint32, the descriptor row of each node; nodes are numbered in order of insertion.
        levels: (n,) uint8, the highest level of each node.
        links0: (n, 2 m) int32, the neighbours (nodes) of each node on level 0, then -1 as padding.
        upper_links: (sum of levels, m) int32, the same for the levels from 1: first all levels of node 0 from 1
            up, then those of node 1, and so on (see `upper_starts`).
        entry_point: the node where a search starts, -1 in an empty graph.
        max_level: the level of the entry point, -1 in an empty graph.
        m: links per node on each upper level.
        ef_construction: candidates considered when a node was linked.
        seed: of the draw of the levels.
    """

    rows: npt.NDArray[np.uint32]
    levels: npt.NDArray[np.uint8]
    links0: Links
    upper_links: Links
    entry_point: int
    max_level: int
    m: int
    ef_construction: int
    seed: int

    def __len__(self) -> int:
        return len(self.rows)

    def upper_starts(self) -> npt.NDArray[np.int64]:
        """Return (n + 1,) offsets: the links of node i on level l >= 1 are row `starts[i] + l - 1`."""
        starts = np.zeros(len(self.levels) + 1, dtype=np.int64)
        np.cumsum(self.levels, dtype=np.int64, out=starts[1:])
        return starts


def empty_graph(m: int, ef_construction: int, seed: int) -> Graph:
    """Return the graph of no nodes."""
    return Graph(
        rows=np.empty(0, dtype=np.uint32),
        levels=np.empty(0, dtype=np.uint8),
        links0=np.empty((0, 2 * m), dtype=np.int32),
        upper_links=np.empty((0, m), dtype=np.int32),
        entry_point=-1,
        max_level=-1,
        m=m,
        ef_construction=ef_construction,
        seed=seed,
    )


def search_width(k: int, ef: int) -> int:
    """Return how many candidates a graph search keeps: more finds more and takes longer.

    Args:
        k: neighbours wanted.
        ef: what the user asked for, of which at least `k` are used; 0 takes max(2 k, 128).

    Raises:
        SettingsError: `ef` is negative.
    """
    if ef < 0:
        raise SettingsError(f"ef is {ef}; choose 1 or more, or 0 for a width that fits the number of hits")
    return max(ef, k) if ef else max(2 * k, 128)


def arrays(graph: Graph) -> dict[str, npt.NDArray[Any]]:
    """Return the graph as named arrays to store: four tables, and five numbers as int64 arrays without axes."""
    tables = {name: getattr(graph, name) for name in _DTYPES}
    return tables | {name: np.array(getattr(graph, name), dtype=np.int64) for name in _NUMBERS}


def table_rows(nodes: int, m: int) -> dict[str, tuple[str, tuple[int, ...], int]]:
    """Return what the tables of a graph of so many nodes would be: name -> dtype, shape of a row, rows.

    A node reaches level l with probability m^-l, so the levels above 0 have nodes / (m - 1) rows in the mean.
    """
    rows = {"rows": nodes, "levels": nodes, "links0": nodes, "upper_links": round(nodes / max(1, m - 1))}
    tails: dict[str, tuple[int, ...]] = {"rows": (), "levels": (), "links0": (2 * m,), "upper_links": (m,)}
    return {name: (np.dtype(dtype).str, tails[name], rows[name]) for name, dtype in _DTYPES.items()}


def from_arrays(stored: Mapping[str, npt.NDArray[Any]]) -> Graph:
    """Read what `arrays` returned. Only names, types and numbers of axes are checked: call `validate` next.

    Raises:
        InputError: an array is missing, or has another type or number of axes. A caller that knows the file
            names it in an error of its own, from this one.
    """
    missing = [name for name in (*_DTYPES, *_NUMBERS) if name not in stored]
    if missing:
        raise InputError(f"the graph lacks {', '.join(missing)}; build it again with `imgrank index`")
    for name, dtype in _DTYPES.items():
        found = stored[name]
        if found.dtype != dtype or found.ndim != _DIMENSIONS[name]:
            raise InputError(
                f"{name} of the graph is {found.dtype} with {found.ndim} axes, "
                f"not {np.dtype(dtype)} with {_DIMENSIONS[name]}; build it again with `imgrank index`"
            )
    for name in _NUMBERS:
        if stored[name].shape != () or stored[name].dtype.kind not in "iu":
            raise InputError(f"{name} of the graph is not one integer; build it again with `imgrank index`")
    fields: dict[str, Any] = {name: stored[name] for name in _DTYPES}
    return Graph(**fields | {name: int(stored[name]) for name in _NUMBERS})


def refuse_damaged(graph: Graph, n_rows: int) -> None:
    """Refuse a graph that is unsafe to search.

    Raises:
        InputError: `validate` finds something.
    """
    reasons = validate(graph, n_rows)
    if reasons:
        raise InputError(f"the graph cannot be used: {'; '.join(reasons)}; build it again with `imgrank index`")


def validate(graph: Graph, n_rows: int) -> list[str]:
    """Say everything that makes a graph unsafe to search; an empty list means that no read can leave its arrays.

    hnswlib follows links without looking, so a damaged or hostile graph must never reach it. This function does
    not know where the graph came from: the caller puts the reasons into an error that names the file.

    Args:
        graph: from any source; the types and numbers of axes of its arrays as `from_arrays` checks them.
        n_rows: rows of the descriptor array that the graph was built over.

    Returns:
        Reasons, each a clause in plain words.
    """
    reasons = _number_problems(graph) + shape_problems(graph)
    if reasons:  # the checks below would fail on arrays of the wrong shape
        return reasons
    reasons += _row_problems(graph, n_rows) + _entry_problems(graph)
    owners = np.repeat(np.arange(len(graph)), graph.levels)  # (sum of levels,), the node of each upper list
    lists_before = graph.upper_starts()[:-1]
    for part in _blocks(len(graph)):
        nodes = np.arange(part.start, part.stop)
        reasons += _link_problems("links0", graph.links0[part], nodes, len(graph))
        if reasons:
            return reasons
    for part in _blocks(len(owners)):
        links = graph.upper_links[part]
        reasons += _link_problems("upper_links", links, owners[part], len(graph))
        if reasons:
            return reasons
        level = np.arange(part.start, part.stop) - lists_before[owners[part]] + 1
        too_low = (links >= 0) & (graph.levels[links] < level[:, None])  # -1 reads the last node, then is masked
        if too_low.any():
            return [*reasons, "upper_links name nodes that are not on that level"]
    return reasons


def unreachable(graph: Graph) -> npt.NDArray[np.int64]:
    """Return the nodes, (n,) int64, that no path of links leads to from the entry point; `validate` found no fault."""
    reached = np.zeros(len(graph), dtype=bool)
    starts = graph.upper_starts()
    frontier = np.array([graph.entry_point] if len(graph) else [], dtype=np.int64)
    while len(frontier):
        reached[frontier] = True
        counts = graph.levels[frontier].astype(np.int64)
        inside = np.arange(counts.sum()) - np.repeat(np.cumsum(counts) - counts, counts)
        lists = np.repeat(starts[frontier], counts) + inside
        links = np.concatenate([graph.links0[frontier].ravel(), graph.upper_links[lists].ravel()])
        found = np.zeros(len(graph), dtype=bool)
        found[links[links >= 0]] = True
        frontier = np.flatnonzero(found & ~reached)
    return np.flatnonzero(~reached)


def shape_problems(graph: Graph) -> list[str]:
    """Say which tables have other shapes than the number of nodes, the levels and m ask for; reads no links."""
    expected = {
        "rows": (len(graph),),
        "levels": (len(graph),),
        "links0": (len(graph), 2 * graph.m),
        "upper_links": (int(graph.levels.sum(dtype=np.int64)), graph.m),
    }
    return [
        f"{name} has shape {getattr(graph, name).shape}, not {shape}"
        for name, shape in expected.items()
        if getattr(graph, name).shape != shape
    ]


def _number_problems(graph: Graph) -> list[str]:
    reasons = []
    if not 2 <= graph.m <= MAX_M:
        reasons.append(f"m is {graph.m}, not 2 to {MAX_M}")
    if not 1 <= graph.ef_construction < 2**31:
        reasons.append(f"ef_construction is {graph.ef_construction}")
    if not 0 <= graph.seed < 2**63:
        reasons.append(f"seed is {graph.seed}")
    return reasons


def _row_problems(graph: Graph, n_rows: int) -> list[str]:
    if len(graph) == 0:
        return []
    if len(graph) > n_rows:
        return [f"{len(graph)} nodes for {n_rows} descriptors"]
    if int(graph.rows.max()) >= n_rows:
        return [f"rows name descriptor {int(graph.rows.max())} of {n_rows}"]
    seen = np.zeros(n_rows, dtype=bool)
    seen[graph.rows] = True
    return [] if int(seen.sum()) == len(graph) else ["rows name a descriptor twice"]


def _entry_problems(graph: Graph) -> list[str]:
    if len(graph) == 0:
        return [] if (graph.entry_point, graph.max_level) == (-1, -1) else ["an entry point without nodes"]
    if not 0 <= graph.entry_point < len(graph):
        return [f"the entry point is node {graph.entry_point} of {len(graph)}"]
    highest, of_entry = int(graph.levels.max()), int(graph.levels[graph.entry_point])
    if not graph.max_level == highest == of_entry:
        return [f"max_level is {graph.max_level}, the highest level {highest}, the entry point's {of_entry}"]
    return []


def _link_problems(name: str, links: Links, owners: npt.NDArray[np.int64], n: int) -> list[str]:
    if links.size == 0:
        return []
    if int(links.min()) < -1 or int(links.max()) >= n:
        return [f"{name} name nodes outside 0 to {n - 1}"]
    if (links == owners[:, None]).any():
        return [f"{name} link a node to itself"]
    if ((links[:, 1:] >= 0) & (links[:, :-1] < 0)).any():
        return [f"{name} have padding before a link"]
    return []


def _blocks(count: int) -> Iterator[slice]:
    for start in range(0, count, _NODES_PER_BLOCK):
        yield slice(start, min(start + _NODES_PER_BLOCK, count))
