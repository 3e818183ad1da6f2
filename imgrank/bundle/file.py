"""Opening a bundle: `read` freezes its last committed state, `Writer` changes it one transaction at a time."""

from __future__ import annotations

import contextlib
import json
import os
import signal
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self, TypeVar

import h5py
import numpy as np

from imgrank.bundle import layout
from imgrank.bundle.attributes import bytes_attribute, int_attribute, set_text, text_attribute
from imgrank.bundle.checked import view_arrays
from imgrank.bundle.descriptors import DescriptorTable
from imgrank.bundle.graph import GraphTable
from imgrank.bundle.images import ImageTable
from imgrank.bundle.journal import sync_folder
from imgrank.bundle.lock import parse_lock, writer_lock
from imgrank.bundle.probe import remember, require_parsable
from imgrank.bundle.provenance import CREATED_BY, check_version, read_provenance
from imgrank.bundle.storage import ReadFile, ShadowFile, recover
from imgrank.bundle.table import append, create_columns, same_length, view_columns
from imgrank.bundle.tokens import TokenColumn, TokenTable, is_cache_name
from imgrank.errors import (
    BundleError,
    DamagedBundleError,
    FormatVersionError,
    MissingGroupError,
    NotABundleError,
    OutdatedBundleError,
    SettingsError,
)

Part = TypeVar("Part")

# Extensible-array chunk tables and version-3 superblocks, readable by HDF5 1.10 and newer.
_LIBRARY_VERSIONS = ("v110", "v110")


@dataclass(frozen=True, eq=False)
class Bundle:
    """The last committed state of a bundle at the moment it was opened; later commits do not show."""

    path: Path
    file: ReadFile
    version: int  # of the format
    bundle_id: str
    created_by: str
    images: ImageTable
    descriptor_table: DescriptorTable | None
    graph_table: GraphTable | None
    token_tables: dict[str, TokenTable] = field(default_factory=dict)
    unfinished: dict[str, TokenTable] = field(default_factory=dict)  # caches that are to take the place of others

    @property
    def descriptors(self) -> DescriptorTable:
        """Return `/descriptors`.

        Raises:
            MissingGroupError: nothing has been embedded yet.
        """
        if self.descriptor_table is None:
            raise MissingGroupError(self.path, layout.DESCRIPTORS, f"imgrank embed PHOTOS -o {self.path}")
        return self.descriptor_table

    @property
    def graph(self) -> GraphTable:
        """Return `/graph`.

        Raises:
            MissingGroupError: no graph has been built yet.
        """
        if self.graph_table is None:
            raise MissingGroupError(self.path, layout.GRAPH, f"imgrank index {self.path}")
        return self.graph_table

    def tokens(self, name: str) -> TokenTable:
        """Return `/tokens/NAME`.

        Raises:
            MissingGroupError: there is no cache of that name; the message lists those there are.
        """
        table = self.token_tables.get(name)
        if table is None:
            there = ", ".join(sorted(self.token_tables)) or "no cache yet"
            made_by = f"imgrank cache-tokens {self.path} --cache {name}"
            raise MissingGroupError(self.path, f"{layout.TOKENS}/{name} (there is: {there})", made_by)
        return table

    @property
    def root(self) -> bytes:
        """Return the absolute folder that the photos' paths are relative to."""
        folder = os.fsencode(self.path.absolute().parent)
        return os.path.normpath(os.path.join(folder, self.images.root))  # noqa: PTH118  # bytes: names need not be UTF-8

    def close(self) -> None:
        """Close the file; views of it can no longer read."""
        self.file.close()

    def __enter__(self) -> Self:
        """Return the bundle."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file."""
        self.close()


def is_hdf5(path: str | os.PathLike[str]) -> bool:
    """Return whether a file begins as a bundle does."""
    with contextlib.suppress(OSError), Path(path).open("rb") as file:
        return file.read(8) == b"\x89HDF\r\n\x1a\n"
    return False


