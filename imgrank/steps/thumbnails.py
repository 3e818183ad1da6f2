"""`--thumbnails`: a small picture of each photo into the bundle, so that results can be looked at without the photos.

New photos get theirs while they are embedded. This module makes those of photos that were embedded without; rows are
written in parts, each one commit, so a run that was cut goes on where the last part ended.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np

from imgrank.bundle import file
from imgrank.bundle.provenance import Provenance
from imgrank.bundle.thumbnails import ThumbnailTable, append_thumbnails, create_thumbnails, drop_thumbnails
from imgrank.config import MAX_THUMBNAIL_SIDE, DecodeSettings, ThumbnailSettings
from imgrank.errors import DamagedBundleError, MismatchError, SettingsError
from imgrank.progress import SILENT, Reporter
from imgrank.records import Thumbnail
from imgrank.steps.photos import BundlePhotos, open_photos

PART = 64  # rows of one commit
_REVISION = "1"  # of how they are made


def add_thumbnails(
    bundle: Path,
    longer_side: int,
    *,
    decode: DecodeSettings | None = None,
    root: Path | None = None,
    strict: bool = False,
    reporter: Reporter = SILENT,
) -> dict[str, int]:
    """Make the thumbnails of the photos of a bundle that have none yet; 0 takes all of them out.

    Args:
        bundle: the file.
        longer_side: pixels.
        decode: limits and workers.
        root: folder of the photos, where it is not the one the bundle states.
        strict: stop at the first photo that cannot be used.
        reporter: hears of progress and of each photo left out.

    Returns:
        Status name -> photos that gave none.

    Raises:
        MismatchError: those that are there have another size.
        InputError: not one of the photos is there.
    """
    file.read(bundle).close()  # raises where there is none
    with file.Writer(bundle) as writer:
        return keep_thumbnails(writer, longer_side, decode=decode, root=root, strict=strict, reporter=reporter)[1]


def keep_thumbnails(
    writer: file.Writer,
    longer_side: int | None,
    *,
    decode: DecodeSettings | None = None,
    root: Path | None = None,
    strict: bool = False,
    reporter: Reporter = SILENT,
) -> tuple[ThumbnailSettings | None, dict[str, int]]:
    """Bring the thumbnails of a bundle up to its photos, with the writer's lock held.

    Args:
        writer: of the bundle.
        longer_side: pixels; 0 takes all of them out; None leaves them as they are.
        decode: limits and workers.
        root: folder of the photos, where it is not the one the bundle states.
        strict: stop at the first photo that cannot be used.
        reporter: hears of progress and of each photo left out.

    Returns:
        What photos that come now get, and status name -> photos that gave none.

    Raises:
        MismatchError: those that are there have another size.
        InputError: not one of the photos is there.
    """
    wanted = wanted_thumbnails(longer_side)
    with open_photos(writer.path, decode, root) as photos:
        table = photos.bundle.thumbnail_table
        if longer_side == 0:
            if table is not None:
                with writer.transaction() as h5:
                    drop_thumbnails(h5)
            return None, {}
        held = None if table is None else thumbnail_settings(table)
        if wanted is None:
            return held, {}
        if held is not None and held != wanted:
            raise MismatchError(
                writer.path,
                f"holds thumbnails of {held.longer_side} pixels, asked for {wanted.longer_side}; "
                "`--thumbnails 0` takes them out first",
            )
        if table is None:
            with writer.transaction() as h5:
                create_thumbnails(h5, thumbnail_provenance(wanted))
        begun = 0 if table is None else len(table)
        return wanted, _fill(writer, photos, begun, wanted, strict, reporter)


def _fill(
    writer: file.Writer, photos: BundlePhotos, begun: int, settings: ThumbnailSettings, strict: bool, reporter: Reporter
) -> dict[str, int]:
    skipped: dict[str, int] = {}
    todo = photos.usable(begun)
    photos.check_there(todo)
    loaded = zip(todo.tolist(), photos.load(todo, settings.longer_side, settings), strict=True)
    with reporter.bar(len(todo), "thumbnails", "photo") as advance:
        for start in range(begun, len(photos), PART):
            part: dict[int, Thumbnail | None] = dict.fromkeys(range(start, min(start + PART, len(photos))))
            for _ in range(np.count_nonzero((todo >= start) & (todo < start + PART))):
                row, item = next(loaded)
                part[row] = item.thumbnail
                if item.error is not None:
                    if strict:
                        raise item.error
                    skipped[item.error.code] = skipped.get(item.error.code, 0) + 1
                    reporter.skipped(item.error)
                advance(1)
            with writer.transaction() as h5:
                append_thumbnails(h5, list(part.values()))
    return skipped


def wanted_thumbnails(longer_side: int | None) -> ThumbnailSettings | None:
    """Return the settings of what is asked for; None where none are.

    Raises:
        SettingsError: a size that no thumbnail has.
    """
    if not longer_side:
        return None
    if not 1 <= longer_side <= MAX_THUMBNAIL_SIDE:
        raise SettingsError(f"--thumbnails {longer_side}: the longer side is 1 to {MAX_THUMBNAIL_SIDE} pixels")
    return ThumbnailSettings(longer_side=longer_side)


def thumbnail_provenance(settings: ThumbnailSettings) -> Provenance:
    """Return the provenance of `/thumbnails`, whichever command made them."""
    return Provenance("thumbnail", _REVISION, settings.to_json())


def thumbnail_settings(table: ThumbnailTable) -> ThumbnailSettings:
    """Return how the thumbnails of a bundle were made.

    Raises:
        DamagedBundleError: that cannot be told.
    """
    try:
        return ThumbnailSettings.from_json(table.provenance.settings)
    except SettingsError as error:
        raise DamagedBundleError(table.path, "/thumbnails@settings", f"cannot be understood ({error})") from error
