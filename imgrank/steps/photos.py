"""Photos of a bundle by row or by name: where they lie, and their pixels."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from types import TracebackType
from typing import Self

import numpy as np
import numpy.typing as npt

from imgrank.arrays import Ids, Pixels
from imgrank.bundle import file
from imgrank.config import DecodeSettings, ThumbnailSettings
from imgrank.errors import ImageError, InputError
from imgrank.images.decode import LoadedPhoto, decode
from imgrank.images.load import load
from imgrank.images.scan import display
from imgrank.records import OK, STATUS_NAMES, status_of
from imgrank.steps.paths import openable

REMOVED = status_of("removed")


class BundlePhotos:
    """The photos that a bundle lists.

    Args:
        bundle: an open bundle.
        settings: limits for decoding.
        root: folder the stored paths are relative to; None takes the one the bundle states.
    """

    def __init__(self, bundle: file.Bundle, settings: DecodeSettings, root: bytes | None = None) -> None:
        self.bundle, self.settings = bundle, settings
        self.root = bundle.root if root is None else os.path.abspath(root)  # noqa: PTH100  # bytes

    def __len__(self) -> int:
        """Return how many rows there are."""
        return len(self.bundle.images)

    @cached_property
    def statuses(self) -> npt.NDArray[np.uint8]:
        """Return (n,) uint8, what became of each photo: indices into `imgrank.records.STATUS_NAMES`."""
        return self.bundle.images.statuses()

    def usable(self, start: int = 0) -> Ids:
        """Return the rows from `start` on whose photos could be read when they were embedded."""
        found: Ids = start + np.flatnonzero(self.statuses[start:] == OK)
        return found

    @cached_property
    def ids(self) -> Ids:
        """Return (n,) int64 ids by row."""
        return self.bundle.images.ids()

    @cached_property
    def digests(self) -> npt.NDArray[np.uint8]:
        """Return (n, 16) uint8, the digest of each photo's content."""
        digests: npt.NDArray[np.uint8] = self.bundle.images.columns["digest"].read()
        return digests

    @cached_property
    def digest_words(self) -> npt.NDArray[np.uint64]:
        """Return (n, 2) uint64, the same digests in a form that compares fast."""
        words: npt.NDArray[np.uint64] = np.ascontiguousarray(self.digests).view(np.uint64)
        return words

    def path(self, row: int) -> bytes:
        """Return a path that opens from the working directory."""
        return self.paths(np.array([row], dtype=np.int64))[0]

    def paths(self, rows: Ids) -> list[bytes]:
        """Return a path for each of some rows; many at once cost little more than one."""
        return openable((record.path for record in self.bundle.images.records(rows)), self.root)

    def check_there(self, rows: Ids) -> None:
        """Look for the first hundred photos.

        Raises:
            InputError: not one of them is there.
        """
        files = [self.location(row) for row in rows[:100].tolist()]
        if files and not any(map(os.path.exists, files)):
            raise InputError(
                f"{display(files[0])} and others are not there; if the photos moved, give --root with their folder"
            )

    def load(self, rows: Ids, longer_side: int, thumbnail: ThumbnailSettings | None = None) -> Iterator[LoadedPhoto]:
        """Read photos, in order; one that is not the photo that was embedded is a failure, with status "changed".

        A photo whose descriptor was imported without it has no digest to differ from.
        """
        paths = [self.location(row) for row in rows.tolist()]
        loaded = load(paths, self.settings, longer_side=longer_side, thumbnail=thumbnail)
        for item, digest in zip(loaded, self.digests[rows], strict=True):
            if item.photo is not None and digest.any() and item.record.digest != digest.tobytes():
                reason = "is not the photo that was embedded; run `imgrank embed` on it again"
                error = ImageError(display(item.record.path), "changed", reason)
                yield LoadedPhoto(replace(item.record, status=STATUS_NAMES.index("changed")), None, error)
            else:
                yield item

    def stored(self, path: bytes) -> bytes:
        """Return what a path that leads to a photo or a folder is relative to the root."""
        folder, last = os.path.split(os.path.abspath(path))  # noqa: PTH100
        real = os.path.join(os.path.realpath(folder), last)  # noqa: PTH118
        return os.path.relpath(real, self.real_root)

    def row_of_id(self, image_id: int) -> int:
        """Return the row of an id.

        Raises:
            InputError: no photo of the bundle has it.
        """
        row = int(np.searchsorted(self.ids, image_id))
        if row >= len(self.ids) or self.ids[row] != image_id:
            raise InputError(f"{self.bundle.path} has no photo with id {image_id}; are these hits of another bundle?")
        return row

    def row_of_name(self, name: bytes) -> int:
        """Return the row of a photo that a run names: by its stored path, or by a path that leads to it.

        Raises:
            InputError: no photo of the bundle is called that.
        """
        row = self.find(name)
        if row is None:
            raise InputError(f"{self.bundle.path} has no photo called {display(name)}")
        return row

    def find(self, name: bytes) -> int | None:
        """Return the row of a photo by its stored path, else by a path that leads to it; None where there is none."""
        row = self.row_stored_as(name)
        return self.row_lying_at(name) if row is None else row

    def rows_like(self, path: bytes, digest: bytes) -> Ids:
        """Return the rows of a photo: those that lie at a path, and those of a content; zeros are of none."""
        lying = self.row_lying_at(path)
        found = [] if lying is None else [lying]
        if any(digest):
            found += np.flatnonzero((self.digest_words == np.frombuffer(digest, np.uint64)).all(axis=1)).tolist()
        return np.unique(np.array(found, dtype=np.int64))

    def row_stored_as(self, name: bytes) -> int | None:
        """Return the row whose path below the root is `name`; None where there is none."""
        return self.rows_by_path.get(name)

    def row_lying_at(self, path: bytes) -> int | None:
        """Return the row of the photo that a path leads to, from the working directory; None where there is none."""
        return self.rows_by_path.get(self.stored(path))

    def absolute_path(self, row: int) -> bytes:
        """Return where the photo of a row lies: one text for one photo, whatever bundle lists it."""
        return os.path.normpath(os.path.join(self.real_root, self.stored_paths[row]))  # noqa: PTH118

    @cached_property
    def real_root(self) -> bytes:
        """Return the root without links."""
        return os.path.realpath(self.root)

    @cached_property
    def stored_paths(self) -> list[bytes]:
        """Return the path of each row, relative to the root."""
        return self.bundle.images.paths()

    @cached_property
    def rows_by_path(self) -> dict[bytes, int]:
        """Return the row of each stored path."""
        # A photo that was changed has several rows, of which one at most is live.
        order = np.argsort(self.statuses != REMOVED, kind="stable")
        return {self.stored_paths[row]: row for row in order.tolist()}

    def location(self, row: int) -> bytes:
        """Return the absolute path of a photo."""
        return os.path.join(self.root, self.stored_paths[row])  # noqa: PTH118  # bytes

    def pixels(self, row: int, longer_side: int | None) -> Pixels:
        """Decode the photo of a row.

        Raises:
            InputError: the photo is gone or cannot be read; the message says how to do without it.
        """
        record = self.bundle.images.record(row)
        path = os.path.join(self.root, record.path)  # noqa: PTH118
        try:
            return decode(path, self.settings, longer_side=longer_side).pixels
        except ImageError as error:
            raise InputError(
                f"{error}; re-ranking needs the photos, or tokens cached while they were there "
                f"(`imgrank cache-tokens {self.bundle.path}`); if the folder moved, give --root"
            ) from error

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the bundle."""
        self.bundle.close()


def open_photos(bundle: Path, decode_settings: DecodeSettings | None = None, root: Path | None = None) -> BundlePhotos:
    """Open a bundle and what it says of its photos.

    Args:
        bundle: the file.
        decode_settings: limits and workers.
        root: folder of the photos, where it is not the one the bundle states.
    """
    folder = None if root is None else os.fsencode(root)
    return BundlePhotos(file.read(bundle), decode_settings or DecodeSettings(), folder)
