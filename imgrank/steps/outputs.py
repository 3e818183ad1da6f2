"""Files that a step writes beside the bundle: never over another one unasked, and whole or not at all."""

from __future__ import annotations

import contextlib
import os
from collections.abc import Iterator
from pathlib import Path

from imgrank.bundle.file import is_hdf5
from imgrank.bundle.journal import sync_folder
from imgrank.errors import SettingsError


def check_output(path: Path, *endings: str, force: bool) -> None:
    """Find out whether a file can be written, before the work whose result it is to hold.

    Args:
        path: of the file.
        endings: one of which its name must have, such as ".npy".
        force: whether a file that is there may be replaced.

    Raises:
        SettingsError: another ending, no such folder, or something is there that may not be replaced.
    """
    if path.suffix.lower() not in endings:
        raise SettingsError(f"{path}: the name must end in {' or '.join(endings)}")
    check_free(path, force=force)


def check_free(path: Path, *, force: bool, bundle: bool = False) -> None:
    """Find out whether a name may be taken.

    Args:
        path: of the file.
        force: whether a file that is there may be replaced.
        bundle: whether it will be a bundle. Only bundles are replaced by one, and no other file replaces a bundle.

    Raises:
        SettingsError: no such folder, or something is there that may not be replaced.
    """
    if not path.absolute().parent.is_dir():
        raise SettingsError(f"{path}: its folder does not exist; make it first, or choose another place")
    if not os.path.lexists(path):
        return
    if not force:
        raise SettingsError(f"{path} is there already; choose another name, or give --force to replace it")
    if not path.is_file():
        raise SettingsError(f"{path} is there already and is not a file; choose another name")
    if is_hdf5(path) != bundle:
        kind = "not an HDF5 file, so no bundle" if bundle else "an HDF5 file, perhaps a bundle"
        raise SettingsError(f"{path} is {kind}; --force does not replace it")


@contextlib.contextmanager
def replacing(path: Path) -> Iterator[Path]:
    """Give a name beside `path` to write to; the file takes its place when the block ends, and goes when it raises."""
    incoming = path.with_name(f"{path.name}.new")
    try:
        yield incoming
        with incoming.open("rb") as file:
            os.fsync(file.fileno())
        incoming.replace(path)
        sync_folder(path.absolute().parent)
    except BaseException:
        incoming.unlink(missing_ok=True)
        raise
