"""Two locks: one writer at a time, and no reader parsing while pages are copied in.

The writer's lock is a file of its own beside the bundle that names its holder; the kernel frees it when the process
ends, however it ends. The lock on the bundle file itself is held shared while a reader parses the HDF5 structure and
exclusive while a commit's pages are copied in: both last milliseconds. HDF5 tools take the same kind of lock.
"""

from __future__ import annotations

import contextlib
import errno
import fcntl
import os
import time
from collections.abc import Iterator
from pathlib import Path

from imgrank.errors import BundleLockedError

_UNSUPPORTED = {errno.ENOLCK, errno.EOPNOTSUPP, errno.ENOSYS, errno.EINVAL}


def lock_path(bundle: Path) -> Path:
    """Return the file whose lock a writer of `bundle` holds."""
    return bundle.with_name(bundle.name + ".lock")


@contextlib.contextmanager
def writer_lock(bundle: Path, *, wait: float = 0.0) -> Iterator[None]:
    """Hold the writer's lock of a bundle.

    Args:
        bundle: the bundle, which need not exist yet.
        wait: seconds to wait for another writer before giving up.

    Raises:
        BundleLockedError: another process holds it; the message names the process.
    """
    path = lock_path(bundle)
    deadline = time.monotonic() + wait
    while True:
        fd = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except OSError as error:
            holder = os.read(fd, 200).decode(errors="replace").strip() or "another process"
            os.close(fd)
            if error.errno not in (errno.EWOULDBLOCK, errno.EACCES):
                raise
            if time.monotonic() >= deadline:
                raise BundleLockedError(bundle, holder) from error
            time.sleep(0.05)
            continue
        # The holder before us removes the file when it is done: make sure that what we locked is what others see.
        with contextlib.suppress(FileNotFoundError):
            if os.fstat(fd).st_ino == path.stat().st_ino:
                break
        os.close(fd)
    try:
        os.ftruncate(fd, 0)
        os.pwrite(fd, f"process {os.getpid()}\n".encode(), 0)
        yield
    finally:
        path.unlink(missing_ok=True)
        os.close(fd)


@contextlib.contextmanager
def parse_lock(fd: int, *, exclusive: bool, bundle: Path, wait: float = 60.0) -> Iterator[None]:
    """Hold the lock on the bundle file itself, shared to parse it or exclusive to copy pages in.

    Raises:
        BundleLockedError: a reader (or, for a reader, a foreign HDF5 writer) held it for longer than `wait` seconds.
    """
    kind = fcntl.LOCK_EX if exclusive else fcntl.LOCK_SH
    deadline = time.monotonic() + wait
    locked = False
    while not locked:
        try:
            fcntl.flock(fd, kind | fcntl.LOCK_NB)
            locked = True
        except OSError as error:
            if error.errno in _UNSUPPORTED:
                break  # a file system without locks: the journal's digest still keeps readers from half a commit
            if time.monotonic() >= deadline:
                raise BundleLockedError(bundle, "a program that keeps the file open") from error
            time.sleep(0.005)
    try:
        yield
    finally:
        if locked:
            fcntl.flock(fd, fcntl.LOCK_UN)
