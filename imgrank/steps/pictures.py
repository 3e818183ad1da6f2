"""Pictures of queries and hits: from the thumbnails of a bundle, else from the photos, else none and why."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence

import numpy as np

from imgrank.arrays import Pixels
from imgrank.boxes import split_name
from imgrank.config import ThumbnailSettings
from imgrank.errors import ImageError
from imgrank.images.decode import decode_bytes
from imgrank.images.query import read_query
from imgrank.images.scan import display
from imgrank.images.thumbnails import LIMITS, check_thumbnail, make_thumbnail
from imgrank.records import Thumbnail
from imgrank.report.shown import Picture, Shown
from imgrank.results import Hit, Ranking
from imgrank.steps.collection import Collection
from imgrank.steps.photos import BundlePhotos


class Pictures:
    """Finds the pictures of what is shown.

    Args:
        photos: of the bundles that the hits are of.
        queries_root: folder that relative query paths are below; None takes the working directory.
        settings: of pictures that are made from photos.
    """

    def __init__(
        self, photos: Collection, queries_root: bytes | None = None, settings: ThumbnailSettings | None = None
    ) -> None:
        self._photos, self._root = photos, queries_root
        self._settings = settings or ThumbnailSettings()

    def shown(self, ranking: Ranking, most: int | None = None) -> Shown:
        """Return a ranking with its pictures.

        Args:
            ranking: of one query.
            most: hits that have pictures, from the first on; None: all.
        """
        names = ranking.hits[0].photos if ranking.hits else ()
        query = [picture for name in names or [ranking.query] for picture in self._of_query(name)]
        hits = ranking.hits[:most]
        return Shown(Ranking(ranking.query, hits), query, self._of_hits(hits))

    def _of_query(self, name: bytes) -> Iterator[Picture]:
        path, box = split_name(name)
        for one in (path,) if box is None else (path, name):
            where = one if self._root is None else os.path.join(self._root, one)  # noqa: PTH118  # bytes
            try:
                read = read_query(where, self._photos.settings, self._settings.longer_side)
            except ImageError as error:
                yield Picture(display(one), self._kept(where), error.code)
            else:
                yield Picture(display(one), make_thumbnail(read.pixels, self._settings))

    def _kept(self, path: bytes) -> Thumbnail | None:
        """Return the thumbnail of a photo that is gone, where a bundle has it."""
        for photos in self._photos.parts:
            row = photos.row_lying_at(path)
            table = photos.bundle.thumbnail_table
            if row is not None and table is not None:
                return _sound(table.read([row], damaged=[])[0])
        return None

    def _of_hits(self, hits: Sequence[Hit]) -> list[Picture]:
        found: list[Thumbnail | str] = ["missing"] * len(hits)  # or why there is none
        rows = np.array([self._photos.row_of_hit(hit) for hit in hits], dtype=np.int64)
        for part, places, own in self._photos.split(rows):
            for place, one in zip(
                places.tolist(), _of_rows(self._photos.parts[part], own, self._settings), strict=True
            ):
                found[place] = one
        return [
            Picture(display(hit.path), None, one) if isinstance(one, str) else Picture(display(hit.path), one)
            for hit, one in zip(hits, found, strict=True)
        ]


def _of_rows(
    photos: BundlePhotos, rows: np.ndarray[tuple[int], np.dtype[np.int64]], settings: ThumbnailSettings
) -> list[Thumbnail | str]:
    """Return the thumbnail of each row of a bundle, or why there is none."""
    table = photos.bundle.thumbnail_table
    kept = [None] * len(rows) if table is None else table.read(rows.tolist(), damaged=[])
    found: list[Thumbnail | str] = [_sound(one) or "missing" for one in kept]
    lacking = [place for place, one in enumerate(found) if isinstance(one, str)]
    for place, item in zip(lacking, photos.load(rows[lacking], settings.longer_side, settings), strict=True):
        found[place] = item.thumbnail or (item.error.code if item.error is not None else "missing")
    return found


def _sound(thumbnail: Thumbnail | None) -> Thumbnail | None:
    """Return a stored thumbnail if it is what it should be; whoever made the bundle chose its bytes."""
    try:
        if thumbnail is not None:
            check_thumbnail(thumbnail, "thumbnail")
    except ImageError:
        return None
    return thumbnail


def pixels_of(picture: Picture) -> Pixels | None:
    """Decode a picture; None where there is none, or it cannot be decoded."""
    if picture.thumbnail is None:
        return None
    try:
        return decode_bytes(picture.thumbnail.data, picture.name, LIMITS).pixels
    except ImageError:
        return None
