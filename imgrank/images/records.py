"""Status names and records of photo files, as this stage writes them; shared with the bundle by `imgrank.records`."""

from __future__ import annotations

from imgrank.records import STATUS_NAMES, ImageRecord

__all__ = ["DIGEST_SIZE", "NO_DIGEST", "STATUS_NAMES", "ImageRecord", "status_of"]

DIGEST_SIZE = 16  # bytes
NO_DIGEST = bytes(DIGEST_SIZE)


def status_of(name: str) -> int:
    """Return the status code of a status name.

    Raises:
        ValueError: no such name (a defect of the caller, never of a photo).
    """
    return STATUS_NAMES.index(name)
