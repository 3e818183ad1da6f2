"""Pictures of queries and hits: from the thumbnails of a bundle, else from the photos, else none and why."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from dataclasses import replace

import numpy as np

from imgrank.arrays import Pixels
from imgrank.boxes import split_name
from imgrank.config import DecodeSettings, ThumbnailSettings
from imgrank.errors import ImageError
from imgrank.images.decode import decode_bytes
from imgrank.images.query import read_query
from imgrank.images.scan import display
from imgrank.images.thumbnails import LIMITS, check_thumbnail, make_thumbnail
from imgrank.records import Thumbnail
from imgrank.report.shown import Picture, Shown
from imgrank.results import Ranking
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
        query = [picture for name in names or [ranking.query] for picture in self.of_query(name)]
        hits = ranking.hits[:most]
        rows = [self._photos.row_of_hit(hit) for hit in hits]
        return Shown(Ranking(ranking.query, hits), query, self.of_rows(rows, [hit.path for hit in hits]))

    def of_query(self, name: bytes) -> Iterator[Picture]:
        """Yield the photo of a query; of a part of a photo, the whole photo and then the part."""
        path, box = split_name(name)
        for one in (path,) if box is None else (path, name):
            where = one if self._root is None else os.path.join(self._root, one)  # noqa: PTH118  # bytes
            picture = picture_of_file(where, display(one), self._photos.settings, self._settings)
            kept = self._kept(where) if picture.thumbnail is None else None
            yield picture if kept is None else replace(picture, thumbnail=kept)

    def _kept(self, path: bytes) -> Thumbnail | None:
        """Return the thumbnail of a photo that is gone, where a bundle has it."""
        for photos in self._photos.parts:
            row = photos.row_lying_at(path)
            table = photos.bundle.thumbnail_table
            if row is not None and table is not None:
                return _sound(table.read([row], damaged=[])[0])
        return None

    def of_rows(self, rows: Sequence[int | None], names: Sequence[bytes]) -> list[Picture]:
        """Return the photos of rows of the collection; None is a photo that is missing.

        Args:
            rows: (n,)
            names: (n,) what the pictures are called.
        """
        found: list[Thumbnail | str] = ["missing"] * len(rows)  # or why there is none
        known = np.array([-1 if row is None else row for row in rows], dtype=np.int64)
        for part, places, own in self._photos.split(known):
            for place, one in zip(
                places.tolist(), _of_rows(self._photos.parts[part], own, self._settings), strict=True
            ):
                found[place] = one
        return [
            Picture(display(name), None, one) if isinstance(one, str) else Picture(display(name), one)
            for name, one in zip(names, found, strict=True)
        ]


def picture_of_file(where: bytes, name: str, limits: DecodeSettings, settings: ThumbnailSettings) -> Picture:
    """Return a photo, or a part of one, made from its file.

    Args:
        where: a path, perhaps with a fragment (`imgrank.boxes`).
        name: what the picture is called.
        limits: for decoding.
        settings: of the picture.
    """
    try:
        read = read_query(where, limits, settings.longer_side)
    except ImageError as error:
        return Picture(name, None, error.code)
    return Picture(name, make_thumbnail(read.pixels, settings))


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
