"""`/images`: one row for every photo that was ever given, also for those that could not be read.

A row's place in the columns is its row number; its `id` is what the outside sees, ascending and never reused, so that
a compacted file may drop rows and keep ids. Every other group counts in rows.
"""

from __future__ import annotations

import struct
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import h5py
import numpy as np

from imgrank.arrays import Ids, offsets_of
from imgrank.bundle import layout
from imgrank.bundle.provenance import digest_of
from imgrank.bundle.table import ColumnView, append, append_ragged, create_columns, read_scattered
from imgrank.errors import DamagedBundleError
from imgrank.records import OK, STATUS_NAMES, ImageRecord

Statuses = np.ndarray[tuple[int], np.dtype[np.uint8]]
_TWICE = 17  # a status is stored in both halves of its byte, so that a flipped bit shows
_NUMBERS = struct.Struct("<5Q")
MAX_PATH = 2**16  # bytes
_RUN = 4096  # rows; changed ones that are nearer to each other are written together


def append_images(root: h5py.File, records: Sequence[ImageRecord], ids: Ids | None = None) -> Ids:
    """Add photos inside a transaction.

    Args:
        root: the bundle.
        records: the photos.
        ids: (n,) int64 that ascend, after those that are there; None gives them the next free ones.

    Returns:
        (n,) int64, their ids.
    """
    group = root[layout.IMAGES]
    first = int(group.attrs["next-id"])
    if ids is None:
        ids = np.arange(first, first + len(records), dtype=np.int64)
    append(group["id"], ids)
    append_ragged(group["path-offsets"], [len(record.path) for record in records])
    append(group["path-bytes"], np.frombuffer(b"".join(record.path for record in records), dtype=np.uint8))
    append(group["size"], [record.size for record in records])
    append(group["mtime-ns"], [record.mtime_ns for record in records])
    digests = np.frombuffer(b"".join(record.digest for record in records), dtype=np.uint8)
    append(group["digest"], digests.reshape(-1, 16))
    append(group["width"], [record.width for record in records])
    append(group["height"], [record.height for record in records])
    append(group["status"], [record.status * _TWICE for record in records])
    append(group["crc32"], [row_checksum(int(i), record) for i, record in zip(ids, records, strict=True)])
    if len(ids):
        group.attrs["next-id"] = np.uint64(ids[-1] + 1)
    return ids


def set_next_id(root: h5py.File, number: int) -> None:
    """Say which id the next photo gets, inside a transaction: ids of rows that are not here must not come again."""
    root[layout.IMAGES].attrs["next-id"] = np.uint64(number)


def mark_images(root: h5py.File, rows: Sequence[int], status: int) -> None:
    """Set the status of rows inside a transaction."""
    if len(rows):
        column = root[layout.IMAGES]["status"]
        statuses = column[:]
        changed = np.unique(np.asarray(rows, dtype=np.int64))
        statuses[changed] = status * _TWICE
        # Runs of rows, so that only their pages change.
        for run in np.split(changed, np.flatnonzero(np.diff(changed) > _RUN) + 1):
            column[run[0] : run[-1] + 1] = statuses[run[0] : run[-1] + 1]


def update_images(root: h5py.File, changes: Mapping[int, tuple[bytes, int]]) -> None:
    """Give rows other paths and modification times, inside a transaction: the photos are the same, their files moved.

    The columns of paths, times and checksums are written anew as a whole, about 30 bytes and a path for each row of the
    bundle; readers that opened it before keep the old ones.

    Args:
        root: the bundle.
        changes: row -> (path relative to the root, mtime in ns).
    """
    group = root[layout.IMAGES]
    offsets, raw = group["path-offsets"][:].astype(np.int64), group["path-bytes"][:].tobytes()
    paths = [raw[start:stop] for start, stop in pairwise(offsets.tolist())]
    times, checksums = group["mtime-ns"][:], group["crc32"][:]
    for row, (path, mtime_ns) in changes.items():
        paths[row], times[row] = path, mtime_ns
        image_id, size, width, height = (int(group[name][row]) for name in ("id", "size", "width", "height"))
        record = ImageRecord(path, size, mtime_ns, group["digest"][row].tobytes(), width, height, OK)
        checksums[row] = row_checksum(image_id, record)
    new = {
        "path-offsets": offsets_of([len(path) for path in paths]),
        "path-bytes": np.frombuffer(b"".join(paths), dtype=np.uint8),
        "mtime-ns": times,
        "crc32": checksums,
    }
    for name, values in new.items():
        del group[name]
        create_columns(group, [column for column in layout.IMAGE_COLUMNS if column.name == name])
        append(group[name], values)


def set_root(root: h5py.File, folder: bytes) -> None:
    """Say which folder the paths are relative to, inside a transaction.

    Args:
        root: the bundle.
        folder: relative to the bundle's own folder, or absolute.
    """
    root[layout.IMAGES].attrs["root"] = np.frombuffer(folder, dtype=np.uint8)


def stays_inside(path: bytes) -> bool:
    """Return whether a stored path cannot lead out of the root by its name."""
    return not path.startswith(b"/") and not (b".." in path and b".." in path.split(b"/")) and b"\0" not in path


