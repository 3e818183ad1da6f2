"""The bytes of a photo file, with its digest, read once and without ever blocking on what is not a file.

Knows nothing of what the bytes mean.
"""

from __future__ import annotations

import hashlib
import io
import os
import stat
from collections.abc import Callable
from dataclasses import dataclass

from imgrank.errors import ImageError
from imgrank.records import DIGEST_SIZE

_BLOCK = 1 << 20  # bytes
_GROWTH = 64 << 20  # bytes that a file may gain while it is read; one that is written for ever would be read for ever


@dataclass(frozen=True)
class Content:
    """A file as it was read.

    `data` is None where the file has more bytes than were to be kept, and only the first block where that says that
    the rest is of no use.
    """

    data: bytes | None
    size: int  # bytes
    mtime_ns: int
    digest: bytes  # 16 bytes, BLAKE2b of all the content


def read_content(path: bytes, name: str, keep: int | None, useful: Callable[[bytes], bool]) -> Content:
    """Read a regular file.

    Args:
        path: the file.
        name: the path as messages show it.
        keep: a larger file, in bytes, is digested block by block but not kept; None keeps every file.
        useful: given the first block, at most 1 MiB, says whether the rest of the file is worth keeping.

    Raises:
        ImageError: "missing"; "unreadable" (not a regular file, refused, failed, growing without end); "out-of-memory".
    """
    try:
        # Twice: opening a device can already do something, and the path may change between stat and open.
        _require_regular(os.stat(path).st_mode, name)  # noqa: PTH116 - pathlib has no bytes paths
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb", buffering=0) as file:  # noqa: PTH123 - a descriptor
            # Taken before reading: a file that changes meanwhile has another time next time, and is read again.
            status = os.fstat(descriptor)
            _require_regular(status.st_mode, name)
            digest, size = hashlib.blake2b(digest_size=DIGEST_SIZE), 0
            kept: io.BytesIO | None = io.BytesIO()  # getvalue() copies nothing: large files are in memory once
            rest = True
            while block := file.read(_BLOCK):
                digest.update(block)
                if kept is not None and (rest or size == 0):
                    kept.write(block)
                rest = rest and (size > 0 or useful(block))
                size += len(block)
                if keep is not None and size > keep:
                    kept = None
                if size > status.st_size + _GROWTH:
                    raise ImageError(name, "unreadable", "grows while it is read; try again when it is finished")
    except (FileNotFoundError, NotADirectoryError) as error:
        raise ImageError(name, "missing", "no such file; it may have been moved or deleted") from error
    except OSError as error:
        raise ImageError(name, "unreadable", f"cannot be read: {error.strerror or error}") from error
    except ValueError as error:  # a NUL byte in the path
        raise ImageError(name, "unreadable", f"cannot be read: {error}") from error
    except MemoryError as error:
        raise ImageError(name, "out-of-memory", "not enough memory to read the file") from error
    return Content(None if kept is None else kept.getvalue(), size, status.st_mtime_ns, digest.digest())


def read_digest(path: bytes, name: str) -> Content:
    """Read a regular file for its digest alone; raises as `read_content` does."""
    return read_content(path, name, 0, lambda first: False)


def _require_regular(mode: int, name: str) -> None:
    if stat.S_ISREG(mode):
        return
    kinds = (
        (stat.S_ISDIR, "a folder"),
        (stat.S_ISFIFO, "a named pipe"),
        (stat.S_ISSOCK, "a socket"),
        (stat.S_ISCHR, "a device"),
        (stat.S_ISBLK, "a device"),
    )
    kind = next((kind for test, kind in kinds if test(mode)), "not a file")
    raise ImageError(name, "unreadable", f"is {kind}, not a photo file")
