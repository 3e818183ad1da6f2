"""Lengths of time as a user writes them."""

from __future__ import annotations

import math
import re

from imgrank.errors import SettingsError

_SECONDS = {"": 1.0, "ms": 0.001, "s": 1.0, "m": 60.0}
_DURATION = re.compile(r"([0-9]+(?:\.[0-9]*)?|\.[0-9]+) *(ms|s|m|)")


def parse_duration(text: str, *, option: str = "--time-budget") -> float:
    """Return the seconds that "500ms", "1.5s", "2m" or, in seconds, "2" stand for.

    Args:
        text: as the user wrote it.
        option: named in the error.

    Raises:
        SettingsError: not such a text, zero, or more than a number can hold.
    """
    found = _DURATION.fullmatch(text.strip())
    seconds = float(found[1]) * _SECONDS[found[2]] if found else math.nan
    if not 0.0 < seconds < math.inf:
        raise SettingsError(f"{option} {text!r}: give a time above zero, such as 500ms, 2s, 1.5 or 2m")
    return seconds
