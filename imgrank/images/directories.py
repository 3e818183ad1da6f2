"""What reading the tags of a TIFF file, or of EXIF, would copy; told from the directories alone.

Tags say where their values lie, so 65,535 of them can each claim all of a file of 0.8 MB. Pillow before 13 copies them
all: 52 GB. From 13 on it has a limit of its own.
"""

from __future__ import annotations

import struct

_UNITS = {
    1: 1,
    2: 1,
    3: 2,
    4: 4,
    5: 8,
    6: 1,
    7: 1,
    8: 2,
    9: 4,
    10: 8,
    11: 4,
    12: 8,
    13: 4,
    16: 8,
    17: 8,
    18: 8,
}  # bytes
_NESTED = frozenset({0x8769, 0x8825, 0xA005})  # EXIF, GPS and interoperability: tags whose value is a directory's place


def claims_too_much(data: bytes) -> bool:
    """Return whether the values of the first directory, and of those nested in it, are larger than all the data, twice.

    Args:
        data: begins with a TIFF header; "Exif" and zeros may stand before it, as in a JPEG segment. Anything else,
            and what ends early, claims nothing.
    """
    while data.startswith(b"Exif\0\0"):
        data = data[6:]
    order = {b"II": "<", b"MM": ">"}.get(data[:2])
    if order is None or len(data) < 16:
        return False
    big = 43 in data[2:4]
    entry, count = (f"{order}HHQQ", f"{order}Q") if big else (f"{order}HHII", f"{order}H")
    pending, seen, claimed = [struct.unpack_from(count[0] + ("Q" if big else "I"), data, 8 if big else 4)[0]], set(), 0
    while pending:
        at = pending.pop()
        first = at + struct.calcsize(count)
        if at in seen or first > len(data):
            continue
        seen.add(at)
        size = struct.calcsize(entry)
        entries = min(struct.unpack_from(count, data, at)[0], (len(data) - first) // size)
        for tag, kind, values, offset in struct.iter_unpack(entry, data[first : first + entries * size]):
            if tag in _NESTED and len(seen) + len(pending) < 16:
                pending.append(offset)
            claimed += min(_UNITS.get(kind, 0) * values, max(0, len(data) - offset))
    return claimed > 2 * len(data)
