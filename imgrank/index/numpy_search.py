"""Search in an HNSW graph with numpy alone: every link is checked as it is followed.

It reads the arrays where they lie, so it opens a memory-mapped graph at once and runs where hnswlib is not
installed. It is slower per query, and serves as the second implementation that hnswlib is tested against.
"""

from __future__ import annotations

import heapq
from functools import cached_property

import numpy as np

from imgrank.arrays import Floats, Ids
from imgrank.errors import InputError
from imgrank.index.base import Neighbours
from imgrank.index.exact import ExactIndex
from imgrank.index.graph import Graph, search_width, shape_problems
from imgrank.index.similarity import best_first, check_queries, rescore

_BUILD_AGAIN = "build it again with `imgrank index`"


class NumpyHnswIndex:
    """Approximate search in a graph; the same results as `HnswIndex` up to ties and rounding on the way."""

    def __init__(self, graph: Graph, descriptors: Floats) -> None:
        """Keep references; the links are not read yet.

        Args:
            graph: what `build`, `extend` or `from_arrays` returned; it need not have passed `validate`.
            descriptors: (n, dim) float32, the rows that the graph was built over.

        Raises:
            InputError: a table of the graph has the wrong shape.
        """
        reasons = shape_problems(graph)
        if reasons:
            raise InputError(f"the graph cannot be used: {'; '.join(reasons)}; {_BUILD_AGAIN}")
        self.graph, self.descriptors = graph, descriptors
        self._starts = graph.upper_starts()

    def search(self, queries: Floats, k: int, ef: int = 0) -> Neighbours:
        """Return the `k` most similar rows that the graph leads to; see `HnswIndex.search`.

        Raises:
            InputError: as `NeighbourIndex.search`; or a link of the graph leads nowhere.
        """
        queries = check_queries(queries, self.descriptors.shape[1], k)
        k = min(k, len(self.graph))
        width = search_width(k, ef)
        rows = np.empty((len(queries), k), dtype=np.int64)
        similarities = np.empty((len(queries), k), dtype=np.float32)
        for i, query in enumerate(queries):
            if k == 0:
                break
            candidates = self._candidates(query, width)
            if len(candidates) < k:  # a part of the graph that is cut off
                candidates = self._exact.search(query[None], k).rows[0]
            exact = rescore(self.descriptors, query, candidates)
            rows[i], similarities[i] = best_first(candidates, exact, k)
        return Neighbours(rows, similarities)

    def _candidates(self, query: Floats, ef: int) -> Ids:
        """Return up to `ef` rows: greedy descent to level 1, then best-first search on level 0 (Algorithm 5)."""
        node = self.graph.entry_point
        similarity = self._similarities(query, [node])[0]
        for level in range(self.graph.max_level, 0, -1):
            moved = True
            while moved:
                moved = False
                neighbours = self._neighbours(node, level)
                for other, value in zip(neighbours, self._similarities(query, neighbours), strict=True):
                    if value > similarity:
                        node, similarity, moved = other, value, True
        found = self._best_first_search(query, node, similarity, ef)
        return self.graph.rows[found].astype(np.int64)

    def _best_first_search(self, query: Floats, node: int, similarity: float, ef: int) -> list[int]:
        visited = {node}
        open_ = [(-similarity, node)]  # most similar first
        best = [(similarity, node)]  # least similar first, at most ef
        while open_:
            distance, node = heapq.heappop(open_)
            if len(best) == ef and -distance < best[0][0]:
                break
            fresh = [other for other in self._neighbours(node, 0) if other not in visited]
            visited.update(fresh)
            for other, value in zip(fresh, self._similarities(query, fresh), strict=True):
                if len(best) < ef:
                    heapq.heappush(best, (value, other))
                elif value > best[0][0]:
                    heapq.heapreplace(best, (value, other))
                else:
                    continue
                heapq.heappush(open_, (-value, other))
        return [other for _, other in best]

    def _neighbours(self, node: int, level: int) -> list[int]:
        """Return the nodes that a node is linked to on a level, refusing any that is not there."""
        graph = self.graph
        if level == 0:
            links = graph.links0[node].tolist()
        else:
            if level > graph.levels[node]:
                raise InputError(f"the graph has no links of node {node} on level {level}; {_BUILD_AGAIN}")
            links = graph.upper_links[self._starts[node] + level - 1].tolist()
        if -1 in links:
            links = links[: links.index(-1)]
        if links and not (min(links) >= 0 and max(links) < len(graph)):
            raise InputError(f"the graph links node {node} to a node that does not exist; {_BUILD_AGAIN}")
        return list(dict.fromkeys(links))

    def _similarities(self, query: Floats, nodes: list[int]) -> list[float]:
        if not nodes:
            return []
        if not 0 <= min(nodes) <= max(nodes) < len(self.graph):
            raise InputError(f"the graph starts at a node that does not exist; {_BUILD_AGAIN}")
        rows = self.graph.rows[nodes]
        if int(rows.max()) >= len(self.descriptors):
            raise InputError(f"the graph names descriptor {int(rows.max())} of {len(self.descriptors)}; {_BUILD_AGAIN}")
        values: list[float] = (np.asarray(self.descriptors[rows], dtype=np.float32) @ query).tolist()
        return values

    @cached_property
    def _exact(self) -> ExactIndex:
        return ExactIndex.of_rows(self.descriptors, self.graph.rows)
