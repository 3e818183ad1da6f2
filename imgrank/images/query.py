"""A query: a photo, or a part of one, to pixels."""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

from imgrank.arrays import Pixels
from imgrank.boxes import cut, split_name
from imgrank.config import DecodeSettings
from imgrank.errors import ImageError
from imgrank.images.decode import read_photo
from imgrank.images.resize import check_pixels, fit_longer_side
from imgrank.images.scan import display
from imgrank.records import DIGEST_SIZE, NO_DIGEST


@dataclass(frozen=True, eq=False)
class QueryPixels:
    """A query that was read.

    Attributes:
        pixels: (h, w, 3) uint8 sRGB, upright.
        photo_digest: of the content of the file: what the bundle knows a photo by.
        digest: of what is seen of it; that of the file, where the whole photo is meant.
    """

    pixels: Pixels
    photo_digest: bytes
    digest: bytes


def read_query(name: bytes, settings: DecodeSettings, longer_side: int | None) -> QueryPixels:
    """Read a photo, or the part of it that a name means.

    Args:
        name: a path, perhaps with a fragment (`imgrank.boxes`).
        settings: the size limit, of the whole photo.
        longer_side: pixels, of what is meant; None keeps the full size.

    Raises:
        ImageError: the photo cannot be used, or the part lies beside it.
    """
    path, box = split_name(name)
    loaded = read_photo(path, settings, longer_side if box is None else None)
    if loaded.photo is None:
        assert loaded.error is not None  # one or the other
        raise loaded.error
    pixels, digest = loaded.photo.pixels, loaded.record.digest
    if box is None:
        return QueryPixels(pixels, digest, digest)
    part = cut(pixels, box)
    if part is None:
        size = f"{loaded.photo.width} x {loaded.photo.height}"
        raise ImageError(display(name), "unreadable", f"this part lies beside the photo, which has {size} pixels")
    if longer_side is not None:
        part = fit_longer_side(part, longer_side)
    seen = hashlib.blake2b(digest + box.of(b""), digest_size=DIGEST_SIZE).digest()
    return QueryPixels(part, digest, seen)


def query_of_pixels(pixels: Pixels, longer_side: int | None) -> QueryPixels:
    """Take a photo that is in memory for a query.

    Args:
        pixels: (h, w, 3) uint8 sRGB, upright.
        longer_side: pixels; None keeps the full size.

    Raises:
        InputError: another shape or type.
    """
    check_pixels(pixels, "the query")
    digest = hashlib.blake2b(repr(pixels.shape).encode() + pixels.tobytes(), digest_size=DIGEST_SIZE).digest()
    return QueryPixels(pixels if longer_side is None else fit_longer_side(pixels, longer_side), NO_DIGEST, digest)
