"""Numbers of bytes as a user writes them."""

from __future__ import annotations

import re

from imgrank.errors import SettingsError

_UNITS = {"": 1, "b": 1, "kb": 10**3, "mb": 10**6, "kib": 2**10, "mib": 2**20}


def parse_bytes(text: str, *, option: str = "--bytes-per-image") -> int:
    """Return the bytes that "32KiB", "1.5 MB" or "4096" stand for.

    Raises:
        SettingsError: not such a text, or less than one.
    """
    found = re.fullmatch(r"([0-9]{1,12}(?:\.[0-9]{1,6})?) *([a-z]*)", text.strip().lower())
    if found is None or found[2] not in _UNITS or float(found[1]) * _UNITS[found[2]] < 1:
        raise SettingsError(f"{option} {text!r}: give bytes, such as 4096, 32KiB or 1.5MB")
    return int(float(found[1]) * _UNITS[found[2]])