def row_checksum(image_id: int, record: ImageRecord) -> int:
    """Return the CRC32 of one row: id, size, mtime-ns, width, height (little-endian), digest, path.

    The status is not in it: it is the one field that may change later.
    """
    numbers = _NUMBERS.pack(image_id, record.size, record.mtime_ns & (2**64 - 1), record.width, record.height)
    return zlib.crc32(record.path, zlib.crc32(record.digest, zlib.crc32(numbers)))


@dataclass(frozen=True, eq=False)
class ImageTable:
    """`/images` of a frozen bundle."""

    path: Path  # of the bundle
    root: bytes  # as stored: relative to the bundle's folder, or absolute
    next_id: int  # what the next photo gets
    columns: dict[str, ColumnView]
    version: int = layout.IMAGES_VERSION

    def __len__(self) -> int:
        """Return the number of rows, those of unreadable photos included."""
        return len(self.columns["id"])

    def ids(self) -> Ids:
        """Return (n,) int64 ids, strictly ascending."""
        ids = self.columns["id"].read().astype(np.int64)
        if len(ids) and (ids[0] < 0 or np.any(np.diff(ids) <= 0)):
            raise DamagedBundleError(self.path, "/images/id", "ids do not ascend")
        return ids

    def statuses(self) -> Statuses:
        """Return (n,) uint8, indices into `imgrank.records.STATUS_NAMES`."""
        statuses = self._status_of(self.columns["status"].read())
        if len(statuses) and statuses.max() >= len(STATUS_NAMES):
            raise DamagedBundleError(self.path, "/images/status", f"unknown status {statuses.max()}")
        return statuses

    def _status_of(
        self, stored: np.ndarray[tuple[int], np.dtype[np.uint8]]
    ) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
        if self.version < 2:
            return stored
        if (stored % _TWICE).any():
            raise DamagedBundleError(self.path, "/images/status", "a status is damaged; run `imgrank check --repair`")
        return stored // _TWICE

    def record(self, row: int) -> ImageRecord:
        """Read one row and check its CRC32."""
        return self.records(np.array([row]))[0]

    def records(self, rows: Ids) -> list[ImageRecord]:
        """Read scattered rows, (n,) int64, and check the CRC32 of each.

        Raises:
            DamagedBundleError: one does not match.
        """
        found = []
        for row, record in zip(rows.tolist(), self.intact_records(rows), strict=True):
            if record is None:
                raise DamagedBundleError(
                    self.path, f"/images row {row}", "its checksum does not match; the file was damaged"
                )
            found.append(record)
        return found

    def intact_records(self, rows: Ids) -> Iterator[ImageRecord | None]:
        """Yield the record of each row, (n,) int64; None for one that does not match its checksum."""
        starts, stops = (
            read_scattered(self.columns["path-offsets"], rows + k, rows + k + 1).astype(np.int64) for k in (0, 1)
        )
        lost = (starts < 0) | (stops < starts) | (stops > len(self.columns["path-bytes"])) | (stops - starts > MAX_PATH)
        starts[lost] = stops[lost] = 0
        raw = read_scattered(self.columns["path-bytes"], starts, stops).tobytes()
        ends = np.cumsum(stops - starts).tolist()
        names = ("id", "size", "mtime-ns", "width", "height", "status", "crc32")
        numbers = [read_scattered(self.columns[name], rows, rows + 1).tolist() for name in names]
        digests = read_scattered(self.columns["digest"], rows, rows + 1)
        for place, (image_id, size, mtime, width, height, stored, checksum) in enumerate(zip(*numbers, strict=True)):
            path = raw[ends[place - 1] if place else 0 : ends[place]]
            status, rest = (stored, 0) if self.version < 2 else divmod(stored, _TWICE)
            record = ImageRecord(path, size, mtime, digests[place].tobytes(), width, height, status)
            whole = not lost[place] and not rest and status < len(STATUS_NAMES) and stays_inside(path)
            yield record if whole and row_checksum(image_id, record) == checksum else None

    def paths(self, start: int = 0, stop: int | None = None) -> list[bytes]:
        """Return the paths of rows [start, stop), relative to the root, in row order."""
        stop = len(self) if stop is None else stop
        if start >= stop:
            return []
        total = len(self.columns["path-bytes"])
        offsets = self.columns["path-offsets"].read(start, stop + 1)
        first, last = int(offsets[0]), int(offsets[-1])
        ends = (start == 0 and first != 0) or (stop == len(self) and last != total)
        if ends or last > total or np.any(offsets[1:] < offsets[:-1]):
            raise DamagedBundleError(self.path, "/images/path-offsets", "does not ascend over path-bytes")
        raw = self.columns["path-bytes"].read(first, last).tobytes()
        paths = [raw[a:b] for a, b in pairwise((offsets - offsets[0]).tolist())]
        outside = next((path for path in paths if not stays_inside(path)), None)
        if outside is not None:
            raise DamagedBundleError(self.path, "/images/path-bytes", f"the path {outside[:80]!r} leaves the root")
        return paths

    def content_digest(self, rows: int) -> str:
        """Return the digest of what the first `rows` photos are: ids and content digests, not names or times."""
        ids = self.columns["id"].read(0, rows)
        return digest_of([ids.tobytes(), self.columns["digest"].read(0, rows).tobytes()])
