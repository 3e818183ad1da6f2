"""HDF5 files with global descriptors that other programs wrote: what lies where, read in blocks, trusting nothing.

Two layouts are known:

- `ilias`: datasets `features` (n, dim) and `index` (n,), the names of the images, as the feature extraction of ILIAS
  stores them (https://github.com/ilias-vrg/ilias, feature_extraction/extract.py);
- `hloc`: a group for each image, under its name, with a dataset `global_descriptor` (dim,); a name with slashes is
  nested groups (https://github.com/cvg/Hierarchical-Localization, hloc/extract_features.py).

Links that lead elsewhere, data in other files, types that are neither numbers nor text, and shapes that the file has
no bytes for are refused before anything is allocated.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Protocol

import h5py
import numpy as np
import numpy.typing as npt

from imgrank.bundle import layout
from imgrank.errors import InputError

MAX_NAME = 1 << 16  # bytes of an image's name
_CACHE = 128 * 2**20  # bytes of unpacked chunks kept by HDF5: a chunk often holds parts of more rows than one block
_LARGEST_CHUNK = 2**30  # bytes that one chunk may unpack to
_RATIO = 1100  # bytes that one stored byte may unpack to; deflate reaches 1032
_NAMES_AT_ONCE = 4096
_NAME_MEMORY = 2**31  # bytes that the names of one block may take at worst
_NUMBERS = "fiu"  # kinds of dtype


class ForeignDescriptors(Protocol):
    """n descriptors with the names of their images."""

    layout: str
    rows: int
    dim: int

    def names(self) -> Iterator[bytes]:
        """Yield the names of the images in row order."""

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Read rows [start, stop) as (stop - start, dim) numbers of any type."""


@contextlib.contextmanager
def open_foreign(path: Path) -> Iterator[ForeignDescriptors]:
    """Open an HDF5 file in one of the layouts.

    Raises:
        InputError: it cannot be read, is a bundle, or has none of the layouts.
    """
    with _reading(path):
        root = h5py.File(path, "r", rdcc_nbytes=_CACHE, rdcc_nslots=10_007)
    try:
        yield _recognized(path, root)
    finally:
        root.close()


@contextlib.contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Turn what h5py raises on a malformed file into a typed error."""
    try:
        yield
    except (OSError, RuntimeError, KeyError, ValueError, TypeError, OverflowError) as error:
        raise InputError(f"{path}: not a readable HDF5 file ({error}); make it again") from error


def _recognized(path: Path, root: h5py.File) -> ForeignDescriptors:
    with _reading(path):
        if root.attrs.get("format") == layout.FORMAT_NAME:
            raise InputError(f"{path} is a bundle already; use it as it is: imgrank search {path} QUERY")
        if "features" in root and "index" in root:
            return IliasFile(path, root)
        return HlocFile(path, root)


class IliasFile:
    """`features` and `index`."""

    layout = "ilias"

    def __init__(self, path: Path, root: h5py.File) -> None:
        self._path = path
        self._features, self._index = (_dataset(path, root, name) for name in ("features", "index"))
        shape, names = self._features.shape, self._index.shape
        if len(shape) != 2 or self._features.dtype.kind not in _NUMBERS:
            raise InputError(f"{path}: /features is {self._features.dtype} {shape}; expected numbers (n, dim)")
        if len(names) != 1 or h5py.check_string_dtype(self._index.dtype) is None:
            raise InputError(f"{path}: /index is {self._index.dtype} {names}; expected (n,) names of images")
        if shape[0] != names[0]:
            raise InputError(f"{path}: {shape[0]} rows of /features but {names[0]} names in /index; make it again")
        self.rows, self.dim = shape
        check_size(path, self.rows, self.dim)
        if self._index.id.get_type().get_size() > MAX_NAME:
            raise InputError(f"{path}: /index has names of more than {MAX_NAME} bytes; are they names of images?")
        for dataset in (self._features, self._index):
            _check_stored(path, dataset)

    def names(self) -> Iterator[bytes]:
        """Yield the names."""
        # However many rows share one long name on disk, it is unpacked for each: so the worst case sets the block.
        elsewhere = max(1, self._path.stat().st_size - self._features.id.get_storage_size())
        width = self._index.id.get_type().get_size()
        worst = elsewhere if h5py.check_string_dtype(self._index.dtype).length is None else width
        each = max(1, min(_NAMES_AT_ONCE, _NAME_MEMORY // worst))
        for start in range(0, self.rows, each):
            with _reading(self._path):
                block = self._index[start : start + each]
            yield from (bytes(name) for name in block)

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Read rows of `features`."""
        with _reading(self._path):
            block: npt.NDArray[Any] = self._features[start:stop]
        return block


