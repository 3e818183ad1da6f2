"""`search`: query photos in, ranked hits out, one query after the other."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from imgrank.bundle.file import Bundle
from imgrank.config import UNKNOWN, EncoderSettings, SearchSettings
from imgrank.encode.base import Encoder
from imgrank.errors import ImageError, MismatchError
from imgrank.images.decode import decode
from imgrank.index.base import Neighbours
from imgrank.prefetch import prefetch
from imgrank.records import NO_DIGEST
from imgrank.results import Ranking
from imgrank.steps.collection import Collection
from imgrank.steps.embed import bundle_projection
from imgrank.steps.one_encoder import check_one_encoder
from imgrank.steps.photos import BundlePhotos
from imgrank.steps.rerank import QueryPhoto, Reranker
from imgrank.steps.shortlist import Shortlister


@dataclass(frozen=True, eq=False)
class Shortlist:
    """What the first stage found."""

    ranking: Ranking
    rows: list[int]  # of the hits, in the collection
    query: QueryPhoto | None  # for the second stage


class Searcher:
    """Search over one or several bundles, with their encoder and, if asked for, their second stage loaded once.

    Args:
        photos: of the bundle, or of several.
        settings: the shortlist.
        reranker: the second stage, over the same photos; None leaves the shortlist as it is.
        encoder: None loads the one the first bundle was made with. A folder or id of the same model may be given where
            it lies elsewhere on this machine; and must be for imported descriptors whose encoder nobody named.
        device: for encoders that run in torch.

    Raises:
        MismatchError: the bundles were made with different encoders, or the encoder is here in another revision.
        MissingGroupError: a bundle has no descriptors or no graph yet.
        StaleGroupError: a graph is older than its descriptors.
    """

    def __init__(
        self,
        photos: BundlePhotos | Collection,
        settings: SearchSettings,
        *,
        reranker: Reranker | None = None,
        encoder: str | None = None,
        device: str = "auto",
    ) -> None:
        self.photos, self.settings, self.reranker = Collection.of(photos), settings, reranker
        bundles = [part.bundle for part in self.photos.parts]
        check_one_encoder(bundles)
        self.shortlister = Shortlister(self.photos, settings)
        self.encoder = load_bundle_encoder(bundles[0], encoder, device)

    def search(self, query: bytes) -> Ranking:
        """Rank the photos of the collection for one query photo.

        Raises:
            ImageError: the query cannot be decoded.
        """
        return self._second(self.shortlist(query))

    def search_all(self, queries: Iterable[bytes]) -> Iterator[Ranking | ImageError]:
        """Rank for each query in turn, as it comes; a query that cannot be decoded gives its error.

        While a query is re-ranked, the next one is read and shortlisted in a thread.
        """

        def shortlists() -> Iterator[Shortlist | ImageError]:
            for query in queries:
                try:
                    yield self.shortlist(query)
                except ImageError as error:
                    yield error

        found = shortlists() if self.reranker is None else prefetch(shortlists())
        for item in found:
            yield item if isinstance(item, ImageError) else self._second(item)

    def shortlist(self, query: bytes) -> Shortlist:
        """Find the candidates of a query photo, as many as the first or the second stage wants.

        Raises:
            ImageError: the query cannot be decoded.
        """
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
        return Shortlist(ranking_of(self.photos, query, neighbours), rows, ready)

    def _second(self, found: Shortlist) -> Ranking:
        ranking = found.ranking
        if self.reranker is not None and found.query is not None:
            ranking = self.reranker.rerank(ranking, found.rows, found.query)
        return replace(ranking, hits=ranking.hits[: self.settings.top_k])


def ranking_of(photos: Collection, query: bytes, neighbours: Neighbours) -> Ranking:
    """Return the (1, k) neighbours of a query as hits."""
    pairs = zip(neighbours.rows[0].tolist(), neighbours.similarities[0].tolist(), strict=True)
    return Ranking(query, tuple(photos.hit(query, rank, row, similar) for rank, (row, similar) in enumerate(pairs, 1)))


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
