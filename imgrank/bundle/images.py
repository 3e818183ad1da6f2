"""`/images`: one row for every photo that was ever given, also for those that could not be read.

A row's place in the columns is its row number; its `id` is what the outside sees, ascending and never reused, so that
a compacted file may drop rows and keep ids. Every other group counts in rows.
"""

from __future__ import annotations

import itertools
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np

from imgrank.arrays import Ids
from imgrank.bundle import layout
from imgrank.bundle.provenance import digest_of
from imgrank.bundle.table import ColumnView, append, append_ragged
from imgrank.errors import DamagedBundleError
from imgrank.records import STATUS_NAMES, ImageRecord


def append_images(root: h5py.File, records: Sequence[ImageRecord]) -> Ids:
    """Add photos inside a transaction.

    Returns:
        (n,) int64, the ids they got.
    """
    group = root[layout.IMAGES]
    first = int(group.attrs["next-id"])
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
    append(group["status"], [record.status for record in records])
    append(group["crc32"], [row_checksum(int(i), record) for i, record in zip(ids, records, strict=True)])
    group.attrs["next-id"] = first + len(records)
    return ids


def mark_images(root: h5py.File, rows: Sequence[int], status: int) -> None:
    """Set the status of rows inside a transaction."""
    for row in rows:
        root[layout.IMAGES]["status"][row] = status


def row_checksum(image_id: int, record: ImageRecord) -> int:
    """Return the CRC32 of one row: id, size, mtime-ns, width, height (little-endian), digest, path.

    The status is not in it: it is the one field that may change later.
    """
    numbers = np.array([image_id, record.size, record.mtime_ns & (2**64 - 1), record.width, record.height], "<u8")
    return zlib.crc32(record.path, zlib.crc32(record.digest, zlib.crc32(numbers.tobytes())))


@dataclass(frozen=True, eq=False)
class ImageTable:
    """`/images` of a frozen bundle."""

    path: Path  # of the bundle
    root: bytes  # as stored: relative to the bundle's folder, or absolute
    columns: dict[str, ColumnView]

    def __len__(self) -> int:
        """Return the number of rows, those of unreadable photos included."""
        return len(self.columns["id"])

    def ids(self) -> Ids:
        """Return (n,) int64 ids, strictly ascending."""
        ids = self.columns["id"].read().astype(np.int64)
        if len(ids) and (ids[0] < 0 or np.any(np.diff(ids) <= 0)):
            raise DamagedBundleError(self.path, "/images/id", "ids do not ascend")
        return ids

    def statuses(self) -> np.ndarray[tuple[int], np.dtype[np.uint8]]:
        """Return (n,) uint8, indices into `imgrank.records.STATUS_NAMES`."""
        statuses = self.columns["status"].read()
        if len(statuses) and statuses.max() >= len(STATUS_NAMES):
            raise DamagedBundleError(self.path, "/images/status", f"unknown status {statuses.max()}")
        return statuses

    def record(self, row: int) -> ImageRecord:
        """Read one row and check its CRC32."""
        start, stop = (int(x) for x in self.columns["path-offsets"].read(row, row + 2))
        if stop < start:
            raise DamagedBundleError(self.path, "/images/path-offsets", f"row {row} ends before it begins")
        fields = {
            name: self.columns[name].read(row, row + 1)[0]
            for name in ("id", "size", "mtime-ns", "width", "height", "status", "digest", "crc32")
        }
        record = ImageRecord(
            path=self.columns["path-bytes"].read(start, stop).tobytes(),
            size=int(fields["size"]),
            mtime_ns=int(fields["mtime-ns"]),
            digest=fields["digest"].tobytes(),
            width=int(fields["width"]),
            height=int(fields["height"]),
            status=int(fields["status"]),
        )
        if row_checksum(int(fields["id"]), record) != int(fields["crc32"]):
            raise DamagedBundleError(
                self.path, f"/images row {row}", "its checksum does not match; the file was damaged"
            )
        return record

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
        bounds = (offsets - offsets[0]).tolist()
        return [raw[a:b] for a, b in itertools.pairwise(bounds)]

    def content_digest(self, rows: int) -> str:
        """Return the digest of what the first `rows` photos are: ids and content digests, not names or times."""
        ids = self.columns["id"].read(0, rows)
        return digest_of([ids.tobytes(), self.columns["digest"].read(0, rows).tobytes()])
