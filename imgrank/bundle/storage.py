"""Files that HDF5 reads and writes through: committed bytes are never half changed.

HDF5 overwrites its own structure in place and is not safe against a kill. So `ShadowFile`, the file object that
h5py writes through, treats the two halves of the file differently:

- bytes past the committed end are written straight into the file: nobody reads there yet;
- changes to pages before it are kept in memory.

A commit is then: flush the file, write the changed pages to the journal and flush it (this is the moment the commit
happens), copy the pages into the file, flush, remove the journal. A process killed before that moment leaves the
file as it was, with unused bytes past its end; one killed after it leaves a finished journal, which every reader lays
over the file and the next writer copies in.

This module knows the first 48 bytes of an HDF5 file (where the committed end is) and nothing else of the format.
"""

from __future__ import annotations

import contextlib
import errno
import io
import os
import struct
from collections.abc import Mapping
from pathlib import Path

from imgrank.bundle.journal import (
    PAGE,
    SUPERBLOCK,
    Journal,
    belongs,
    journal_path,
    read_journal,
    sync_folder,
    write_journal,
)
from imgrank.bundle.lock import parse_lock
from imgrank.errors import DamagedBundleError, NotABundleError

_SIGNATURE = b"\x89HDF\r\n\x1a\n"


def committed_end(path: Path, superblock: bytes, size: int) -> int:
    """Return the end-of-file address that an HDF5 superblock of version 2 or 3 states, in bytes.

    Raises:
        NotABundleError: these are not the first bytes of such a file.
        DamagedBundleError: the file is shorter than it states.
    """
    if len(superblock) < SUPERBLOCK or superblock[:8] != _SIGNATURE:
        raise NotABundleError(path, "not an HDF5 file; make a bundle with `imgrank index PHOTOS -o FILE`")
    if superblock[8] not in (2, 3) or superblock[9] != 8:
        raise NotABundleError(path, "an HDF5 file of another kind, not an imgrank bundle")
    (end,) = struct.unpack_from("<Q", superblock, 28)
    if end > size:
        raise DamagedBundleError(path, "file", f"{size} bytes long, should be {end}: it was cut; restore a copy")
    return int(end)


class _SeekableFile(io.RawIOBase):
    """A file descriptor with a position and a size of its own, as h5py wants it."""

    def __init__(self, path: Path, flags: int) -> None:
        super().__init__()
        self.path = path
        self._fd = os.open(path, flags | os.O_CLOEXEC)
        self._size = os.fstat(self._fd).st_size
        self._position = 0

    def seekable(self) -> bool:
        """Return True."""
        return True

    def readable(self) -> bool:
        """Return True."""
        return True

    def seek(self, offset: int, whence: int = os.SEEK_SET) -> int:
        """Move the position, as any file does."""
        base = {os.SEEK_SET: 0, os.SEEK_CUR: self._position, os.SEEK_END: self._size}[whence]
        self._position = base + offset
        return self._position

    def tell(self) -> int:
        """Return the position."""
        return self._position

    def close(self) -> None:
        """Close the file descriptor."""
        if not self.closed:
            os.close(self._fd)
        super().close()


