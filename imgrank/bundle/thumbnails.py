"""`/thumbnails`: a small picture of each photo, ragged, as JPEG files under a CRC32 each.

This module does not decode them.
"""

from __future__ import annotations

import struct
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from imgrank.arrays import crc32_of_bytes
from imgrank.bundle import layout
from imgrank.bundle.provenance import Provenance, write_provenance
from imgrank.bundle.table import ColumnView, append, append_ragged, create_columns, read_scattered
from imgrank.errors import DamagedBundleError
from imgrank.records import Thumbnail

_SIZE = struct.Struct("<2H")  # width, height
_NONE = Thumbnail(b"", 0, 0)  # how a row without one is stored


def create_thumbnails(root: h5py.File, provenance: Provenance) -> None:
    """Make an empty `/thumbnails`, inside a transaction."""
    group = root.create_group(layout.THUMBNAILS)
    create_columns(group, layout.THUMBNAIL_COLUMNS)
    append(group["offsets"], [0])
    write_provenance(group, layout.THUMBNAILS_VERSION, provenance)


def drop_thumbnails(root: h5py.File) -> None:
    """Take `/thumbnails` out, inside a transaction."""
    del root[layout.THUMBNAILS]


def thumbnail_rows(root: h5py.File) -> int | None:
    """Return how many image rows have their place in `/thumbnails`, inside a transaction; None where there is none."""
    group = root.get(layout.THUMBNAILS)
    return None if group is None else int(group["crc32"].shape[0])


def append_thumbnails(root: h5py.File, thumbnails: Sequence[Thumbnail | None]) -> None:
    """Add the thumbnails of the next image rows, inside a transaction; None for a photo that gave none."""
    group = root[layout.THUMBNAILS]
    stored = [_NONE if one is None else one for one in thumbnails]
    append_ragged(group["offsets"], [len(one.data) for one in stored])
    append(group["bytes"], np.frombuffer(b"".join(one.data for one in stored), dtype=np.uint8))
    append(group["width"], [one.width for one in stored])
    append(group["height"], [one.height for one in stored])
    append(group["crc32"], [thumbnail_checksum(one) for one in stored])


def thumbnail_checksum(thumbnail: Thumbnail) -> int:
    """Return the CRC32 of a row: width and height as two little-endian 16-bit integers, then the bytes."""
    return crc32_of_bytes(thumbnail.data, crc32_of_bytes(_SIZE.pack(thumbnail.width, thumbnail.height)))


@dataclass(frozen=True, eq=False)
class ThumbnailTable:
    """`/thumbnails` of a frozen bundle."""

    path: Path
    provenance: Provenance
    columns: dict[str, ColumnView]

    def __len__(self) -> int:
        """Return the number of image rows that have their place, also those without a thumbnail."""
        return len(self.columns["crc32"])

    def read(self, rows: Sequence[int], damaged: list[int] | None = None) -> list[Thumbnail | None]:
        """Read the thumbnails of image rows, in the order asked for.

        Args:
            rows: image rows; one that is not there yet, or whose photo gave none, has no thumbnail.
            damaged: takes the rows that do not match their checksums, which then have none; None raises at the first.

        Raises:
            DamagedBundleError: a checksum does not match.
        """
        wanted: npt.NDArray[np.int64] = np.asarray(rows, dtype=np.int64)
        found: list[Thumbnail | None] = [None] * len(wanted)
        places = np.flatnonzero((wanted >= 0) & (wanted < len(self)))
        inside = wanted[places]
        starts, stops = (self._scattered("offsets", inside + k).astype(np.int64) for k in (0, 1))
        # Looked at before anything is allocated: offsets are under no checksum of their own.
        total = len(self.columns["bytes"])
        lost = (starts < 0) | (stops < starts) | (stops > total) | (stops - starts > layout.MAX_THUMBNAIL)
        facts = zip(*(self._scattered(name, inside).tolist() for name in ("width", "height", "crc32")), strict=True)
        for place, start, stop, gone, (width, height, checksum) in zip(
            places.tolist(), starts.tolist(), stops.tolist(), lost.tolist(), facts, strict=True
        ):
            data = b"" if gone else self.columns["bytes"].read(start, stop).tobytes()
            one = Thumbnail(data, width, height)
            if not gone and thumbnail_checksum(one) == checksum:
                found[place] = one if data else None
            elif damaged is not None:
                damaged.append(int(wanted[place]))
            else:
                raise DamagedBundleError(
                    self.path, f"/{layout.THUMBNAILS}, image row {wanted[place]}", "its checksum does not match; the "
                    "file was damaged: restore a copy, or see `imgrank check`"
                )  # fmt: skip
        return found

    def _scattered(self, name: str, rows: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
        return read_scattered(self.columns[name], rows, rows + 1)
