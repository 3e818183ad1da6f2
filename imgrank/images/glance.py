"""Whether a file looks like a photo, from its first bytes: quick, and no promise that it can be decoded."""

from __future__ import annotations

import os
import stat

from imgrank.images.formats import HEAD, sniff


def looks_readable(path: bytes) -> bool:
    """Tell whether a path leads to a regular file that can be opened and begins as a known image format does."""
    try:
        # Twice, as in `content`: opening a device can already do something.
        if not stat.S_ISREG(os.stat(path).st_mode):  # noqa: PTH116  # bytes
            return False
        descriptor = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)
        with open(descriptor, "rb", buffering=0) as file:  # noqa: PTH123  # a descriptor
            return sniff(file.read(HEAD) or b"") is not None
    except (OSError, ValueError):
        return False
