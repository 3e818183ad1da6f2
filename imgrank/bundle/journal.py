"""The redo journal: the changed pages of one commit, beside the bundle, until they are in it.

    offset  size  field
    0       8     magic b"IMGRKJ01"
    8       8     size of the bundle after the commit, bytes
    16      4     page size, bytes
    20      4     number of pages, n
    24      48    first 48 bytes of the bundle before the commit (its HDF5 superblock)
    72      8 n   page numbers, ascending
    ...     p n   page contents
    end     32    BLAKE2b-256 of all before

Integers are little-endian and unsigned. A journal whose digest does not match was not finished: the commit did
not happen, and the journal is ignored. One whose digest matches IS the commit, whether or not its pages have
reached the bundle yet: writing them twice gives the same file, so a reader lays them over what it reads and the
next writer copies them in.
"""

from __future__ import annotations

import hashlib
import os
import struct
from dataclasses import dataclass
from pathlib import Path

from imgrank.errors import DamagedBundleError

PAGE = 4096  # bytes
SUPERBLOCK = 48  # bytes of an HDF5 superblock of version 2 or 3 with 8-byte addresses
_MAGIC = b"IMGRKJ01"
_HEAD = struct.Struct(f"<8sQII{SUPERBLOCK}s")
_DIGEST = 32  # bytes


@dataclass(frozen=True)
class Journal:
    """One finished commit that may not have reached the bundle yet."""

    size: int  # bytes of the bundle after the commit
    superblock_before: bytes
    pages: dict[int, bytes]  # page number -> PAGE bytes


def journal_path(bundle: Path) -> Path:
    """Return where the journal of a bundle lies."""
    return bundle.with_name(bundle.name + ".journal")


def write_journal(bundle: Path, journal: Journal) -> None:
    """Write a journal and wait until it is on the disk; from then on the commit has happened."""
    numbers = sorted(journal.pages)
    path = journal_path(bundle)
    digest = hashlib.blake2b(digest_size=_DIGEST)
    try:
        with path.open("wb") as file:
            for piece in (
                _HEAD.pack(_MAGIC, journal.size, PAGE, len(numbers), journal.superblock_before),
                struct.pack(f"<{len(numbers)}Q", *numbers),
                *(journal.pages[number] for number in numbers),
            ):
                digest.update(piece)
                file.write(piece)
            file.write(digest.digest())
            file.flush()
            os.fsync(file.fileno())
    except OSError:
        path.unlink(missing_ok=True)  # a full disk: the unfinished journal would only take space
        raise
    sync_folder(path.parent)


def read_journal(bundle: Path) -> Journal | None:
    """Return the finished journal beside a bundle, or None when there is none or it was cut short."""
    path = journal_path(bundle)
    try:
        raw = path.read_bytes()
    except FileNotFoundError:
        return None
    if len(raw) < _HEAD.size + _DIGEST:
        return None
    if hashlib.blake2b(raw[:-_DIGEST], digest_size=_DIGEST).digest() != raw[-_DIGEST:]:
        return None
    magic, size, page, count, before = _HEAD.unpack_from(raw)
    if magic != _MAGIC or page != PAGE or len(raw) != _HEAD.size + count * (8 + PAGE) + _DIGEST:
        raise DamagedBundleError(bundle, path.name, "the journal is of another version; open it with a newer imgrank")
    numbers = struct.unpack_from(f"<{count}Q", raw, _HEAD.size)
    start = _HEAD.size + 8 * count
    pages = {number: raw[start + i * PAGE : start + (i + 1) * PAGE] for i, number in enumerate(numbers)}
    return Journal(size, before, pages)


def belongs(journal: Journal, superblock: bytes) -> bool:
    """Return whether a journal was made for the file that begins with `superblock`.

    It does if the file still begins as it did before the commit, or already as it does after it. A bundle that was
    replaced by a copy while a journal lay beside it fails this, and the journal must not be laid over it.
    """
    after = journal.pages[0][:SUPERBLOCK] if 0 in journal.pages else journal.superblock_before
    return superblock in (journal.superblock_before, after)


def sync_folder(folder: Path) -> None:
    """Wait until a folder's entries (a new or renamed file) are on the disk."""
    fd = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(fd)
    except OSError:
        pass  # some network file systems cannot sync a folder; the rename itself is still whole
    finally:
        os.close(fd)
