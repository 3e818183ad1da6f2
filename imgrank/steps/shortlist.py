"""The first stage: the photos most similar to a query, by graph or exactly, over all bundles of a collection."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from imgrank.arrays import Floats, Ids
from imgrank.bundle.file import Bundle
from imgrank.config import SearchSettings
from imgrank.errors import DamagedBundleError, InputError, StaleGroupError
from imgrank.index.base import Neighbours
from imgrank.index.exact import ExactIndex
from imgrank.index.graph import from_arrays, refuse_damaged
from imgrank.records import OK
from imgrank.steps.augment import searched_vectors
from imgrank.steps.build_index import GraphState
from imgrank.steps.collection import Collection

if TYPE_CHECKING:
    from imgrank.index.hnsw import HnswIndex


NARROW = 0.1  # share of the photos up to which those that are searched are all compared: quicker than by the graph
FEW = 20_000  # likewise, however large their share


class Shortlister:
    """The first stage over a collection, loaded once."""

    def __init__(self, photos: Collection, settings: SearchSettings) -> None:
        self._photos = photos
        self._parts = [
            _BundleShortlister(part.bundle, photos.searched(number), settings, photos.selected)
            for number, part in enumerate(photos.parts)
        ]

    def search(self, query: Floats, k: int) -> Neighbours:
        """Return the k most similar photos of one (dim,) query, as (1, k) rows of the collection.

        Fewer only where there are fewer. At the same similarity, the earlier bundle goes first, then the lower row.
        """
        found: list[Neighbours] = []
        for number, part in enumerate(self._parts):
            first = self._photos.first_row(number)
            found += [Neighbours(first + near.rows, near.similarities) for near in part.search(query, k)]
        if not found:
            return Neighbours(np.zeros((1, 0), np.int64), np.zeros((1, 0), np.float32))
        rows = np.concatenate([neighbours.rows[0] for neighbours in found])
        similarities = np.concatenate([neighbours.similarities[0] for neighbours in found])
        order = np.lexsort((rows, -similarities))[:k]
        return Neighbours(rows[order][None], similarities[order][None])

    def vectors(self, rows: Ids) -> Floats:
        """Return the (n, dim) vectors that are searched, of rows of the collection: augmented, where the graph is."""
        vectors = np.empty((len(rows), self._parts[0].dim), dtype=np.float32)
        for number, places, own in self._photos.split(rows):
            vectors[places] = self._parts[number].vectors(own)
        return vectors


class _BundleShortlister:
    """The first stage over one bundle: descriptors, graph, and exact search for what the graph lacks.

    Args:
        bundle: with descriptors and, unless the search is exact, a graph.
        searched: (n,) which rows may be found.
        settings: of the search.
        narrow: they are a selection of the photos.
    """

    def __init__(self, bundle: Bundle, searched: npt.NDArray[np.bool_], settings: SearchSettings, narrow: bool) -> None:
        self._settings, self._searched = settings, searched
        self._count = int(np.count_nonzero(searched))
        self._descriptors = bundle.descriptors.read()
        self._graph = None
        self._beside: ExactIndex | None
        found = bundle.graph_table
        if settings.exact and (found is None or not found.augmented):
            self._beside = ExactIndex(self._descriptors, searched)
            return
        table = bundle.graph
        state = GraphState.from_json(table.provenance.settings)
        covered = min(state.rows, len(self._descriptors))
        if table.provenance.input_digest != bundle.descriptors.digest(bundle.images.content_digest(covered)):
            raise StaleGroupError(bundle.path, "graph", f"imgrank index {bundle.path}")
        few = narrow and self._count <= max(FEW, NARROW * len(self._descriptors))
        try:
            graph = from_arrays(table.arrays())
            if table.augmented:
                refuse_damaged(graph, len(self._descriptors))
                self._descriptors = searched_vectors(self._descriptors, table, graph)
            if few or settings.exact:
                self._beside = ExactIndex(self._descriptors, searched)
                return
            from imgrank.index.hnsw import HnswIndex

            self._graph = HnswIndex(graph, self._descriptors)
        except InputError as error:
            raise DamagedBundleError(bundle.path, "/graph", f"{error}; run `imgrank index {bundle.path}`") from error
        nodes = np.zeros(len(self._descriptors), dtype=bool)
        nodes[graph.rows] = True
        self._findable = int(np.count_nonzero(nodes & searched))
        self._hidden = int(np.count_nonzero(nodes)) - self._findable
        self._removed = int(np.count_nonzero(nodes & (bundle.images.statuses() != OK)))
        newer = searched & ~nodes
        self._beside = ExactIndex(self._descriptors, newer) if newer.any() else None

    @property
    def dim(self) -> int:
        """Return the numbers in a descriptor."""
        return int(self._descriptors.shape[1])

    def vectors(self, rows: Ids) -> Floats:
        """Return the (n, dim) vectors that are searched, of some rows."""
        return self._descriptors[rows]

    def search(self, query: Floats, k: int) -> list[Neighbours]:
        """Return lists that hold, together, the k most similar photos of one (dim,) query, and perhaps more."""
        k = min(k, self._count)
        found: list[Neighbours] = []
        if k == 0:
            return found
        if self._graph is not None and self._findable > 0:
            found.append(self._in_graph(self._graph, query, min(k, self._findable)))
        if self._beside is not None:
            found.append(self._beside.search(query[None], k))
        return found

    def _in_graph(self, graph: HnswIndex, query: Floats, k: int) -> Neighbours:
        """Return at least the k most similar rows that may be found, where the graph leads to so many.

        Nodes of other rows take places in what the graph gives. All removed photos are reckoned with at once; photos of
        an earlier bundle may be nearly all there are, so for those the search is widened only as far as it must be.
        """
        width = k + self._removed
        while True:
            near = graph.search(query[None], width, self._settings.ef)
            seen = self._searched[near.rows[0]]
            if np.count_nonzero(seen) >= k or width >= k + self._hidden:
                return Neighbours(near.rows[:, seen], near.similarities[:, seen])
            width = min(2 * width, k + self._hidden)