def read(path: str | os.PathLike[str], faults: dict[str, BundleError] | None = None) -> Bundle:
    """Open a bundle for reading, in its last committed state.

    Works beside a running writer, and on a read-only disk. A file that this user has not opened before is parsed in a
    child process first; see `imgrank.bundle.probe`. `faults` is for `parse`.

    Raises:
        NotABundleError: no file, not HDF5, or not an imgrank bundle.
        FormatVersionError: written by a newer imgrank.
        DamagedBundleError: its structure fails a check.
    """
    path = _existing(path)
    require_parsable(path)
    return parse(path, faults)


def parse(path: Path, faults: dict[str, BundleError] | None = None) -> Bundle:
    """Open a bundle for reading, trusting that HDF5 can parse it; raises as `read` does.

    Args:
        path: the file.
        faults: takes the parts, descriptors, graph and caches, that cannot be read, by HDF5 path; they are then as if
            they were not there. None raises at the first.
    """
    while True:
        file = ReadFile(path)
        try:
            with parse_lock(file.fileno(), exclusive=False, bundle=path):
                # A file that `compact` put in the place of this one would lend us its journal.
                if not file.is_current():
                    file.close()
                    continue
                file.freeze()
                with _hdf5_errors(path), h5py.File(file, "r") as root:
                    return _parse(path, file, root, faults)
        except BaseException:
            file.close()
            raise


def _existing(path: str | os.PathLike[str]) -> Path:
    path = Path(path)
    if not path.exists():
        raise NotABundleError(path, f"no such file; make it with `imgrank index PHOTOS -o {path}`")
    if not path.is_file():
        raise NotABundleError(path, "not a file")
    return path


@contextlib.contextmanager
def _hdf5_errors(path: Path) -> Iterator[None]:
    """Turn what h5py raises on a malformed file into a typed error."""
    try:
        yield
    except (
        OSError,
        RuntimeError,
        KeyError,
        ValueError,
        TypeError,
        UnicodeDecodeError,
        OverflowError,
        RecursionError,
    ) as error:
        raise DamagedBundleError(path, "HDF5 structure", f"cannot be read ({error}); restore a copy") from error


def _parse(path: Path, file: ReadFile, root: h5py.File, faults: dict[str, BundleError] | None) -> Bundle:
    if text_attribute(path, root, "format", "") != layout.FORMAT_NAME:
        raise NotABundleError(path, "an HDF5 file, but not an imgrank bundle (no `format` attribute)")
    version = int_attribute(path, root, "format-version")
    if version > layout.FORMAT_VERSION:
        raise FormatVersionError(path, "the bundle format", version, layout.FORMAT_VERSION)
    images = _parse_images(path, file, root)
    rows = len(images)

    def part(name: str, parse_it: Callable[[], Part | None]) -> Part | None:
        """Parse a part that the rest can do without; where faults are collected, one that fails is as if not there."""
        try:
            with _hdf5_errors(path):
                return parse_it()
        except BundleError as error:
            if faults is None:
                raise
            faults[name] = error
            return None

    tables: dict[str, TokenTable] = {}
    caches = part(f"/{layout.TOKENS}", lambda: _child(path, root, layout.TOKENS))
    for name in _names(path, caches):
        table = part(f"/{layout.TOKENS}/{name}", lambda name=name: _parse_cache(path, file, caches, name, rows))  # type: ignore[misc]
        if table is not None:
            tables[name] = table
    unfinished = {name: tables.pop(name) for name in list(tables) if name.startswith(layout.UNFINISHED)}
    return Bundle(
        path=path,
        file=file,
        version=version,
        bundle_id=text_attribute(path, root, "bundle-id"),
        created_by=text_attribute(path, root, "created-by"),
        images=images,
        descriptor_table=part(f"/{layout.DESCRIPTORS}", lambda: _parse_descriptors(path, file, root, rows)),
        graph_table=part(f"/{layout.GRAPH}", lambda: _parse_graph(path, file, root)),
        token_tables=tables,
        unfinished=unfinished,
    )