class ReadFile(_SeekableFile):
    """A bundle's bytes in its last committed state: the file, under the pages of a finished journal."""

    def __init__(self, path: Path) -> None:
        super().__init__(path, os.O_RDONLY)
        self._pages: Mapping[int, bytes] = {}

    def is_current(self) -> bool:
        """Return whether the file that was opened is still the one of its name."""
        try:
            return os.path.samestat(os.fstat(self._fd), self.path.stat())
        except FileNotFoundError:
            return False

    def freeze(self) -> None:
        """Look at the journal and the size of the file; call with the parse lock held, before any read."""
        self._size = os.fstat(self._fd).st_size
        journal = read_journal(self.path)
        if journal is not None:
            if not belongs(journal, os.pread(self._fd, SUPERBLOCK, 0)):
                name = journal_path(self.path).name
                raise DamagedBundleError(
                    self.path,
                    name,
                    f"this journal belongs to another file; if the bundle was replaced, delete {name}",
                )
            self._pages = journal.pages
            self._size = max(self._size, journal.size)
        superblock = bytearray(SUPERBLOCK)
        self.read_at(memoryview(superblock), 0)
        committed_end(self.path, bytes(superblock), self._size)

    def fileno(self) -> int:
        """Return the open file descriptor."""
        return self._fd

    def read_at(self, target: memoryview, offset: int) -> int:
        """Fill `target` from `offset`, without moving the position; thread-safe.

        Returns:
            Bytes read, fewer than asked for only where the file ends.
        """
        done = 0
        # One system call gives at most 2 GiB.
        while done < len(target) and (count := os.preadv(self._fd, [target[done:]], offset + done)):
            done += count
        if self._pages:
            wanted = min(len(target), max(0, self._size - offset))
            target[done:wanted] = bytes(max(0, wanted - done))
            done = max(done, wanted)
            _overlay(target[:done], offset, self._pages)
        return done

    def read_ranges(self, target: memoryview, bounds: list[int], offsets: list[int]) -> bool:
        """Fill `target` between each two of n + 1 bounds from n offsets; returns whether the file had all of it."""
        if self._pages:
            reading = zip(bounds, bounds[1:], offsets, strict=False)
            return all(self.read_at(target[a:b], offset) == b - a for a, b, offset in reading)
        # A loop as bare as can be: it takes as long as the system calls in it.
        file, preadv = self._fd, os.preadv
        for a, b, offset in zip(bounds, bounds[1:], offsets):  # noqa: B905  # one more bound than offsets
            if preadv(file, (target[a:b],), offset) != b - a and self.read_at(target[a:b], offset) != b - a:
                return False
        return True

    def readinto(self, buffer) -> int:  # type: ignore[no-untyped-def]  # the buffer protocol has no type before 3.12
        """Fill `buffer` from the position; past the end, with zeros, which is what HDF5 expects."""
        view = memoryview(buffer).cast("B")
        done = self.read_at(view, self._position)
        view[done:] = bytes(len(view) - done)
        self._position += len(view)
        return len(view)


