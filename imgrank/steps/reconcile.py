"""What became of the photos of a bundle since they were embedded: the same, moved, back, changed, gone, or new.

The file system is asked for the size and time of each photo. A file is read for its digest only where these say that
something happened and an earlier photo has the same size: a photo that was moved or touched keeps its row, and with it
its id, descriptor and tokens.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property

import numpy as np
import numpy.typing as npt

from imgrank.arrays import crc32
from imgrank.bundle.file import Bundle
from imgrank.errors import ImageError
from imgrank.images.content import read_digest
from imgrank.images.scan import display
from imgrank.records import OK, status_of
from imgrank.steps.paths import RelativePaths, is_below, may_exist
from imgrank.steps.photos import REMOVED

MISSING = status_of("missing")


class HeldPhotos:
    """The photos that a bundle held when it was opened; it may be closed once this is made."""

    def __init__(self, opened: Bundle) -> None:
        images = opened.images
        self.statuses = images.statuses()
        self.paths = images.paths()
        self.sizes = images.columns["size"].read()
        self.times = images.columns["mtime-ns"].read()
        self.digests: npt.NDArray[np.uint8] = images.columns["digest"].read()
        self.whole = np.zeros(len(self.paths), dtype=bool)  # rows that have a descriptor, and a digest to know them by
        table = opened.descriptor_table
        if table is not None:
            nothing = crc32(np.zeros(table.dim, dtype="<f4"))
            has_descriptor = table.columns["crc32"].read() != nothing
            usable = np.isin(self.statuses, [OK, MISSING, REMOVED])
            self.whole = has_descriptor & usable & self.digests.any(axis=1)
        live = self.statuses != REMOVED
        self.rows = {path: row for row, path in enumerate(self.paths) if live[row]}


@dataclass
class Changes:
    """What a look at the disk found.

    Attributes:
        known: photos that are as they were.
        same: row -> (stored path, mtime in ns) of photos whose name or time changed, or that are back.
        moved: how many of these have another name.
        back: rows among these that count again.
        superseded: rows whose name another photo of the bundle has now.
        gone: rows whose photos are not there any more.
        new: paths as given, in scan order, of what must be computed.
        stored: path as given -> relative to the root.
        replaced: path as given -> row of the photo that had this name before, or of a failure.
        failed: path as given -> status, where the photo could not be used before.
    """

    known: int = 0
    same: dict[int, tuple[bytes, int]] = field(default_factory=dict)
    moved: int = 0
    back: list[int] = field(default_factory=list)
    superseded: list[int] = field(default_factory=list)
    gone: list[int] = field(default_factory=list)
    new: list[bytes] = field(default_factory=list)
    stored: dict[bytes, bytes] = field(default_factory=dict)
    replaced: dict[bytes, int] = field(default_factory=dict)
    failed: dict[bytes, int] = field(default_factory=dict)


def reconcile(
    held: HeldPhotos | None, photos: Sequence[bytes], folders: Iterable[bytes], root: bytes, relative: RelativePaths
) -> Changes:
    """Compare photos on the disk with those of a bundle.

    Args:
        held: what the bundle holds; None: nothing yet.
        photos: paths that were found, as given.
        folders: below which photos that were not found are looked for, and count as gone.
        root: absolute and resolved.
        relative: makes stored paths.
    """
    changes = Changes()
    if held is None:
        changes.new = list(photos)
        changes.stored = {path: relative(path) for path in photos}
        return changes
    _Comparison(held, root, changes).run([(path, relative(path)) for path in photos], folders)
    return changes


class _Comparison:
    def __init__(self, held: HeldPhotos, root: bytes, changes: Changes) -> None:
        self._held, self._root, self._changes = held, root, changes
        self._seen: set[bytes] = set()
        self._taken: set[int] = set()

    def run(self, photos: list[tuple[bytes, bytes]], folders: Iterable[bytes]) -> None:
        held, changes = self._held, self._changes
        self._seen = {stored for _, stored in photos}
        for path, stored in photos:
            row = held.rows.get(stored)
            if row is not None and held.statuses[row] == OK and self._as_it_was(path, row):
                changes.known += 1
            elif (same := self._same(path, row)) is not None:
                self._take(path, stored, same)
                if row is not None and row != same:
                    changes.superseded.append(row)
            else:
                changes.new.append(path)
                changes.stored[path] = stored
                if row is not None:
                    changes.replaced[path] = row
                    if held.statuses[row] != OK:
                        changes.failed[path] = int(held.statuses[row])
        changes.gone = sorted(set(self._gone(folders)) - self._taken)

    def _as_it_was(self, path: bytes, row: int) -> bool:
        found = _stat(path)
        return found is not None and (found.st_size, found.st_mtime_ns) == (
            int(self._held.sizes[row]),
            int(self._held.times[row]),
        )

    def _same(self, path: bytes, row: int | None) -> int | None:
        """Return the row whose photo a file is: first that of its own name, then one that lost its file."""
        held, found = self._held, _stat(path)
        if found is None:
            return None
        rows = [] if row is None or not held.whole[row] or held.sizes[row] != found.st_size else [row]
        rows += [other for other in self._lost.get(found.st_size, []) if other != row and other not in self._taken]
        if not rows:
            return None
        digest = _digest(path)
        for other in rows:
            free = other == row or held.statuses[other] != OK or not self._exists(other)
            if free and held.digests[other].tobytes() == digest:
                return other
        return None

    def _take(self, path: bytes, stored: bytes, row: int) -> None:
        held, changes, found = self._held, self._changes, _stat(path)
        changes.known += 1
        self._taken.add(row)
        changes.moved += held.paths[row] != stored
        if held.statuses[row] != OK:
            changes.back.append(row)
        if found is not None:
            changes.same[row] = (stored, found.st_mtime_ns)

    @cached_property
    def _lost(self) -> dict[int, list[int]]:
        """Size in bytes -> rows with descriptors that no photo has by its name: one may have it by its content."""
        held = self._held
        found: dict[int, list[int]] = {}
        for row in np.flatnonzero(held.whole).tolist():
            if held.statuses[row] == REMOVED or held.paths[row] not in self._seen:
                found.setdefault(int(held.sizes[row]), []).append(row)
        return found

    def _gone(self, folders: Iterable[bytes]) -> Iterator[int]:
        held = self._held
        inside = [os.path.relpath(folder, self._root) for folder in folders if is_below(folder, self._root)]
        everything = b"." in inside
        prefixes = tuple(folder + b"/" for folder in inside)
        for path, row in held.rows.items():
            if (
                held.statuses[row] == OK
                and held.digests[row].any()  # an imported descriptor needs no photo
                and path not in self._seen
                and (everything or path.startswith(prefixes))
                and not self._exists(row)
            ):
                yield row

    def _exists(self, row: int) -> bool:
        return may_exist(os.path.join(self._root, self._held.paths[row]))  # noqa: PTH118  # bytes


def _stat(path: bytes) -> os.stat_result | None:
    try:
        found = os.stat(path)  # noqa: PTH116  # bytes
    except OSError:
        return None
    return found if stat.S_ISREG(found.st_mode) else None


def _digest(path: bytes) -> bytes | None:
    try:
        return read_digest(path, display(path)).digest
    except ImageError:
        return None
