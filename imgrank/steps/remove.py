"""`remove`: photos of a bundle that shall not be found any more.

Rows are marked; their space comes back with `compact`. A removed photo that is indexed again comes back with its
descriptor and tokens.
"""

from __future__ import annotations

import fnmatch
from collections.abc import Iterable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from imgrank.arrays import Ids
from imgrank.bundle import file
from imgrank.bundle.images import mark_images
from imgrank.errors import InputError
from imgrank.images.scan import display
from imgrank.records import OK
from imgrank.steps.paths import may_exist
from imgrank.steps.photos import REMOVED, BundlePhotos, open_photos

_MAGIC = b"*?["


@dataclass(frozen=True)
class Removal:
    """What `remove` found.

    Attributes:
        paths: of the photos, that open from here.
        left: photos that the bundle still has.
    """

    paths: list[bytes]
    left: int


def remove(
    bundle: Path,
    names: Sequence[bytes] = (),
    *,
    ids: Iterable[int] = (),
    missing: bool = False,
    root: Path | None = None,
    dry_run: bool = False,
) -> Removal:
    """Mark photos as removed.

    Args:
        bundle: the file.
        names: stored paths or paths that lead to a photo; folders, for all photos below; or patterns with *, ? and
            [...] over whole stored paths, in which * goes through folders.
        ids: of photos.
        missing: also the photos that are not on the disk, but for those of imported descriptors that never were.
        root: folder of the photos, where it is not the one the bundle states.
        dry_run: change nothing.

    Raises:
        InputError: a name or an id is of no photo, or no photo at all is on the disk; then nothing is changed.
    """
    # A dry run takes no lock: it works where nothing can be written, and beside a writer.
    with nullcontext() if dry_run else file.Writer(bundle) as writer, open_photos(bundle, root=root) as photos:
        live = photos.statuses != REMOVED
        chosen = np.zeros(len(photos), dtype=bool)
        for name in names:
            chosen[_named(photos, live, name)] = True
        chosen[[_row_of_id(photos, live, number) for number in ids]] = True
        if missing:
            chosen[_lost(photos, live)] = True
        rows = np.flatnonzero(chosen)
        paths = [photos.path(row) for row in rows.tolist()]
        if len(rows) and writer is not None:
            with writer.transaction() as h5:
                mark_images(h5, rows.tolist(), REMOVED)
    return Removal(paths, int(np.count_nonzero(live & ~chosen)))


def _named(photos: BundlePhotos, live: np.ndarray[tuple[int], np.dtype[np.bool_]], name: bytes) -> list[int]:
    """Return the rows of one name: the photo itself, else the photos of a folder, else those a pattern fits."""
    own = photos.rows_by_path
    inside = photos.stored(name)
    for path in (name, inside):
        if path in own and live[own[path]]:
            return [own[path]]
    below = [b"" if folder == b"." else folder.rstrip(b"/") + b"/" for folder in (name, inside)]
    for folder in below:
        found = [row for path, row in own.items() if live[row] and path.startswith(folder)]
        if found:
            return found
    if any(character in name for character in _MAGIC):
        found = [row for path, row in own.items() if live[row] and fnmatch.fnmatchcase(path, name)]
        if found:
            return found
        raise InputError(f"no photo of {photos.bundle.path} fits {display(name)}; patterns are of whole stored paths")
    raise InputError(f"{photos.bundle.path} has no photo or folder called {display(name)}; nothing was removed")


def _row_of_id(photos: BundlePhotos, live: np.ndarray[tuple[int], np.dtype[np.bool_]], number: int) -> int:
    row = photos.row_of_id(number)
    if not live[row]:
        raise InputError(f"photo {number} of {photos.bundle.path} was removed before; nothing was removed now")
    return row


def _lost(photos: BundlePhotos, live: np.ndarray[tuple[int], np.dtype[np.bool_]]) -> Ids:
    never_seen = (photos.statuses == OK) & ~photos.digests.any(axis=1)  # an imported descriptor needs no photo
    rows = np.flatnonzero(live & ~never_seen)
    gone = np.array([not may_exist(photos.location(row)) for row in rows.tolist()], dtype=bool)
    if len(rows) and gone.all():
        raise InputError(
            f"not one photo of {photos.bundle.path} is below {display(photos.root)}; if they moved, "
            f"run `imgrank relocate {photos.bundle.path} --root FOLDER`"
        )
    found: Ids = rows[gone]
    return found