class HlocFile:
    """A group for each image."""

    layout = "hloc"
    _LEAF = "global_descriptor"

    def __init__(self, path: Path, root: h5py.File) -> None:
        self._path, self._root = path, root
        self._names: list[bytes] = []
        self.dim = 0
        for name, dataset in self._walk():
            shape = dataset.shape
            if len(shape) != 1 or dataset.dtype.kind not in _NUMBERS:
                raise InputError(f"{path}: {dataset.name} is {dataset.dtype} {shape}; expected numbers (dim,)")
            if self._names and shape != (self.dim,):
                raise InputError(f"{path}: {dataset.name} has {shape[0]} numbers, those before it {self.dim}")
            if not self._names:
                (self.dim,) = shape
                check_size(path, 1, self.dim)
            _check_stored(path, dataset)
            self._names.append(name)
        self.rows = len(self._names)
        if not self._names:
            raise InputError(
                f"{path}: an HDF5 file in no layout that can be imported: datasets /features and /index (ILIAS), or a "
                "group for each image with a dataset global_descriptor (hloc)"
            )

    def names(self) -> Iterator[bytes]:
        """Yield the names, folder by folder in byte order."""
        return iter(self._names)

    def read(self, start: int, stop: int) -> npt.NDArray[Any]:
        """Read the descriptors of some images."""
        block = np.empty((stop - start, self.dim), dtype=np.float64)
        with _reading(self._path):
            for place, name in enumerate(self._names[start:stop]):
                block[place] = self._root[name + b"/" + self._LEAF.encode()][()]
        return block

    def _walk(self) -> Iterator[tuple[bytes, h5py.Dataset]]:
        """Yield the name of each image with its descriptor; a stack, because nesting may exceed Python's recursion."""
        stack = [(b"", self._root, key) for key in reversed(list(self._root))]
        while stack:
            name, group, key = stack.pop()
            kind = _kind(self._path, group, key)
            if kind == h5py.h5o.TYPE_DATASET and key == self._LEAF:
                yield name, group[key]
            elif kind == h5py.h5o.TYPE_GROUP:
                child = group[key]
                below = os.path.join(name, os.fsencode(key))  # noqa: PTH118  # bytes
                if len(below) > MAX_NAME:
                    raise InputError(f"{self._path}: groups are nested to names of more than {MAX_NAME} bytes")
                stack += [(below, child, inner) for inner in reversed(list(child))]


def check_size(path: Path, rows: int, dim: int) -> None:
    """Refuse numbers of rows and of numbers in a row that no bundle holds.

    Raises:
        InputError: there are none, or too many.
    """
    if not 0 < rows < layout.MAX_IMAGES or not 0 < dim <= layout.MAX_DIM:
        raise InputError(
            f"{path}: {rows} descriptors of {dim} numbers; a bundle takes up to {layout.MAX_IMAGES - 1} of up to "
            f"{layout.MAX_DIM} numbers"
        )


def _kind(path: Path, group: h5py.Group, key: str | bytes) -> int:
    """Return what kind of object a name leads to, of `h5py.h5o`, without opening it; only plain links are followed."""
    raw = os.fsencode(key)
    if group.id.links.get_info(raw).type != h5py.h5l.TYPE_HARD:
        raise InputError(f"{path}: {group.name} holds a link that leads elsewhere ({key!r}); such files are not read")
    found = h5py.h5o.get_info(group.id, raw)
    if found.rc != 1:  # it could lead back, and the walk would never end
        raise InputError(f"{path}: {group.name} holds {key!r}, which is linked twice; such files are not read")
    kind: int = found.type
    return kind


def _dataset(path: Path, root: h5py.File, name: str) -> h5py.Dataset:
    if _kind(path, root, name) != h5py.h5o.TYPE_DATASET:
        raise InputError(f"{path}: /{name} is not a dataset")
    return root[name]


def _check_stored(path: Path, dataset: h5py.Dataset) -> None:
    """Refuse data in other files, and a shape that the bytes in the file cannot be unpacked to."""
    if dataset.is_virtual or dataset.external:
        raise InputError(f"{path}: {dataset.name} keeps its data in other files; such files are not read")
    width = dataset.id.get_type().get_size()
    claimed = width * int(np.prod(dataset.shape, dtype=object))
    packed = bool(dataset.id.get_create_plist().get_nfilters())
    if claimed > dataset.id.get_storage_size() * (_RATIO if packed else 1):
        raise InputError(f"{path}: {dataset.name} claims {dataset.shape} but is not all there; make it again")
    if dataset.chunks is not None and width * int(np.prod(dataset.chunks, dtype=object)) > _LARGEST_CHUNK:
        raise InputError(f"{path}: {dataset.name} has chunks of more than {_LARGEST_CHUNK} bytes; store it in smaller")