def _names(path: Path, group: h5py.Group | None) -> list[str]:
    """Return the names of caches, each of which can be one."""
    if group is None:
        return []
    if len(group) > layout.MAX_CACHES:
        raise DamagedBundleError(path, group.name, f"holds {len(group)} caches, at most {layout.MAX_CACHES} can be")
    names = [str(name) for name in group]
    for name in names:
        if not is_cache_name(name.removeprefix(layout.UNFINISHED)):
            raise DamagedBundleError(path, group.name, f"has a cache {name!r}, which cannot be the name of one")
    return names


def _child(path: Path, parent: h5py.Group, name: str) -> h5py.Group | None:
    """Return a subgroup, None when there is none; links that lead elsewhere are refused."""
    link = parent.get(name, getlink=True)
    if link is None:
        return None
    group = parent.get(name) if isinstance(link, h5py.HardLink) else None
    if not isinstance(group, h5py.Group):
        raise DamagedBundleError(path, f"{parent.name.rstrip('/')}/{name}", "is not a plain group")
    return group


def _parse_images(path: Path, file: ReadFile, root: h5py.File) -> ImageTable:
    group = _child(path, root, layout.IMAGES)
    if group is None:
        raise DamagedBundleError(path, f"/{layout.IMAGES}", "missing")
    images_version = check_version(path, group, layout.IMAGES_VERSION)
    views = view_columns(file, group, layout.IMAGE_COLUMNS)
    rows = len(views["id"])
    if rows > layout.MAX_IMAGES:
        raise DamagedBundleError(path, f"/{layout.IMAGES}", f"claims {rows} images")
    per_image = {name: view for name, view in views.items() if name not in ("path-offsets", "path-bytes")}
    same_length(file, layout.IMAGES, per_image, rows)
    if len(views["path-offsets"]) != rows + 1:
        raise DamagedBundleError(path, f"/{layout.IMAGES}/path-offsets", f"should have {rows + 1} rows")
    root_path = bytes_attribute(path, group, "root", layout.MAX_ROOT)
    return ImageTable(path, root_path, int_attribute(path, group, "next-id"), views, images_version)


def _parse_descriptors(path: Path, file: ReadFile, root: h5py.File, rows: int) -> DescriptorTable | None:
    group = _child(path, root, layout.DESCRIPTORS)
    if group is None:
        return None
    provenance = read_provenance(path, group, layout.DESCRIPTORS_VERSION)
    shape = group["vectors"].shape
    dim = shape[1] if len(shape) == 2 else 0
    if not 0 < dim <= layout.MAX_DIM:
        raise DamagedBundleError(path, f"/{layout.DESCRIPTORS}/vectors", f"has shape {shape}")
    views = view_columns(file, group, layout.descriptor_columns(dim))
    same_length(file, layout.DESCRIPTORS, views, rows)
    origin = text_attribute(path, group, layout.IMPORTED_ATTRIBUTE, "")
    inner = _child(path, group, layout.PROJECTION)
    if inner is None:
        return DescriptorTable(path, provenance, views, imported_from=origin)
    advice = "restore a copy, or index the photos into a new file"
    arrays = view_arrays(file, inner, layout.PROJECTION_ARRAYS, advice)
    shapes = {name: view.shape for name, view in arrays.columns.items()}
    if "mean" not in shapes or shapes.get("basis") != (*shapes["mean"], dim):
        raise DamagedBundleError(path, inner.name, f"has arrays of shape {shapes}; {advice}")
    return DescriptorTable(path, provenance, views, arrays, origin)


