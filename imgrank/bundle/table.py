"""Columns: appending rows to them inside a transaction, and reading rows of a frozen file without HDF5.

A reader learns at opening time where each chunk of a column lies in the file (`ColumnView`); after that every read is
a `pread`. So it holds no HDF5 state that a concurrent writer could pull away, and many threads can read at once.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from imgrank.bundle.layout import Column
from imgrank.bundle.storage import ReadFile
from imgrank.errors import DamagedBundleError


def create_columns(group: h5py.Group, columns: Iterable[Column]) -> None:
    """Make empty datasets for `columns` in a group."""
    for column in columns:
        rows, _ = _chunk(column)
        group.create_dataset(
            column.name,
            shape=(0, *column.tail),
            maxshape=(None, *column.tail),
            chunks=(rows, *column.tail),
            dtype=column.dtype,
        )


def allocation(column: Column, rows: int) -> int:
    """Return the bytes that a column of so many rows takes in a file."""
    chunk_rows, row_bytes = _chunk(column)
    return -(-rows // chunk_rows) * chunk_rows * row_bytes


def _chunk(column: Column) -> tuple[int, int]:
    """Return the rows of a chunk, and the bytes of a row."""
    row_bytes = np.dtype(column.dtype).itemsize * int(np.prod(column.tail, dtype=np.int64))
    return max(1, column.chunk_bytes // row_bytes), row_bytes


def append(dataset: h5py.Dataset, rows: npt.ArrayLike) -> None:
    """Add rows at the end of a column."""
    values = np.asarray(rows, dtype=dataset.dtype)
    start = dataset.shape[0]
    dataset.resize(start + len(values), axis=0)
    if len(values):
        dataset[start:] = values


def append_ragged(offsets: h5py.Dataset, lengths: npt.ArrayLike) -> None:
    """Add the ends of new ragged rows to an offsets column, which begins with a row of 0."""
    last = int(offsets[-1])
    append(offsets, last + np.cumsum(np.asarray(lengths, dtype=np.uint64), dtype=np.uint64))


@dataclass(frozen=True, eq=False)
class ColumnView:
    """Where a column's rows lie in a frozen file."""

    file: ReadFile
    name: str  # HDF5 path, for messages
    dtype: np.dtype[Any]
    shape: tuple[int, ...]
    chunk_rows: int
    starts: npt.NDArray[np.uint64]  # (n_chunks,) byte offset of each chunk in the file

    def __len__(self) -> int:
        """Return the number of rows."""
        return self.shape[0]

    @property
    def row_bytes(self) -> int:
        """Return the bytes of one row."""
        return self.dtype.itemsize * int(np.prod(self.shape[1:], dtype=np.int64))

    @property
    def allocated(self) -> int:
        """Return the bytes that its chunks take in the file."""
        return len(self.starts) * self.chunk_rows * self.row_bytes

    def read(self, start: int = 0, stop: int | None = None) -> npt.NDArray[Any]:
        """Read rows [start, stop).

        Raises:
            DamagedBundleError: the range is not in the column, or the file ends before it.
        """
        stop = len(self) if stop is None else stop
        if not 0 <= start <= stop <= len(self):
            raise DamagedBundleError(
                self.file.path, self.name, f"rows {start}:{stop} asked of a column with {len(self)}"
            )
        rows = np.empty((stop - start, *self.shape[1:]), dtype=self.dtype)
        target = rows.reshape(-1).view(np.uint8).data
        done = 0
        for offset, count in self.extents(start, stop):
            if self.file.read_at(target[done : done + count], offset) != count:
                raise DamagedBundleError(self.file.path, self.name, f"the file ends inside rows {start}:{stop}")
            done += count
        return rows

    def extents(self, start: int, stop: int) -> Iterator[tuple[int, int]]:
        """Give the byte ranges (offset in the file, count) of rows [start, stop), neighbouring chunks joined."""
        size = self.row_bytes
        pending: tuple[int, int] | None = None
        row = start
        while row < stop:
            chunk, inside = divmod(row, self.chunk_rows)
            rows = min(self.chunk_rows - inside, stop - row)
            offset, count = int(self.starts[chunk]) + inside * size, rows * size
            if pending is not None and pending[0] + pending[1] == offset:
                pending = (pending[0], pending[1] + count)
            else:
                if pending is not None:
                    yield pending
                pending = (offset, count)
            row += rows
        if pending is not None:
            yield pending


