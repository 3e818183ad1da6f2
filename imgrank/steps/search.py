"""`search`: query photos in, ranked hits out, one query after the other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

import numpy as np

from imgrank.arrays import Floats
from imgrank.bundle.file import Bundle
from imgrank.config import UNKNOWN, EncoderSettings, SearchSettings
from imgrank.encode.base import Encoder
from imgrank.errors import DamagedBundleError, ImageError, InputError, MismatchError, StaleGroupError
from imgrank.images.decode import decode
from imgrank.index.base import Neighbours
from imgrank.index.exact import ExactIndex
from imgrank.index.graph import from_arrays
from imgrank.prefetch import prefetch
from imgrank.records import NO_DIGEST, OK
from imgrank.results import Hit, Ranking
from imgrank.steps.build_index import GraphState
from imgrank.steps.embed import bundle_projection
from imgrank.steps.photos import BundlePhotos
from imgrank.steps.rerank import QueryPhoto, Reranker


class Shortlister:
    """The first stage over one bundle, loaded once: descriptors, graph, and exact search for what the graph lacks."""

    def __init__(self, bundle: Bundle, settings: SearchSettings) -> None:
        self.settings = settings
        self.descriptors = bundle.descriptors.read()
        self.valid = bundle.images.statuses() == OK
        self.count = int(np.count_nonzero(self.valid))
        self._graph = None
        self._hidden = 0  # nodes of the graph that may not be returned
        self._beside: ExactIndex | None
        if settings.exact:
            self._beside = self._exact(self.valid)
            return
        from imgrank.index.hnsw import HnswIndex

        table = bundle.graph
        state = GraphState.from_json(table.provenance.settings)
        covered = min(state.rows, len(self.descriptors))
        if table.provenance.input_digest != bundle.descriptors.digest(bundle.images.content_digest(covered)):
            raise StaleGroupError(bundle.path, "graph", f"imgrank index {bundle.path}")
        try:
            graph = from_arrays(table.arrays())
            self._graph = HnswIndex(graph, self.descriptors)
        except InputError as error:
            raise DamagedBundleError(bundle.path, "/graph", f"{error}; run `imgrank index {bundle.path}`") from error
        nodes = np.zeros(len(self.descriptors), dtype=bool)
        nodes[graph.rows] = True
        self._hidden = int(np.count_nonzero(nodes & ~self.valid))
        newer = self.valid & ~nodes
        self._beside = self._exact(newer) if newer.any() else None

    def _exact(self, valid: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> ExactIndex:
        return ExactIndex(self.descriptors, valid)

    def search(self, query: Floats, k: int) -> Neighbours:
        """Return the k most similar photos of one (dim,) query, fewer only where there are fewer."""
        k = min(k, self.count)
        found: list[Neighbours] = []
        if self._graph is not None and k > 0:
            wide = self._graph.search(query[None], k + self._hidden, self.settings.ef)
            seen = self.valid[wide.rows[0]]
            found.append(Neighbours(wide.rows[:, seen], wide.similarities[:, seen]))
        if self._beside is not None and k > 0:
            found.append(self._beside.search(query[None], k))
        if not found:
            return Neighbours(np.zeros((1, 0), np.int64), np.zeros((1, 0), np.float32))
        rows = np.concatenate([neighbours.rows[0] for neighbours in found])
        similarities = np.concatenate([neighbours.similarities[0] for neighbours in found])
        order = np.lexsort((rows, -similarities))[:k]
        return Neighbours(rows[order][None], similarities[order][None])


@dataclass(frozen=True, eq=False)
class _Shortlist:
    ranking: Ranking
    rows: list[int]  # of the hits
    query: QueryPhoto | None  # for the second stage


class Searcher:
    """Search over one bundle, with its encoder and, if asked for, its second stage loaded once.

    Args:
        photos: of the bundle.
        settings: the shortlist.
        reranker: the second stage; None leaves the shortlist as it is.
        encoder: None loads the one the bundle was made with. A folder or id of the same model may be given where
            it lies elsewhere on this machine; and must be for imported descriptors whose encoder nobody named.
        device: for encoders that run in torch.
    """

    def __init__(
        self,
        photos: BundlePhotos,
        settings: SearchSettings,
        *,
        reranker: Reranker | None = None,
        encoder: str | None = None,
        device: str = "auto",
    ) -> None:
        self.photos, self.settings, self.reranker = photos, settings, reranker
        self.shortlister = Shortlister(photos.bundle, settings)
        self.encoder = load_bundle_encoder(photos.bundle, encoder, device)

    def search(self, query: bytes) -> Ranking:
        """Rank the photos of the bundle for one query photo.

        Raises:
            ImageError: the query cannot be decoded.
        """
        return self._second(self._first(query))

    def search_all(self, queries: Iterable[bytes]) -> Iterator[Ranking | ImageError]:
        """Rank for each query in turn, as it comes; a query that cannot be decoded gives its error.

        While a query is re-ranked, the next one is read and shortlisted in a thread.
        """

        def shortlists() -> Iterator[_Shortlist | ImageError]:
            for query in queries:
                try:
                    yield self._first(query)
                except ImageError as error:
                    yield error

        found = shortlists() if self.reranker is None else prefetch(shortlists())
        for item in found:
            yield item if isinstance(item, ImageError) else self._second(item)

    def _first(self, query: bytes) -> _Shortlist:
        photo = decode(query, self.photos.settings, longer_side=self.encoder.longer_side)
        encoded = self.encoder.encode([photo.pixels])
        wanted = self.settings.top_k
        ready: QueryPhoto | None = None
        if self.reranker is not None:
            wanted = max(wanted, self.reranker.settings.top)
            if self.reranker.uses_local_features and encoded.local is not None:
                ready = QueryPhoto(NO_DIGEST, None, encoded.local[0])
            else:
                ready = self.reranker.prepare(query)
        neighbours = self.shortlister.search(encoded.descriptors[0], wanted)
        rows = [int(row) for row in neighbours.rows[0]]
        return _Shortlist(ranking_of(self.photos, query, neighbours), rows, ready)

    def _second(self, found: _Shortlist) -> Ranking:
        ranking = found.ranking
        if self.reranker is not None and found.query is not None:
            ranking = self.reranker.rerank(ranking, found.rows, found.query)
        return replace(ranking, hits=ranking.hits[: self.settings.top_k])


def ranking_of(photos: BundlePhotos, query: bytes, neighbours: Neighbours) -> Ranking:
    """Return the (1, k) neighbours of a query as hits."""
    pairs = zip(neighbours.rows[0].tolist(), neighbours.similarities[0].tolist(), strict=True)
    return Ranking(
        query,
        tuple(
            Hit(query, rank, int(photos.ids[row]), photos.path(row), similarity, similarity)
            for rank, (row, similarity) in enumerate(pairs, 1)
        ),
    )


def load_bundle_encoder(bundle: Bundle, model: str | None, device: str) -> Encoder:
    """Load the encoder that a bundle's descriptors were made with.

    Raises:
        MismatchError: it is here in another revision; or the descriptors were imported, nobody said what computed
            them, and `model` does not say it either or makes descriptors of another length.
    """
    from imgrank.encode.registry import load_encoder

    provenance = bundle.descriptors.provenance
    if provenance.model == UNKNOWN:
        return _named_encoder(bundle, model, device)
    settings = EncoderSettings.from_json(provenance.settings)
    if model is not None:
        settings = replace(settings, model=model)
    encoder = load_encoder(settings, device=device, projection=bundle_projection(bundle))
    if encoder.revision != provenance.model_revision:
        raise MismatchError(
            bundle.path,
            f"holds descriptors of {provenance.model} ({provenance.model_revision}), but here it is "
            f"{encoder.name} ({encoder.revision}); search with the revision it was made with",
        )
    return encoder


def _named_encoder(bundle: Bundle, model: str | None, device: str) -> Encoder:
    """Load the encoder that the user says computed imported descriptors; its length is all that can be checked."""
    from imgrank.encode.registry import load_encoder

    if model is None:
        raise MismatchError(
            bundle.path,
            "its descriptors were imported, and nobody said what computed them; name the encoder that does the same "
            "with query photos (--encoder MODEL), or give the descriptors of the queries (--descriptors FILE)",
        )
    encoder = load_encoder(EncoderSettings(model=model), device=device)
    if encoder.dim != bundle.descriptors.dim:
        raise MismatchError(
            bundle.path,
            f"holds imported descriptors of {bundle.descriptors.dim} numbers, {encoder.name} computes {encoder.dim}; "
            "name the encoder that they are of",
        )
    return encoder
