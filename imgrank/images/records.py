"""What is known of one photo file: the record that a bundle keeps for it, decodable or not.

Knows nothing of how files are found or decoded, nor of how the records are stored.
"""

from __future__ import annotations

from dataclasses import dataclass

STATUS_NAMES = (
    "ok",  # decoded
    "missing",  # no file at this path
    "unreadable",  # there, but not a regular file, or reading was refused or failed
    "not-an-image",  # empty, or the content is of no known photo format, whatever the name says
    "truncated",  # starts as a photo of a known format, but its data end early or are damaged
    "too-large",  # more pixels or bytes than the limit allows
    "no-decoder",  # a known format, whose decoder is not installed
    "out-of-memory",  # decoding asked for more memory than there was
    "removed",  # was in the collection once, and is not any more; never the result of reading
)
"""Names of the status codes; a code is the index into this tuple, so the order never changes."""

DIGEST_SIZE = 16
NO_DIGEST = bytes(DIGEST_SIZE)


def status_of(name: str) -> int:
    """Return the status code of a status name.

    Raises:
        ValueError: no such name (a defect of the caller, never of a photo).
    """
    return STATUS_NAMES.index(name)


@dataclass(frozen=True)
class ImageRecord:
    """One photo file.

    Attributes:
        path: as it was given or found, `os.fsencode`d.
        size: bytes of content that were read; 0 when the file could not be read.
        mtime_ns: modification time before reading, nanoseconds since the epoch; 0 when it could not be read.
        digest: 16 bytes, BLAKE2b of the content, also where it does not decode; zeros when it could not be read.
        width: pixels of the full-size photo after the EXIF turn; 0 when it was not decoded.
        height: likewise.
        status: index into STATUS_NAMES.
    """

    path: bytes
    size: int
    mtime_ns: int
    digest: bytes
    width: int
    height: int
    status: int

    @property
    def status_name(self) -> str:
        """The name of the status code."""
        return STATUS_NAMES[self.status]
