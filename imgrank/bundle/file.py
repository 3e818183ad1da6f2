"""Opening a bundle: `read` freezes its last committed state, `Writer` changes it one transaction at a time."""

from __future__ import annotations

import contextlib
import os
import signal
import threading
import uuid
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import FrameType, TracebackType
from typing import Self

import h5py
import numpy as np

from imgrank.bundle import layout
from imgrank.bundle.attributes import set_text
from imgrank.bundle.descriptors import DescriptorTable
from imgrank.bundle.graph import GraphTable
from imgrank.bundle.journal import sync_folder
from imgrank.bundle.lock import parse_lock, writer_lock
from imgrank.bundle.probe import remember, require_parsable
from imgrank.bundle.provenance import CREATED_BY
from imgrank.bundle.storage import ReadFile, ShadowFile, recover
from imgrank.bundle.structure import Structure, hdf5_errors, parse_structure
from imgrank.bundle.table import append, create_columns
from imgrank.bundle.tokens import TokenTable
from imgrank.errors import BundleError, MissingGroupError, NotABundleError, OutdatedBundleError, SettingsError

# Extensible-array chunk tables and version-3 superblocks, readable by HDF5 1.10 and newer.
_LIBRARY_VERSIONS = ("v110", "v110")


@dataclass(frozen=True, eq=False)
class Bundle(Structure):
    """The last committed state of a bundle at the moment it was opened; later commits do not show."""

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
            raise MissingGroupError(self.path, f"{layout.TOKENS}/{name}", made_by, there)
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
        faults: takes the parts, all but the photos, that cannot be read, by HDF5 path; they are then as if they were
            not there. None raises at the first.
    """
    while True:
        file = ReadFile(path)
        try:
            with parse_lock(file.fileno(), exclusive=False, bundle=path):
                # A file that `compact` put in the place of this one would lend us its journal.
                if file.is_current():
                    file.freeze()
                    with hdf5_errors(path), h5py.File(file, "r") as root:
                        return Bundle(**vars(parse_structure(path, file, root, faults)))
        except BaseException:
            file.close()
            raise
        file.close()
        _existing(path)


def _existing(path: str | os.PathLike[str]) -> Path:
    path = Path(path)
    if not path.exists():
        raise NotABundleError(path, f"no such file; make it with `imgrank index PHOTOS -o {path}`")
    if not path.is_file():
        raise NotABundleError(path, "not a file")
    return path


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