class ShadowFile(_SeekableFile):
    """The file object one transaction writes through; see the module docstring. The writer's lock must be held.

    A write that fails (a full disk) does not raise: HDF5 would be left with half-closed objects and crash the process
    later. Its bytes and all later ones go to memory instead, so that HDF5 can close in peace, and `failure` keeps the
    error for `commit` to raise.
    """

    def __init__(self, path: Path) -> None:
        super().__init__(path, os.O_RDWR)
        self._superblock = os.pread(self._fd, SUPERBLOCK, 0)
        self._base = committed_end(path, self._superblock, self._size)
        self._protected = -(-self._base // PAGE)  # pages before this number hold committed bytes
        self._pages: dict[int, bytearray] = {}
        self._size = self._base
        self._discarding = False
        self.failure: OSError | None = None

    def writable(self) -> bool:
        """Return True."""
        return True

    def truncate(self, size: int | None = None) -> int:
        """Set where the file will end once it is committed."""
        self._size = self._position if size is None else size
        return self._size

    def readinto(self, buffer) -> int:  # type: ignore[no-untyped-def]
        """Fill `buffer` from the position, with the transaction's own changes; zeros past the end."""
        view = memoryview(buffer).cast("B")
        wanted = min(len(view), max(0, self._size - self._position))
        raw = bytearray(os.pread(self._fd, wanted, self._position).ljust(wanted, b"\0"))
        _overlay(raw, self._position, self._pages)
        view[: len(raw)] = raw
        view[len(raw) :] = bytes(len(view) - len(raw))
        self._position += len(view)
        return len(view)

    def write(self, data) -> int:  # type: ignore[no-untyped-def]
        """Write `data` at the position: past the committed end into the file, before it into memory."""
        view = memoryview(data).cast("B")
        if self._discarding:
            return len(view)
        start, end = self._position, self._position + len(view)
        done = start
        try:
            boundary = max(start, self._protected * PAGE) if self.failure is None else end
            while boundary < end:
                boundary += os.pwrite(self._fd, view[boundary - start :], boundary)
        except OSError as error:
            self.failure = error
        shadow_end = min(end, self._protected * PAGE) if self.failure is None else end
        while done < shadow_end:
            number, inside = divmod(done, PAGE)
            count = min(PAGE - inside, shadow_end - done)
            self._shadow_page(number)[inside : inside + count] = view[done - start : done - start + count]
            done += count
        self._position = end
        self._size = max(self._size, end)
        return len(view)

    def flush(self) -> None:
        """Do nothing: nothing is promised before the commit."""

    def _shadow_page(self, number: int) -> bytearray:
        page = self._pages.get(number)
        if page is None:
            page = bytearray(os.pread(self._fd, PAGE, number * PAGE).ljust(PAGE, b"\0"))
            if number < self._protected:
                # What a killed writer left past the committed end is not part of the file.
                keep = self._base - number * PAGE
                page[keep:] = bytes(max(0, PAGE - keep))
            self._pages[number] = page
        return page

    def commit(self) -> int:
        """Make the transaction's changes the file's committed state; h5py must have closed its file before.

        Returns:
            Bytes written to the journal and copied in again: the cost of the commit beside its new data.

        Raises:
            OSError: something could not be written; the committed state is as it was.
        """
        if self.failure is not None:
            raise self.failure
        # The page with the committed end in it may lie partly past it; cut it to the new size when it is copied in.
        if os.fstat(self._fd).st_size != self._size:
            os.ftruncate(self._fd, max(self._size, self._base))
        os.fsync(self._fd)
        changed = {
            number: bytes(page)
            for number, page in self._pages.items()
            if os.pread(self._fd, PAGE, number * PAGE).ljust(PAGE, b"\0") != page
        }
        if changed:
            write_journal(self.path, Journal(self._size, self._superblock, changed))
            # From here on the commit has happened. Where its pages cannot be copied in (a full disk that copies on
            # write), readers lay the journal over the file, and the next transaction tries again.
            with contextlib.suppress(OSError):
                apply_journal(self.path, self._fd)
        self._discarding = True
        return len(changed) * PAGE

    def discard(self) -> None:
        """Forget the transaction's changes; what h5py still writes while it closes is dropped too."""
        self._discarding = True
        self._pages.clear()
        if not self.closed:
            os.ftruncate(self._fd, self._base)


def apply_journal(path: Path, fd: int) -> None:
    """Copy the pages of the finished journal beside `path` into the file open as `fd`, then remove the journal."""
    journal = read_journal(path)
    if journal is not None:
        if not belongs(journal, os.pread(fd, SUPERBLOCK, 0)):
            name = journal_path(path).name
            raise DamagedBundleError(
                path, name, f"this journal belongs to another file; if the bundle was replaced, delete {name}"
            )
        with parse_lock(fd, exclusive=True, bundle=path):
            # The superblock goes last: until it is there, `belongs` still knows the file by the old one.
            for number in sorted(journal.pages, reverse=True):
                if os.pwrite(fd, journal.pages[number], number * PAGE) != PAGE:
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC), os.fspath(path))
            os.ftruncate(fd, journal.size)
            os.fsync(fd)
            journal_path(path).unlink()
            sync_folder(path.parent)
    else:
        journal_path(path).unlink(missing_ok=True)


def recover(path: Path) -> None:
    """Finish a commit that a killed writer left in its journal; the writer's lock must be held."""
    if journal_path(path).exists():
        fd = os.open(path, os.O_RDWR | os.O_CLOEXEC)
        try:
            apply_journal(path, fd)
        finally:
            os.close(fd)


def _overlay(raw: bytearray | memoryview, offset: int, pages: Mapping[int, bytes | bytearray]) -> None:
    """Lay those pages that touch [offset, offset + len(raw)) over `raw`, in place."""
    if not pages:
        return
    first, last = offset // PAGE, (offset + len(raw) - 1) // PAGE
    span = last - first + 1
    numbers = range(first, last + 1) if span <= len(pages) else [n for n in pages if first <= n <= last]
    for number in numbers:
        page = pages.get(number)
        if page is not None:
            start = max(offset, number * PAGE)
            end = min(offset + len(raw), (number + 1) * PAGE)
            raw[start - offset : end - offset] = page[start - number * PAGE : end - number * PAGE]
