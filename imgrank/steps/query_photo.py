"""A query of the second stage: read from its photo, or from what the bundle keeps of it."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from typing import Any

import numpy as np

from imgrank.boxes import split_name
from imgrank.errors import ImageError
from imgrank.images.query import read_query
from imgrank.images.scan import display
from imgrank.records import DIGEST_SIZE, NO_DIGEST
from imgrank.steps.collection import Collection
from imgrank.steps.features import LocalSource, stored_tokens
from imgrank.steps.second_stage import SecondStage


@dataclass(frozen=True, eq=False)
class QueryPhoto:
    """A query, read and ready; its features are computed when the first pair is scored.

    Attributes:
        digest: of what is seen of it, by which answers about it are kept; NO_DIGEST: they are not.
        pixels: (h, w, 3) uint8, or None where the features are at hand.
        features: what the scorer compares.
    """

    digest: bytes
    pixels: Any
    features: object | None = None


def read_photo_query(photos: Collection, stage: SecondStage, name: bytes) -> QueryPhoto:
    """Read a query photo, or the part of it that its name means.

    A photo of the bundles that is not on the disk any more is taken from what they keep of it.

    Raises:
        ImageError: it cannot be decoded, and nothing is kept of it.
    """
    try:
        read = read_query(name, photos.settings, stage.source.longer_side)
    except ImageError as error:
        if error.code != "missing" or split_name(name)[1] is not None:
            raise
        lying = photos.rows_like(name, NO_DIGEST)
        kept = kept_query(photos, stage, int(lying[0])) if len(lying) else None
        if kept is None:
            raise
        return kept
    return QueryPhoto(read.digest, read.pixels)


def read_stored_query(photos: Collection, stage: SecondStage, row: int) -> QueryPhoto:
    """Read a photo of the collection as a query: with all of its tokens where it is on the disk, else those kept.

    Raises:
        ImageError: it is not on the disk, or not the photo it was, and nothing is kept of it.
    """
    kept = kept_query(photos, stage, row)
    if kept is not None and isinstance(stage.source, LocalSource):
        return kept  # local features are kept as they are
    part, own = photos.locate(row)
    try:
        read = read_query(photos.parts[part].location(own), photos.settings, stage.source.longer_side)
        digest = photos.parts[part].digests[own]
        if digest.any() and read.photo_digest != digest.tobytes():
            raise ImageError(display(photos.path(row)), "changed", "is not the photo that was embedded; index it again")
    except ImageError:
        if kept is None:
            raise
        return kept
    return QueryPhoto(read.digest, read.pixels)


def kept_query(photos: Collection, stage: SecondStage, row: int) -> QueryPhoto | None:
    """Return a photo of the collection as its bundle keeps it, reduced and rounded; None where it keeps nothing."""
    part, own = photos.locate(row)
    features = stage.bundles[part]
    found = dict(stored_tokens(features.table, np.array([0]), np.array([own])))
    if features.table is None or not found:
        return None
    digest = photos.parts[part].digests[own]
    if not digest.any():
        return QueryPhoto(NO_DIGEST, None, features.source.of_tokens(found[0]))
    # Not the digest of the photo: with some of its tokens the model may answer otherwise than with all.
    seen = digest.tobytes() + features.table.checksums[own].tobytes() + b"kept"
    return QueryPhoto(
        hashlib.blake2b(seen, digest_size=DIGEST_SIZE).digest(), None, features.source.of_tokens(found[0])
    )
