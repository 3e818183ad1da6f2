"""`search --descriptors`: descriptors of queries in, that another program computed; ranked hits out."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

from imgrank.config import SearchSettings, Thresholds
from imgrank.errors import InputError
from imgrank.results import Ranking, above
from imgrank.steps.collection import Collection
from imgrank.steps.import_sources import open_source, unit_rows_of
from imgrank.steps.one_encoder import check_one_encoder
from imgrank.steps.photos import BundlePhotos
from imgrank.steps.projections import bundle_projection
from imgrank.steps.rerank import check_thresholds
from imgrank.steps.search import ranking_of
from imgrank.steps.shortlist import Shortlister

_BLOCK = 256  # queries in memory


def search_descriptors(
    photos: BundlePhotos | Collection,
    settings: SearchSettings,
    source: Path,
    *,
    listing: Path | None = None,
    nul: bool = False,
    thresholds: Thresholds | None = None,
) -> Iterator[Ranking]:
    """Rank the photos of bundles for each row of a file, without any encoder.

    Args:
        photos: of the bundle, or of several.
        settings: the shortlist.
        source: HDF5 of ILIAS or hloc, or .npy, with descriptors of the kind that the bundle has, or of the kind that
            went through its projection when they were imported.
        listing: for .npy, the path of each query; see `open_source`.
        nul: whether paths on the list end with NUL.
        thresholds: what a hit must reach.

    Raises:
        SettingsError: a probability is asked for.
        MismatchError: the bundles were made with different encoders.
        InputError: the file cannot be read, its descriptors have another length than the bundle's, or one has no
            direction; or there are more or fewer names than descriptors.
    """
    kept = thresholds or Thresholds()
    check_thresholds(kept, None)
    collection = Collection.of(photos)
    bundles = [part.bundle for part in collection.parts]
    check_one_encoder(bundles)
    with open_source(source, listing, nul=nul) as opened:
        dim = bundles[0].descriptors.dim
        projection = bundle_projection(bundles[0])
        # Descriptors from elsewhere went through it on their way into the bundle, and those of queries do now.
        imported = bool(bundles[0].descriptors.imported_from)
        raw = projection is not None and opened.dim == len(projection.mean) and (imported or opened.dim != dim)
        if opened.dim != dim and not raw:
            raise InputError(
                f"{source}: has descriptors of {opened.dim} numbers, those of {bundles[0].path} have {dim}; "
                "compute both with the same model"
            )
        names = list(opened.names())
        if len(names) != opened.rows:
            raise InputError(f"{source}: {opened.rows} descriptors but {len(names)} paths; give one for each row")
        shortlister = Shortlister(collection, settings)
        for start in range(0, len(names), _BLOCK):
            block = names[start : start + _BLOCK]
            vectors, _ = unit_rows_of(source, opened.read(start, start + len(block)), block)
            if projection is not None and raw:
                vectors = projection.apply(vectors)
            for name, query in zip(block, vectors, strict=True):
                yield above(ranking_of(collection, name, shortlister.search(query, settings.top_k)), kept)