def read_scattered(view: ColumnView, starts: npt.NDArray[np.int64], stops: npt.NDArray[np.int64]) -> npt.NDArray[Any]:
    """Read row ranges of a column one after the other into one array.

    Args:
        view: the column.
        starts: (n,) int64, first row of each range.
        stops: (n,) int64, row after its last; not before the first, and not after the column's last.

    Raises:
        DamagedBundleError: the file ends before a range does.
    """
    size, each = view.row_bytes, view.chunk_rows
    rows = np.empty((int((stops - starts).sum()), *view.shape[1:]), dtype=view.dtype)
    if not len(rows):
        return rows
    # Cut the ranges at the ends of chunks, then join what lies side by side in the file: it does so in the array.
    first = starts // each
    pieces = np.where(stops > starts, (stops - 1) // each - first + 1, 0)
    owner = np.repeat(np.arange(len(starts)), pieces)
    chunk = first[owner] + np.arange(len(owner)) - np.repeat(np.cumsum(pieces) - pieces, pieces)
    begin, end = np.maximum(starts[owner], chunk * each), np.minimum(stops[owner], (chunk + 1) * each)
    offsets = view.starts[chunk].astype(np.int64) + (begin - chunk * each) * size
    counts = (end - begin) * size
    new = np.concatenate([[True], offsets[1:] != offsets[:-1] + counts[:-1]])
    bounds = np.concatenate([(np.cumsum(counts) - counts)[new], [counts.sum()]])
    if not view.file.read_ranges(rows.reshape(-1).view(np.uint8).data, bounds.tolist(), offsets[new].tolist()):
        raise DamagedBundleError(view.file.path, view.name, "the file ends inside its rows")
    return rows


def child_of(path: Path, group: h5py.Group, name: str) -> Any:
    """Return the object of a name in a group, None where there is none.

    Raises:
        DamagedBundleError: the name is a soft or external link; it is not followed, not even to look.
    """
    link = group.get(name, getlink=True)
    if link is None:
        return None
    if not isinstance(link, h5py.HardLink):
        raise DamagedBundleError(path, f"{group.name.rstrip('/')}/{name}", "is a link that leads elsewhere")
    return group.get(name)


def view_column(file: ReadFile, group: h5py.Group, column: Column) -> ColumnView:
    """Check one dataset against its description and learn where its rows are.

    Raises:
        DamagedBundleError: missing, of another type or shape, filtered, or with chunks outside the file.
    """
    name = f"{group.name}/{column.name}"

    def damaged(reason: str) -> DamagedBundleError:
        return DamagedBundleError(file.path, name, f"{reason}; run `imgrank index` on the photos again")

    dataset = child_of(file.path, group, column.name)
    if not isinstance(dataset, h5py.Dataset):
        raise damaged("missing")
    if dataset.dtype != np.dtype(column.dtype):
        raise damaged(f"has type {dataset.dtype}, should be {np.dtype(column.dtype)}")
    if dataset.ndim != 1 + len(column.tail) or dataset.shape[1:] != column.tail:
        raise damaged(f"has shape {dataset.shape}, should be (n, {', '.join(map(str, column.tail))})")
    properties = dataset.id.get_create_plist()
    if properties.get_nfilters() or dataset.chunks is None or dataset.is_virtual or dataset.external:
        raise damaged("is not plain chunked data")
    if dataset.chunks[1:] != column.tail:
        raise damaged(f"has chunks of shape {dataset.chunks}")
    rows, chunk_rows = dataset.shape[0], dataset.chunks[0]
    chunks = -(-rows // chunk_rows)
    chunk_bytes = chunk_rows * dataset.dtype.itemsize * int(np.prod(column.tail, dtype=np.int64))
    size = file.seek(0, 2)
    # Chunks do not overlap: a column that claims more than the file has is refused before anything is allocated.
    if chunks * chunk_bytes > size:
        raise damaged(f"claims {rows} rows")
    starts = np.zeros(chunks, dtype=np.uint64)
    found = np.zeros(chunks, dtype=bool)

    def note(info: Any) -> None:
        chunk = info.chunk_offset[0] // chunk_rows
        if chunk < chunks:
            starts[chunk], found[chunk] = info.byte_offset, True

    if chunks:
        dataset.id.chunk_iter(note)
    if not found.all() or (chunks and int(starts.max()) + chunk_bytes > size):
        raise damaged("has chunks that are not in the file")
    return ColumnView(file, name, dataset.dtype, dataset.shape, chunk_rows, starts)


def view_columns(file: ReadFile, group: h5py.Group, columns: Iterable[Column]) -> dict[str, ColumnView]:
    """Check and locate several columns; see `view_column`."""
    return {column.name: view_column(file, group, column) for column in columns}


def same_length(file: ReadFile, group: str, views: Mapping[str, ColumnView], rows: int) -> None:
    """Require that every column has `rows` rows.

    Raises:
        DamagedBundleError: one has not.
    """
    for name, view in views.items():
        if len(view) != rows:
            raise DamagedBundleError(file.path, f"/{group}/{name}", f"has {len(view)} rows, should have {rows}")
