"""Reads MATLAB files of version 5 to 7.2: numbers, text, cells and structs, in numpy alone.

Some ground truth is published in this format only. What else it can hold (objects, functions, sparse matrices) is
refused.

Source:
    The MathWorks, "MAT-File Format", version 5; compared with `scipy.io` in the tests.
"""

from __future__ import annotations

import math
import struct
import zlib
from collections.abc import Collection
from pathlib import Path
from typing import Any

import numpy as np

from imgrank.errors import InputError

MAX_BYTES = 1 << 29  # of a file, and of one variable of it when it is unpacked
_HEADER = 128
_MAX_DEPTH = 16  # cells in cells
_MAX_CELLS = 5_000_000
_MATRIX, _COMPRESSED = 14, 15
_NUMBERS = {1: "i1", 2: "u1", 3: "i2", 4: "u2", 5: "i4", 6: "u4", 7: "f4", 9: "f8", 12: "i8", 13: "u8"}
_TEXT = {1: "latin-1", 2: "latin-1", 16: "utf-8", 17: "utf-16", 18: "utf-32"}
_CELL, _STRUCT, _CHAR = 1, 2, 4
_NUMERIC = {6: "f8", 7: "f4", 8: "i1", 9: "u1", 10: "i2", 11: "u2", 12: "i4", 13: "u4", 14: "i8", 15: "u8"}


def read_mat(path: Path, names: Collection[str]) -> dict[str, Any]:
    """Read some variables of a MATLAB file.

    Args:
        path: of the file.
        names: of the variables; others are left out.

    Returns:
        name -> value, for those that are there. A cell array is a list and a struct array a list of dicts, both column
        after column; text is a str; numbers are a numpy array.

    Raises:
        InputError: the file is damaged, larger than 512 MiB, of another version, or holds something else.
    """
    try:
        if path.stat().st_size > MAX_BYTES:
            raise InputError(f"{path} has more than {MAX_BYTES} bytes")
        data = path.read_bytes()
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error
    if data[:8] == b"\x89HDF\r\n\x1a\n" or data[512:520] == b"\x89HDF\r\n\x1a\n":
        raise InputError(f"{path} is a MATLAB file of version 7.3; save it again with -v7")
    order = {b"IM": "<", b"MI": ">"}.get(data[126:128])
    if order is None:
        raise InputError(f"{path} is no MATLAB file of version 5 to 7.2")
    try:
        return dict(_Variables(memoryview(data), order).read(names))
    except (ValueError, IndexError, OverflowError, struct.error, zlib.error) as error:
        raise InputError(f"{path} is damaged: {error}; fetch it again") from error


class _Variables:
    def __init__(self, data: memoryview, order: str) -> None:
        self.data, self.order, self.cells = data, order, 0

    def read(self, names: Collection[str]) -> list[tuple[str, Any]]:
        found, at = [], _HEADER
        while at < len(self.data):
            kind, body, at = self.element(self.data, at)
            if kind == _COMPRESSED:
                unpacked = zlib.decompressobj().decompress(body, MAX_BYTES)
                kind, body, _ = self.element(memoryview(unpacked), 0)
            if kind == _MATRIX:
                name, value = self.matrix(body, 0, names)
                if name in names:
                    found.append((name, value))
        return found

    def element(self, data: memoryview, at: int) -> tuple[int, memoryview, int]:
        """Return the type and content of an element, and where the next one starts."""
        first, length = struct.unpack_from(self.order + "II", data, at)
        if first >> 16:  # up to four bytes stand in the tag itself
            kind, length = first & 0xFFFF, first >> 16
            start, after = at + 4, at + 8
        else:
            kind, start = first, at + 8
            after = start + length + (0 if kind == _COMPRESSED else -length % 8)
        content = data[start : start + length]
        if len(content) != length:
            raise ValueError("it ends in the middle")
        return kind, content, after

    def numbers(self, kind: int, content: memoryview) -> np.ndarray:
        if kind not in _NUMBERS:
            raise ValueError(f"numbers of type {kind}")
        return np.frombuffer(content, self.order + _NUMBERS[kind])

    def matrix(self, body: memoryview, depth: int, names: Collection[str] | None = None) -> tuple[str, Any]:
        if not body:
            return "", np.zeros((0, 0))
        if depth > _MAX_DEPTH:
            raise ValueError(f"cells are more than {_MAX_DEPTH} deep")
        kind, content, at = self.element(body, 0)
        flags = int(self.numbers(kind, content)[0])
        kind, content, at = self.element(body, at)
        shape = tuple(self.numbers(kind, content).tolist())
        if min(shape, default=-1) < 0:
            raise ValueError(f"an array of shape {shape}")
        _, content, at = self.element(body, at)
        name = bytes(content).decode("latin-1")
        if names is not None and name not in names:
            return name, None
        return name, self.value(flags, shape, body, at, depth)

    def value(self, flags: int, shape: tuple[int, ...], body: memoryview, at: int, depth: int) -> Any:
        kind, count = flags & 0xFF, math.prod(shape)
        if kind == _CELL:
            return self.several(count, body, at, depth)[0]
        if kind == _STRUCT:
            code, content, at = self.element(body, at)
            width = int(self.numbers(code, content)[0])
            _, content, at = self.element(body, at)
            if width < 1:
                raise ValueError(f"names of {width} bytes")
            fields = [
                bytes(content[start : start + width]).split(b"\0")[0].decode("latin-1")
                for start in range(0, len(content), width)
            ]
            values, _ = self.several(count * len(fields), body, at, depth)
            rows = range(0, len(values), max(len(fields), 1))
            return [dict(zip(fields, values[row : row + len(fields)], strict=True)) for row in rows]
        if kind == _CHAR:
            return self.text(shape, *self.element(body, at)[:2])
        if kind not in _NUMERIC or flags & 0x800:
            raise ValueError(f"an array of class {kind}{' with complex numbers' if flags & 0x800 else ''}")
        stored = self.numbers(*self.element(body, at)[:2])
        return stored.astype(_NUMERIC[kind]).reshape(shape, order="F")

    def several(self, count: int, body: memoryview, at: int, depth: int) -> tuple[list[Any], int]:
        self.cells += count
        if self.cells > _MAX_CELLS:
            raise ValueError(f"more than {_MAX_CELLS} cells")
        values = []
        for _ in range(count):
            kind, content, at = self.element(body, at)
            if kind != _MATRIX:
                raise ValueError(f"a cell of type {kind}")
            values.append(self.matrix(content, depth + 1)[1])
        return values, at

    def text(self, shape: tuple[int, ...], kind: int, content: memoryview) -> str:
        if len(shape) != 2 or (shape[0] > 1 and shape[1]):
            raise ValueError(f"text of shape {shape}")
        endian = "-le" if self.order == "<" else "-be"
        encoding = _TEXT.get(17 if kind == 4 else kind)
        if encoding is None:
            raise ValueError(f"text of type {kind}")
        return bytes(content).decode(encoding + endian if encoding in ("utf-16", "utf-32") else encoding)
