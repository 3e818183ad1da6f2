"""Files with descriptors that can be imported: which layout one has, and the names of its rows."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from imgrank.arrays import Floats
from imgrank.bundle.file import is_hdf5
from imgrank.bundle.foreign import ForeignDescriptors, check_size, open_foreign
from imgrank.errors import InputError, SettingsError
from imgrank.images.scan import MAX_PATH_BYTES, display, read_path_list
from imgrank.results import from_tsv_field
from imgrank.steps.export_descriptors import LIST_HEADER, list_beside

_EXACT = 1e-6  # how far from 1 the length of a unit vector in float32 may be
_LAYOUTS = "the HDF5 files of ILIAS and hloc, and numpy's .npy with a list of paths (docs/exchange.md)"


@contextlib.contextmanager
def open_source(path: Path, listing: Path | None, *, nul: bool = False) -> Iterator[ForeignDescriptors]:
    """Open a file with descriptors; its content tells which layout it has.

    Args:
        path: HDF5, or .npy.
        listing: the paths of the rows of a .npy; None takes the list that `imgrank export` writes beside it.
        nul: whether paths on the list end with NUL instead of newline.

    Raises:
        InputError: the file cannot be read, or has no layout that can be imported.
        SettingsError: a list is given and not needed, or the other way round.
    """
    if not path.is_file():
        raise InputError(f"{path}: no such file; check the spelling")
    with path.open("rb") as file:
        begin = file.read(8)
    if is_hdf5(path):
        if listing is not None:
            raise SettingsError(f"{path} holds the names of its images; leave --paths out")
        with open_foreign(path) as source:
            yield source
    elif begin.startswith(b"\x93NUMPY"):
        if listing is None:
            listing = list_beside(path)
            if not listing.is_file():
                raise SettingsError(f"{path} holds no names; give the path of each row: --paths LIST, one a line")
        yield NpyFile(path, listing, nul=nul)
    else:
        what = "a zip archive, perhaps .npz: save its array as .npy" if begin.startswith(b"PK") else "of another kind"
        raise InputError(f"{path}: {what}; what can be imported: {_LAYOUTS}")


class NpyFile:
    """A numpy file (n, dim), and the list of the paths of its rows.

    Args:
        path: the .npy file; arrays of Python objects are never unpickled.
        listing: one path a line; or the list that `imgrank export` wrote, which its first line tells.
        nul: whether paths end with NUL instead of newline.

    Raises:
        InputError: not numbers of two axes, or cut.
    """

    layout = "npy"

    def __init__(self, path: Path, listing: Path, *, nul: bool = False) -> None:
        self._path, self._list, self._nul = path, listing, nul
        try:
            mapped = np.lib.format.open_memmap(path, mode="r")
        except (ValueError, OSError, OverflowError, SyntaxError, TypeError) as error:
            raise InputError(f"{path}: not a readable .npy of numbers ({error}); save it again") from error
        if mapped.ndim != 2 or mapped.dtype.kind not in "fiu":
            raise InputError(f"{path}: holds {mapped.dtype} {mapped.shape}; expected numbers (n, dim)")
        self.rows, self.dim = mapped.shape
        check_size(path, self.rows, self.dim)
        self._dtype = mapped.dtype
        # Rows that lie one after the other are read, not mapped: mapped pages would fill memory as they are touched.
        self._offset: int = mapped.offset
        self._mapped = None if mapped.flags.c_contiguous else mapped

    def names(self) -> Iterator[bytes]:
        """Yield the paths of the list."""
        if not self._list.is_file():
            raise InputError(f"{self._list}: no such file; it should have the path of each row, one a line")
        with self._list.open("rb") as file:
            if not self._nul and file.readline(len(LIST_HEADER)) == LIST_HEADER:
                for number, line in enumerate(iter(lambda: file.readline(2 * MAX_PATH_BYTES), b""), 2):
                    fields = line.rstrip(b"\n").split(b"\t")
                    if len(fields) != 2:
                        raise InputError(f"{self._list}, line {number}: expected an id, a tab and a path")
                    yield from_tsv_field(fields[1])
                return
            file.seek(0)
            yield from read_path_list(file, nul=self._nul)

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Read rows of the array."""
        if self._mapped is not None:
            return np.array(self._mapped[start:stop])
        count = (stop - start) * self.dim
        offset = self._offset + start * self.dim * self._dtype.itemsize
        block = np.fromfile(self._path, dtype=self._dtype, count=count, offset=offset)
        if len(block) != count:
            raise InputError(f"{self._path}: became shorter while it was read")
        return block.reshape(stop - start, self.dim)


def row_name(name: bytes) -> str:
    """Return the name of a row for messages."""
    return display(name) or "(an empty name)"


def unit_rows_of(
    source: Path, rows: npt.NDArray[Any], names: Sequence[bytes]
) -> tuple[Floats, npt.NDArray[np.float64]]:
    """Return (n, dim) float32 unit rows, and the (n,) lengths that they had.

    Raises:
        InputError: a row is not finite, or has no direction.
    """
    wide = rows.astype(np.float64)
    with np.errstate(over="ignore", invalid="ignore"):
        lengths = np.linalg.norm(wide, axis=1)
    if not np.isfinite(lengths).all():
        place = int(np.flatnonzero(~np.isfinite(lengths))[0])
        raise InputError(f"{source}: the descriptor of {display(names[place])} holds NaN or infinity; compute it again")
    if not (lengths > 0).all():
        place = int(np.flatnonzero(lengths == 0)[0])
        raise InputError(
            f"{source}: the descriptor of {display(names[place])} is all zeros; compute it again, or take it out"
        )
    # Unit rows in float32 stay as they are, so that an export that comes back has the same bits.
    scale = np.where(np.abs(lengths - 1) <= _EXACT, 1.0, lengths)
    return (wide / scale[:, None]).astype(np.float32), lengths
