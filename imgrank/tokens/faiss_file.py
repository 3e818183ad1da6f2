"""Codebooks from a faiss index file, read without faiss: `IndexPQ`, alone or behind a rotation such as OPQ.

The file is little-endian: a tag of four letters, a header, then arrays, each behind its length. Every length is held
against what is left of the file before anything is taken. Vectors that the index holds are not read.

Source: `write_index` of faiss (github.com/facebookresearch/faiss, faiss/impl/index_write.cpp).
"""

from __future__ import annotations

import struct
from pathlib import Path
from typing import Any

import numpy as np

from imgrank.arrays import Floats
from imgrank.errors import InputError
from imgrank.tokens.product_quantization import Codebooks

_CENTROIDS = 256
_MAX_DIM = 2**16
_LINEAR = (b"LTra", b"rrot")  # a matrix: OPQ and plain ones; a random rotation
_SUPPORTED = "IndexPQ of 8 bits, alone or behind one square rotation (OPQ), is supported"


def read_faiss_codebooks(path: Path) -> Codebooks:
    """Return the codebooks of an index that `faiss.write_index` wrote, for tokens of one level.

    Raises:
        InputError: another kind of file or index, or one that was cut or damaged.
    """
    reader = _Reader(path)
    tag = reader.take("4s")
    dim = reader.header()
    rotation = None
    if tag == b"IxPT":
        rotation, tag, dim = _transform(reader, dim)
    if tag != b"IxPq":
        raise reader.bad(f"holds {tag!r}; {_SUPPORTED}")
    d, m, bits = (reader.take("Q") for _ in range(3))
    if d != dim or not 0 < d <= _MAX_DIM or not 0 < m <= d or d % m or bits != 8:
        raise reader.bad(f"holds {m} sub-vectors of {bits} bits for {d} numbers; {_SUPPORTED}")
    centroids = reader.floats(m * _CENTROIDS * (d // m)).reshape(1, 1, m, _CENTROIDS, d // m)
    try:
        return Codebooks(centroids, rotation)
    except InputError as error:
        raise reader.bad(str(error)) from error


def _transform(reader: _Reader, dim: int) -> tuple[Floats, bytes, int]:
    """Read the one rotation of an index behind transforms; returns it, and tag and numbers of the index behind it."""
    if reader.take("i") != 1:
        raise reader.bad(f"holds a chain of transforms; {_SUPPORTED}")
    kind = reader.take("4s")
    if kind not in _LINEAR:
        raise reader.bad(f"holds the transform {kind!r}; {_SUPPORTED}")
    reader.take("?")  # whether it has a bias; the array says so, too
    matrix = reader.floats(dim * dim)
    bias = reader.floats(None)
    d_in, d_out, _ = reader.take("i"), reader.take("i"), reader.take("?")
    if (d_in, d_out) != (dim, dim) or bias.any():
        raise reader.bad(f"moves vectors or changes their length ({d_in} to {d_out} numbers); {_SUPPORTED}")
    # faiss turns a vector by matrix @ vector; here vectors are rows.
    rotation = np.ascontiguousarray(matrix.reshape(1, dim, dim).transpose(0, 2, 1))
    tag: bytes = reader.take("4s")
    return rotation, tag, reader.header()


class _Reader:
    def __init__(self, path: Path) -> None:
        self._path, self._place = path, 0
        try:
            self._bytes = np.memmap(path, dtype=np.uint8, mode="r")
        except (OSError, ValueError) as error:  # an empty file cannot be mapped
            raise self.bad(f"cannot be read ({error})") from error

    def bad(self, reason: str) -> InputError:
        return InputError(f"{self._path}: not a faiss index that can be used: it {reason}")

    def take(self, form: str) -> Any:
        """Read one value of a `struct` format."""
        (value,) = struct.unpack("<" + form, self._some(struct.calcsize("<" + form)).tobytes())
        return value

    def floats(self, count: int | None) -> Floats:
        """Read an array of so many float32, or of any number of them up to the largest vector."""
        length = self.take("Q")
        if length != count if count is not None else length > _MAX_DIM:
            raise self.bad(f"holds an array of {length} numbers where {count or 'few'} should be")
        return self._some(4 * length).view("<f4").astype(np.float32)

    def header(self) -> int:
        """Read what every index begins with; returns the numbers of a vector."""
        dim, _, _, _, trained = (self.take(form) for form in "iqqq?")
        if self.take("i") > 1:  # metrics beside inner product and L2 have a number
            self.take("f")
        if not trained or not 0 < dim <= _MAX_DIM:
            raise self.bad(f"is not trained, or for vectors of {dim} numbers")
        return int(dim)

    def _some(self, count: int) -> np.ndarray[Any, np.dtype[np.uint8]]:
        if count > len(self._bytes) - self._place:
            raise self.bad("ends too early")
        self._place += count
        return np.array(self._bytes[self._place - count : self._place])
