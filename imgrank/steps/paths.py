"""Where photos are: a bundle's root, paths relative to it, and paths that open from here.

Paths are bytes, because a file name need not be UTF-8.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Sequence
from pathlib import Path

from imgrank.errors import InputError


def choose_root(bundle: Path, given: Sequence[bytes], root: Path | None) -> bytes:
    """Return the root to store in a new bundle.

    The bundle's own folder, if all photos lie below it: then bundle and photos move together. Else the deepest
    folder that holds all paths given, as an absolute path.

    Args:
        bundle: where the bundle will be.
        given: the files and folders the user named.
        root: the user's own choice, or None.
    """
    home = os.fsencode(bundle.absolute().parent.resolve())
    if root is not None:
        chosen = os.fsencode(root.resolve())
    else:
        places = [os.path.realpath(path) for path in given]
        folders = [place if Path(os.fsdecode(place)).is_dir() else os.path.dirname(place) for place in places]  # noqa: PTH120
        if all(is_below(folder, home) for folder in folders):
            return b"."
        chosen = os.path.commonpath(folders)
    return os.path.relpath(chosen, home) if is_below(chosen, home) else chosen


def is_below(path: bytes, folder: bytes) -> bool:
    """Return whether an absolute path is `folder` or lies in it."""
    return os.path.commonpath([path, folder]) == folder


class RelativePaths:
    """Turns paths of photos into their stored form, below one root.

    The folders of a path are resolved, once each; its last part is not: a symbolic link to a photo keeps its own name.

    Args:
        root: absolute and resolved.
        bundle: for messages.
    """

    def __init__(self, root: bytes, bundle: Path) -> None:
        self._root, self._bundle = root, bundle
        self._folders: dict[bytes, bytes | None] = {}  # as given -> relative to the root; None: outside

    def __call__(self, path: bytes) -> bytes:
        """Return the stored form of a photo's path.

        Raises:
            InputError: it does not lie below the root.
        """
        folder, name = os.path.split(path)
        if folder not in self._folders:
            real = os.path.realpath(folder or b".")
            self._folders[folder] = os.path.relpath(real, self._root) if is_below(real, self._root) else None
        inside = self._folders[folder]
        if inside is None:
            raise InputError(
                f"{os.fsdecode(path)} lies outside {os.fsdecode(self._root)}, the root of the photos of "
                f"{self._bundle}; make the bundle anew with --root set to a folder that holds all photos"
            )
        return name if inside == b"." else os.path.join(inside, name)  # noqa: PTH118  # bytes


def openable(relatives: Iterable[bytes], root: bytes) -> list[bytes]:
    """Return paths that open from the working directory: relative where they lie below it, else absolute.

    Args:
        relatives: stored paths, which have neither links nor `..` to be resolved.
        root: absolute; what they are relative to.
    """
    here, below = (os.path.join(folder, b"") for folder in (os.fsencode(Path.cwd()), os.path.normpath(root)))  # noqa: PTH118
    paths = []
    for relative in relatives:  # there may be a million: by text alone
        path = below + relative
        paths.append(path[len(here) :] if path.startswith(here) else os.path.join(root, relative))  # noqa: PTH118
    return paths


def may_exist(path: bytes) -> bool:
    """Return whether there is a file of a name; also where a folder that may not be looked into hides it."""
    try:
        os.lstat(path)  # bytes
    except (FileNotFoundError, NotADirectoryError):
        return False
    except OSError:
        return True
    return True
