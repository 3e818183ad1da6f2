"""What is known of one photo file: the row that scanning makes and the bundle keeps."""

from __future__ import annotations

from dataclasses import dataclass

# The status of a photo is its index here, so this tuple only ever grows at its end.
STATUS_NAMES = (
    "ok",
    "missing",  # no file at that path
    "unreadable",  # the file cannot be opened, or is not a regular file
    "not-an-image",
    "truncated",
    "too-large",  # beyond --max-megapixels, or beyond what decoding may cost beside its pixels
    "no-decoder",  # a known format whose decoder is not installed
    "out-of-memory",
    "changed",  # another content than the one that was embedded
    "removed",  # taken out of the collection; its row stays until the bundle is compacted
    "damaged",  # what was kept of it did not match its checksum, and was dropped
)
OK = 0

DIGEST_SIZE = 16  # bytes
NO_DIGEST = bytes(DIGEST_SIZE)  # of a file that could not be read


@dataclass(frozen=True)
class ImageRecord:
    """One photo file, decoded or not."""

    path: bytes  # as given, or relative to a bundle's root
    size: int  # bytes
    mtime_ns: int  # nanoseconds since 1970
    digest: bytes  # DIGEST_SIZE bytes, BLAKE2b of the content; NO_DIGEST when it could not be read
    width: int  # pixels after the EXIF turn; 0 when not decoded
    height: int
    status: int  # index into STATUS_NAMES


@dataclass(frozen=True)
class Thumbnail:
    """A small picture of a photo."""

    data: bytes  # a whole JPEG file
    width: int  # pixels
    height: int


def status_of(name: str) -> int:
    """Return the status code of a status name.

    Raises:
        ValueError: no such name (a defect of the caller, never of a photo).
    """
    return STATUS_NAMES.index(name)
