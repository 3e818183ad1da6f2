"""`search`: query photos in, ranked hits out, one query after the other."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from imgrank.arrays import Floats, Ids, Pixels, unit_rows
from imgrank.boxes import split_name
from imgrank.config import Fuse, SearchSettings, Thresholds
from imgrank.encode.base import Encoder
from imgrank.errors import ImageError
from imgrank.images.query import query_of_pixels, read_query
from imgrank.index.base import Neighbours
from imgrank.index.expansion import expanded
from imgrank.index.similarity import best_first, rescore
from imgrank.prefetch import prefetch
from imgrank.records import NO_DIGEST
from imgrank.rerank.fuse import reciprocal_rank_fusion
from imgrank.results import Hit, Ranking, above, renumber
from imgrank.steps.bundle_encoder import load_bundle_encoder
from imgrank.steps.collection import Collection
from imgrank.steps.hit_copies import fold_hits
from imgrank.steps.one_encoder import check_one_encoder
from imgrank.steps.photos import BundlePhotos
from imgrank.steps.query_photo import QueryPhoto
from imgrank.steps.rerank import Reranker, check_thresholds
from imgrank.steps.shortlist import Shortlister

_NONE = np.zeros(0, dtype=np.int64)
RANKS_FUSED = 100  # at least so many hits of each photo count where ranks are fused, however few are shown


@dataclass(frozen=True, eq=False)
class Query:
    """What is searched for.

    Attributes:
        photos: names of photos or of parts of photos (`imgrank.boxes`), rows of the collection, or (h, w, 3) uint8 sRGB
            pixels, which have no name.
        fuse: how several photos of one object become one query: "mean" of their descriptors; "max" of their
            similarities to a candidate; "rrf", the reciprocal ranks of a candidate in the results of each.
        finds_itself: whether a row that is searched for may be found.
    """

    photos: tuple[bytes | int | Pixels, ...]
    fuse: Fuse = "mean"
    finds_itself: bool = False


@dataclass(frozen=True, eq=False)
class _Read:
    """One photo of a query."""

    name: bytes
    descriptor: Floats  # (dim,) unit length
    look: QueryPhoto | None  # for the second stage
    hidden: Ids  # rows that may not be found


@dataclass(frozen=True, eq=False)
class Shortlist:
    """What the first stage found."""

    ranking: Ranking
    rows: list[int]  # of the hits, in the collection
    looks: list[QueryPhoto]  # for the second stage


class Searcher:
    """Search over one or several bundles, with their encoder and, if asked for, their second stage loaded once.

    Args:
        photos: of the bundle, or of several.
        settings: the shortlist.
        reranker: the second stage, over the same photos; None leaves the shortlist as it is.
        thresholds: what a hit must reach.
        encoder: None loads the one the first bundle was made with. A folder or id of the same model may be given where
            it lies elsewhere on this machine; and must be for imported descriptors whose encoder nobody named. Or the
            encoder itself, loaded before by `load_bundle_encoder`.
        device: for encoders that run in torch.
        shortlister: over the same photos with the same settings, loaded before.
        stored_only: all queries will be rows of the collection, so no encoder is loaded.

    Raises:
        MismatchError: the bundles were made with different encoders, or the encoder is here in another revision.
        MissingGroupError: a bundle has no descriptors or no graph yet.
        StaleGroupError: a graph is older than its descriptors.
        SettingsError: a probability is asked for, and nothing gives one.
    """

    def __init__(
        self,
        photos: BundlePhotos | Collection,
        settings: SearchSettings,
        *,
        reranker: Reranker | None = None,
        thresholds: Thresholds | None = None,
        encoder: str | Encoder | None = None,
        device: str = "auto",
        shortlister: Shortlister | None = None,
        stored_only: bool = False,
    ) -> None:
        self.photos, self.settings, self.reranker = Collection.of(photos), settings, reranker
        self._thresholds = thresholds or Thresholds()
        check_thresholds(self._thresholds, reranker)
        bundles = [part.bundle for part in self.photos.parts]
        check_one_encoder(bundles)
        self.shortlister = shortlister or Shortlister(self.photos, settings)
        self._encoder: Encoder | None = None
        if encoder is not None and not isinstance(encoder, str):
            self._encoder = encoder
        elif not stored_only:
            self._encoder = load_bundle_encoder(bundles[0], encoder, device)

    def search(self, query: bytes | Query) -> Ranking:
        """Rank the photos of the collection for one query.

        Args:
            query: the name of one photo, or more than that.

        Raises:
            ImageError: a photo of the query cannot be decoded.
        """
        return self._second(self.shortlists(query))

    def search_all(self, queries: Iterable[bytes | Query]) -> Iterator[Ranking | ImageError]:
        """Rank for each query in turn, as it comes; a query that cannot be decoded gives its error.

        While a query is re-ranked, the next one is read and shortlisted in a thread.
        """

        def shortlists() -> Iterator[tuple[Shortlist, ...] | ImageError]:
            for query in queries:
                try:
                    yield self.shortlists(query)
                except ImageError as error:
                    yield error

        found = shortlists() if self.reranker is None else prefetch(shortlists())
        for item in found:
            yield item if isinstance(item, ImageError) else self._second(item)

    # First stage

    def whole(self, photo: bytes | int) -> tuple[bytes, Neighbours, QueryPhoto | None]:
        """Compare a photo with everything that may be found for it.

        Args:
            photo: its name, or its row in the collection.

        Returns:
            its name; all (1, n) rows, the most similar first; and the photo for the second stage, where there is one.
            Without `settings.exact`, rows that the graph does not lead to are missing.

        Raises:
            ImageError: the photo cannot be decoded.
        """
        read = self._read(photo)
        near = self._near([read], "mean", read.hidden)(len(self.photos))
        seen = ~np.isin(near.rows[0], read.hidden)
        return read.name, Neighbours(near.rows[:, seen], near.similarities[:, seen]), read.look

    def shortlists(self, query: bytes | Query) -> tuple[Shortlist, ...]:
        """Return the candidates of a query, as many as the first or the second stage wants.

        For "rrf", those of each of its photos; else one list.

        Raises:
            ImageError: a photo of the query cannot be decoded.
        """
        asked = Query((query,)) if isinstance(query, bytes) else query
        read = [self._read(photo) for photo in asked.photos]
        together = [read] if asked.fuse != "rrf" else [[photo] for photo in read]
        hidden = np.unique(np.concatenate([photo.hidden for photo in read if not asked.finds_itself] or [_NONE]))
        shortlists = []
        for photos in together:
            near = self._near(photos, asked.fuse, hidden)
            wanted = self._wanted if asked.fuse != "rrf" else max(self._wanted, RANKS_FUSED)
            rows, similarities, copies = self._settled(near, wanted, hidden)
            ranking = ranking_of(self.photos, read[0].name, Neighbours(rows[None], similarities[None]), copies)
            if len(read) > 1:
                names = tuple(photo.name for photo in read)
                hits = tuple(hit.but(photos=names, fuse=asked.fuse) for hit in ranking.hits)
                ranking = Ranking(ranking.query, hits)
            looks = [photo.look for photo in photos if photo.look is not None]
            shortlists.append(Shortlist(ranking, rows.tolist(), looks))
        return tuple(shortlists)

    def _read(self, photo: bytes | int | Pixels) -> _Read:
        if isinstance(photo, int):
            part, own = self.photos.locate(photo)
            name = self.photos.parts[part].path(own)
            look = self.reranker.prepare(photo) if self.reranker is not None else None
            digest = self.photos.parts[part].digests[own].tobytes()
            return _Read(name, self.photos.descriptors(np.array([photo]))[0], look, self._hidden(name, digest, photo))
        assert self._encoder is not None  # stored_only was false
        if isinstance(photo, bytes):
            name, seen = photo, read_query(photo, self.photos.settings, self._encoder.longer_side)
        else:
            name, seen = b"", query_of_pixels(photo, self._encoder.longer_side)
        encoded = self._encoder.encode([seen.pixels])
        look = None
        if self.reranker is not None:
            if self.reranker.uses_local_features and encoded.local is not None:
                look = QueryPhoto(NO_DIGEST, None, encoded.local[0])
            else:
                look = self.reranker.prepare(photo)
        return _Read(name, encoded.descriptors[0], look, self._hidden(name, seen.photo_digest))

    def _hidden(self, name: bytes, digest: bytes, row: int | None = None) -> Ids:
        """Return the rows that this query may not find: its own, where it is a row, and all that show the same file."""
        own = np.array([] if row is None else [row], dtype=np.int64)
        if not self.settings.exclude_self or not name:
            return own
        return np.union1d(own, self.photos.rows_like(split_name(name)[0], digest))

    def _near(self, photos: Sequence[_Read], how: Fuse, hidden: Ids) -> Callable[[int], Neighbours]:
        """Return what finds so many of the most similar rows."""
        descriptors = [photo.descriptor for photo in photos]
        if how == "mean" and len(photos) > 1:
            descriptors = [unit_rows(np.stack(descriptors).mean(axis=0, dtype=np.float64, keepdims=True))[0]]
        queries = [self._expanded(descriptor, hidden) for descriptor in descriptors]
        if len(queries) == 1:
            return lambda width: self.shortlister.search(queries[0], width)

        def nearest_to_any(width: int) -> Neighbours:
            rows = np.unique(np.concatenate([self.shortlister.search(query, width).rows[0] for query in queries]))
            vectors, places = self.shortlister.vectors(rows), np.arange(len(rows))
            best = np.max([rescore(vectors, query, places) for query in queries], axis=0)
            rows, best = best_first(rows, best, width)
            return Neighbours(rows[None], best[None])

        return nearest_to_any

    def _expanded(self, descriptor: Floats, hidden: Ids) -> Floats:
        """Return a descriptor after alpha query expansion, where that is asked for."""
        count = self.settings.expand
        if count == 0:
            return descriptor
        near = self.shortlister.search(descriptor, count + len(hidden))
        seen = np.flatnonzero(~np.isin(near.rows[0], hidden))[:count]
        vectors, similarities = self.shortlister.vectors(near.rows[0][seen]), near.similarities[0][seen]
        moved: Floats = expanded(descriptor[None], vectors[None], similarities[None], self.settings.expand_alpha)[0]
        return moved

    @property
    def _wanted(self) -> int:
        """Return how many hits the shortlist has, where there are so many."""
        return max(self.settings.top_k, 0 if self.reranker is None else self.reranker.settings.top)

    def _settled(
        self, near: Callable[[int], Neighbours], wanted: int, hidden: Ids
    ) -> tuple[Ids, Floats, dict[int, list[int]]]:
        """Return (n,) rows and their similarities, as many as are wanted, and the copies of a row that were folded."""
        width = wanted + len(hidden)
        while True:
            found = near(width)
            seen = ~np.isin(found.rows[0], hidden)
            rows, similarities = found.rows[0][seen], found.similarities[0][seen]
            if not self.settings.collapse:
                return rows[:wanted], similarities[:wanted], {}
            groups = fold_hits(self.photos, rows, self.settings)
            if len(groups) >= wanted or len(found.rows[0]) < width:
                firsts = [group[0] for group in groups[:wanted]]
                copies = {int(rows[group[0]]): rows[group[1:]].tolist() for group in groups[:wanted]}
                return rows[firsts], similarities[firsts], copies
            width *= 2

    # Second stage

    def _second(self, found: Sequence[Shortlist]) -> Ranking:
        rankings = []
        for shortlist in found:
            ranking = shortlist.ranking
            if self.reranker is not None and shortlist.looks:
                how: Fuse = "max" if ranking.hits and ranking.hits[0].fuse == "max" else "mean"
                ranking = self.reranker.rerank(ranking, shortlist.rows, shortlist.looks, how)
            rankings.append(ranking)
        ranking = rankings[0] if len(rankings) == 1 else _fused_by_rank(rankings)
        ranking = above(ranking, self._thresholds)
        return replace(ranking, hits=ranking.hits[: self.settings.top_k])


def _fused_by_rank(rankings: Sequence[Ranking]) -> Ranking:
    """Return the hits of several rankings by their reciprocal ranks; each as it stands where it stands best."""
    best: dict[tuple[bytes | None, int], Hit] = {}
    for ranking in rankings:
        for hit in ranking.hits:
            key = hit.bundle, hit.id
            if key not in best or hit.rank < best[key].rank:
                best[key] = hit
    keys = [[(hit.bundle, hit.id) for hit in ranking.hits] for ranking in rankings]
    fused = reciprocal_rank_fusion(keys)
    return renumber(rankings[0].query, [best[key].but(score=float(np.float32(score))) for key, score in fused])


def ranking_of(
    photos: Collection, query: bytes, neighbours: Neighbours, copies: Mapping[int, Sequence[int]] | None = None
) -> Ranking:
    """Return the (1, k) neighbours of a query as hits, with the copies that were folded into a row."""
    hits = photos.hits(query, neighbours.rows[0], neighbours.similarities[0].tolist())
    if copies:
        rows = neighbours.rows[0].tolist()
        hits = [
            hit.but(collapsed=tuple(map(photos.path, copies.get(row, ())))) for row, hit in zip(rows, hits, strict=True)
        ]
    return Ranking(query, tuple(hits))