def _parse_graph(path: Path, file: ReadFile, root: h5py.File) -> GraphTable | None:
    group = _child(path, root, layout.GRAPH)
    if group is None:
        return None
    provenance = read_provenance(path, group, layout.GRAPH_VERSION)
    types: dict[str, tuple[str, int]] = {}
    for name in list(group)[:32]:  # a graph is a handful of arrays
        dataset = group[name]
        if not isinstance(dataset, h5py.Dataset) or dataset.ndim not in (1, 2) or dataset.dtype.kind not in "iu":
            raise DamagedBundleError(path, f"/{layout.GRAPH}/{name}", "is not an integer array")
        types[name] = (dataset.dtype.str, dataset.ndim)
    checked = view_arrays(file, group, types, "run `imgrank index` to build it again")
    own = {layout.VERSION_ATTRIBUTE, *layout.PROVENANCE_ATTRIBUTES}
    numbers = {name: int_attribute(path, group, name) for name in list(group.attrs)[:64] if name not in own}
    return GraphTable(path, provenance, checked, numbers)


def _parse_cache(path: Path, file: ReadFile, caches: h5py.Group, name: str, rows: int) -> TokenTable:
    where = f"/{layout.TOKENS}/{name}"
    group = _child(path, caches, name)
    columns_group = _child(path, group, "columns") if group is not None else None
    if group is None or columns_group is None:
        raise DamagedBundleError(path, where, "has no columns")
    provenance = read_provenance(path, group, layout.TOKENS_VERSION)
    images = view_columns(file, group, layout.TOKEN_IMAGE_COLUMNS)
    cached = len(images["crc32"])
    same_length(file, where[1:], {key: view for key, view in images.items() if key != "offsets"}, cached)
    if len(images["offsets"]) != cached + 1 or cached > rows:
        raise DamagedBundleError(path, f"{where}/offsets", "does not match the images")
    token_columns = _token_columns(path, where, text_attribute(path, group, "columns"))
    columns = view_columns(file, columns_group, [layout.Column(c.name, c.dtype, c.tail) for c in token_columns])
    codebooks, proof = _child(path, group, layout.CODEBOOKS), _child(path, group, layout.PROOF)
    advice = "restore a copy, or make the cache again with `imgrank cache-tokens --overwrite`"
    return TokenTable(
        path=path,
        name=name,
        kind=text_attribute(path, group, "kind"),
        codec=text_attribute(path, group, "codec"),
        provenance=provenance,
        token_columns=token_columns,
        images=images,
        columns=columns,
        codebooks=None if codebooks is None else view_arrays(file, codebooks, layout.CODEBOOK_ARRAYS, advice),
        proof=None if proof is None else view_arrays(file, proof, layout.PROOF_ARRAYS, advice),
        version=int_attribute(path, group, layout.VERSION_ATTRIBUTE),
    )


def _token_columns(path: Path, where: str, text: str) -> tuple[TokenColumn, ...]:
    """Read the attribute that lists the columns: few, of plain numbers."""
    try:
        listed = json.loads(text)
        columns = tuple(TokenColumn(str(name), str(dtype), tuple(map(int, tail))) for name, dtype, tail in listed)
        types = [np.dtype(column.dtype) for column in columns]
    except (ValueError, TypeError, RecursionError) as error:
        raise DamagedBundleError(path, f"{where}@columns", f"cannot be read ({error})") from error
    plain = all(dtype.kind in "iuf" and dtype.isnative and dtype.subdtype is None for dtype in types)
    small = len(columns) <= layout.MAX_COLUMNS and all(
        len(column.tail) <= 2 and all(0 < size <= layout.MAX_DIM for size in column.tail) for column in columns
    )
    names = {column.name for column in columns}
    if not plain or not small or len(names) != len(columns) or not all(map(is_cache_name, names)):
        raise DamagedBundleError(path, f"{where}@columns", "lists what cannot be columns of tokens")
    return columns


