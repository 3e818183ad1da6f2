"""Files and folders to the paths of photos, as bytes, in an order that does not depend on the file system.

Knows names and folders only: no file is opened, so a path may turn out not to be a photo.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import BinaryIO

from imgrank.boxes import split_name
from imgrank.errors import InputError

SUFFIXES = frozenset(
    # JPEG 2000 is here for museum scans. HEIC is here even where its decoder is missing: such a photo
    # then fails by name, with the command that installs the decoder, instead of never being seen.
    b".jpg .jpeg .jpe .jfif .png .avif .webp .gif .tif .tiff .bmp .heic .heif .ppm .pgm .pnm .jp2 .j2k".split()
)
"""Lower-case suffixes of the files that are taken from inside a folder."""

MAX_PATH_BYTES = 1 << 16  # of one path on a list; far beyond what any file system opens

OnSkip = Callable[[bytes, str], None]
_Identity = tuple[int, int, bytes]  # device and inode of the folder, name in it


def display(path: bytes) -> str:
    r"""Return a path for messages: one line of printable characters, whatever bytes the name has.

    Bytes that are not text in the file system's encoding become \xNN, control characters and the like become
    escapes, so that a name cannot break a line or steer a terminal. Not meant to be turned back into a path.
    """
    return printable(os.fsdecode(path))


def printable(text: str) -> str:
    """Return text with every unprintable character escaped, as `display` does."""
    return "".join(_printable(character) for character in text)


def _printable(character: str) -> str:
    if character.isprintable():
        return character
    if "\udc80" <= character <= "\udcff":  # how fsdecode carries a byte that it could not decode
        return f"\\x{ord(character) - 0xDC00:02x}"
    return character.encode("unicode_escape").decode("ascii")


def scan(paths: Iterable[bytes], *, on_skip: OnSkip | None = None, parts: bool = False) -> Iterator[bytes]:
    """Yield the photos among files and folders.

    A given file is yielded whatever its suffix and kind. A given folder is walked depth first, names in byte
    order: files with a suffix in SUFFIXES, in any case; entries whose name starts with a dot are left out below it.
    Symlinked files are kept under their own name. Symlinked folders are followed, but each real folder is
    walked once, which ends symlink loops. A file that is reached twice under one name in one real folder is
    yielded once, also when it is reached both by itself and through a folder.

    Memory grows with the number of folders and of files given by themselves, not of files found in folders.

    Args:
        paths: files and folders. A list or tuple is checked as a whole before anything is yielded; anything else
            is taken as it comes, one path at a time.
        on_skip: called with a folder that cannot be listed, and the reason. Without it such a folder is an error.
        parts: a path may also name a part of a photo (`imgrank.boxes`); each is yielded as it is given.

    Raises:
        InputError: a given path does not exist, or a folder cannot be listed and there is no `on_skip`.
    """
    if isinstance(paths, Sequence):
        for path in paths:
            _mode_of_given(path, parts)
    walk = _Walk(on_skip)
    for path in paths:
        if stat.S_ISDIR(_mode_of_given(path, parts)):
            yield from walk.folder(path)
        elif parts and split_name(path)[1] is not None:
            yield path
        else:
            yield from walk.file(path)


def read_path_list(stream: BinaryIO, *, nul: bool) -> Iterator[bytes]:
    """Yield the paths of a list, each as soon as its separator has arrived.

    Args:
        stream: bytes; read as they come, without waiting for more than is there.
        nul: paths end with a NUL byte instead of a newline. Every other byte belongs to the path. Empty paths are
            ignored, and the last separator may be missing.

    Raises:
        InputError: a path of more than MAX_PATH_BYTES; probably not a list of paths, or the other separator.
    """
    separator = b"\0" if nul else b"\n"
    # read() of a buffered stream waits until it has all it was asked for; read1() returns what there is.
    read = getattr(stream, "read1", stream.read)
    rest = b""
    while chunk := read(MAX_PATH_BYTES):
        *complete, rest = (rest + chunk).split(separator)
        for path in (*complete, rest):
            if len(path) > MAX_PATH_BYTES:
                raise InputError(
                    f"the list of paths has one of more than {MAX_PATH_BYTES} bytes, "
                    f"which starts with {display(path[:40])}; is it a list, with the separator that you named?"
                )
        yield from filter(None, complete)
    if rest:
        yield rest


def _mode_of_given(path: bytes, parts: bool) -> int:
    """Return the st_mode of a given path, 0 where it cannot be known; of a part of a photo, that of the photo."""
    if parts:
        path = split_name(path)[0]
    try:
        return os.stat(path).st_mode  # noqa: PTH116 - pathlib has no bytes paths
    except (FileNotFoundError, NotADirectoryError, ValueError) as error:  # ValueError: a NUL byte in the path
        raise InputError(f"{display(path)}: no such file or folder; check the spelling") from error
    except OSError:
        return 0  # there, but out of reach: yielded as a file, so that reading it names the reason


class _Walk:
    """What has been seen, and the walking itself."""

    def __init__(self, on_skip: OnSkip | None) -> None:
        self._on_skip = on_skip
        self._folders: set[tuple[int, int]] = set()  # walked: device and inode
        self._files: set[_Identity] = set()  # given by themselves
        self._last_parent: tuple[bytes, tuple[int, int] | None] = (b"", None)

    def file(self, path: bytes) -> Iterator[bytes]:
        """Yield a given file unless it was yielded before."""
        parent, name = os.path.split(path)
        folder = self._identity_of_parent(parent or b".")
        if folder is not None:
            if (*folder, name) in self._files or (folder in self._folders and _wanted(name)):
                return
            self._files.add((*folder, name))
        yield path

    def folder(self, root: bytes) -> Iterator[bytes]:
        """Yield the photos below a folder; a stack of iterators, because nesting may exceed Python's recursion."""
        stack = [iter(self._entries(root))]
        while stack:
            entry = next(stack[-1], None)
            if entry is None:
                stack.pop()
                continue
            path, identity, is_folder = entry
            if is_folder:
                stack.append(iter(self._entries(path)))
            elif identity not in self._files:
                yield path

    def _entries(self, folder: bytes) -> list[tuple[bytes, _Identity, bool]]:
        """List (path, identity, is a folder) of the wanted entries; empty where the folder was walked before."""
        try:
            status = os.stat(folder)  # noqa: PTH116
            identity = (status.st_dev, status.st_ino)
            if identity in self._folders:
                return []
            with os.scandir(folder) as listing:
                found = sorted((entry.name, _is_folder(entry)) for entry in listing)
        except OSError as error:
            self._skip(folder, error)
            return []
        self._folders.add(identity)
        return [
            (os.path.join(folder, name), (*identity, name), is_folder)  # noqa: PTH118
            for name, is_folder in found
            if (not name.startswith(b".") if is_folder else _wanted(name))
        ]

    def _skip(self, folder: bytes, error: OSError) -> None:
        reason = f"the folder cannot be listed: {error.strerror or error}"
        if self._on_skip is None:
            raise InputError(f"{display(folder)}: {reason}") from error
        self._on_skip(folder, reason)

    def _identity_of_parent(self, parent: bytes) -> tuple[int, int] | None:
        # Lists of files come folder by folder: remembering one parent saves nearly every stat.
        if self._last_parent[0] != parent:
            try:
                status = os.stat(parent)  # noqa: PTH116
            except OSError:
                self._last_parent = (parent, None)
            else:
                self._last_parent = (parent, (status.st_dev, status.st_ino))
        return self._last_parent[1]


def _wanted(name: bytes) -> bool:
    return not name.startswith(b".") and os.path.splitext(name)[1].lower() in SUFFIXES  # noqa: PTH122


def _is_folder(entry: os.DirEntry[bytes]) -> bool:
    try:
        return entry.is_dir()
    except OSError:  # a symlink to itself, or into a folder out of reach: a file as far as its name says so
        return False
