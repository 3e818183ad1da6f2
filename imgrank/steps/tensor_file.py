"""A safetensors file written in parts: the header first, since all shapes are known, then rows where they belong.

The library's own writer wants whole tensors in memory. The format is an 8-byte little-endian length, so many bytes of
JSON, and the tensors one after the other without gaps (https://github.com/huggingface/safetensors, "Format").
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Any, Self

import numpy as np
import numpy.typing as npt

_TYPES = {"int64": "I64", "float32": "F32", "float16": "F16", "uint16": "U16"}


class TensorFile:
    """A file with tensors of known shapes, whose rows are appended in any number of parts.

    Args:
        path: of the new file.
        tensors: dtype and shape by name. Those with the widest numbers come first in the file, so that every tensor
            begins at a multiple of its numbers' width.
        metadata: text by name, for the file as a whole.
    """

    def __init__(self, path: Path, tensors: Mapping[str, tuple[str, tuple[int, ...]]], metadata: Mapping[str, str]):
        order = sorted(tensors, key=lambda name: -np.dtype(tensors[name][0]).itemsize)
        header: dict[str, Any] = {"__metadata__": dict(metadata)}
        end = 0
        self._next: dict[str, int] = {}  # byte after the rows that were written, from the first tensor on
        self._ends: dict[str, int] = {}
        self._types: dict[str, np.dtype[Any]] = {}
        for name in order:
            dtype, shape = np.dtype(tensors[name][0]), tensors[name][1]
            start, end = end, end + dtype.itemsize * int(np.prod(shape, dtype=np.int64))
            header[name] = {"dtype": _TYPES[dtype.name], "shape": list(shape), "data_offsets": [start, end]}
            self._next[name], self._ends[name], self._types[name] = start, end, dtype.newbyteorder("<")
        text = json.dumps(header).encode()
        text += b" " * (-len(text) % 8)
        self._data = 8 + len(text)
        self._file = path.open("wb")
        self._file.write(len(text).to_bytes(8, "little") + text)

    def append(self, name: str, rows: npt.NDArray[Any]) -> None:
        """Write the next rows of a tensor."""
        raw = np.ascontiguousarray(rows, dtype=self._types[name]).reshape(-1).view(np.uint8)
        self._file.seek(self._data + self._next[name])
        self._file.write(raw.data)
        self._next[name] += len(raw)
        assert self._next[name] <= self._ends[name], f"too many rows of {name}"

    def __enter__(self) -> Self:
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close the file."""
        self._file.close()
        assert kind is not None or self._next == self._ends, "rows are missing"