def create(path: str | os.PathLike[str], *, root: bytes, bundle_id: str | None = None) -> None:
    """Make an empty bundle; call with the writer's lock held.

    Args:
        path: of the new file; it appears whole or not at all.
        root: folder that photo paths are relative to: relative to the bundle's folder, or absolute.
        bundle_id: None draws one.
    """
    path = Path(path)
    incoming = path.with_name(f"{path.name}.new")
    # No space manager: a block that was freed is never used again, so what an earlier reader knows of stays as it was.
    with h5py.File(incoming, "w", libver=_LIBRARY_VERSIONS, fs_strategy="none") as new:
        set_text(new, "format", layout.FORMAT_NAME)
        new.attrs["format-version"] = layout.FORMAT_VERSION
        set_text(new, "bundle-id", bundle_id or uuid.uuid4().hex)
        set_text(new, "created-by", CREATED_BY)
        images = new.create_group(layout.IMAGES)
        images.attrs[layout.VERSION_ATTRIBUTE] = layout.IMAGES_VERSION
        images.attrs["next-id"] = np.uint64(0)
        images.attrs["root"] = np.frombuffer(root, dtype=np.uint8)
        create_columns(images, layout.IMAGE_COLUMNS)
        append(images["path-offsets"], [0])  # the first row of n + 1
    with incoming.open("rb") as file:
        os.fsync(file.fileno())
    incoming.replace(path)
    sync_folder(path.absolute().parent)
    remember(path)


@contextlib.contextmanager
def _interrupts_deferred() -> Iterator[None]:
    """Hold SIGINT back: an exception inside a callback of HDF5 would leave it with half-closed objects."""
    handler = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(handler):
        yield
        return
    caught: list[tuple[int, FrameType | None]] = []
    signal.signal(signal.SIGINT, lambda number, frame: caught.append((number, frame)))
    try:
        yield
    finally:
        signal.signal(signal.SIGINT, handler)
        if caught:
            handler(*caught[0])


class Writer:
    """Holds the writer's lock of a bundle and changes it by transactions.

        with Writer(path) as writer:
            with writer.transaction() as root:  # an h5py.File
                append_images(root, records)

    Each transaction is one commit: a reader sees all of it or nothing, also if this process is killed inside it.
    """

    def __init__(self, path: str | os.PathLike[str], *, wait: float = 0.0, migrating: bool = False) -> None:
        self.path, self._migrating = Path(path), migrating
        self._lock = writer_lock(self.path, wait=wait)

    def __enter__(self) -> Self:
        """Take the lock and finish what a killed writer committed but did not copy in.

        Raises:
            BundleLockedError: another process is writing.
            SettingsError: there is no folder to write it in.
            OutdatedBundleError: it is of an older format.
        """
        if not self.path.absolute().parent.is_dir():
            raise SettingsError(f"{self.path}: its folder does not exist; make it first, or choose another place")
        self._lock.__enter__()
        try:
            if self.path.exists():
                recover(self.path)
                self._check_version()
        except BaseException:
            self._lock.__exit__(None, None, None)
            raise
        return self

    def _check_version(self) -> None:
        """Refuse to write into a bundle of an older format, whose rows would then be of two kinds."""
        with read(self.path, {}) as opened:
            if opened.version < layout.FORMAT_VERSION and not self._migrating:
                raise OutdatedBundleError(self.path, opened.version, layout.FORMAT_VERSION)

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Give the lock back."""
        self._lock.__exit__(None, None, None)

    @contextlib.contextmanager
    def transaction(self) -> Iterator[h5py.File]:
        """Open the bundle for changes that are committed when the block ends, or forgotten when it raises.

        Ctrl-C takes effect after the commit, so keep the block to writing: HDF5 cannot be interrupted in the middle.
        """
        with _interrupts_deferred():
            yield from self._transaction()

    def _transaction(self) -> Iterator[h5py.File]:
        recover(self.path)  # of a commit of this writer whose pages could not be copied in
        shadow = ShadowFile(self.path)
        try:
            root = h5py.File(shadow, "r+", libver=_LIBRARY_VERSIONS)
            try:
                yield root
            except BaseException:
                shadow.discard()
                with contextlib.suppress(Exception):  # the first error is the one to tell
                    root.close()
                raise
            root.close()
            shadow.commit()
            remember(self.path)
        except BaseException:
            shadow.discard()
            raise
        finally:
            shadow.close()
