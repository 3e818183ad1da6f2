"""Read product quantization codebooks out of a faiss index file, without faiss.

Supported is what `faiss.write_index` writes of an IndexPQ with 8 bits a code, alone or behind one rotation
(IndexPreTransform with OPQ), whether or not vectors were added. All numbers are little-endian:

    "IxPT" header, int32 1, transform, index         IndexPreTransform with one transform
    "IxPq" header, quantizer, codes, int32 search type, uint8 encode signs, int32 polysemous threshold
    header      int32 d, int64 vectors, 2 x int64 unused, uint8 trained, int32 metric, float32 argument if metric > 1
    transform   "LTra", uint8 biased, matrix A, vector b, int32 d in, int32 d out, uint8 trained; or "rrot", the same
    quantizer   int64 d, int64 M, int64 bits, vector of M * 256 * (d / M) float32: the centroids, M slowest
    vector      int64 length, then the numbers: float32, for codes uint8

Source: faiss/impl/index_write.cpp of faiss 1.15, MIT.
"""

from __future__ import annotations

import os
import struct
from typing import Any, BinaryIO

import numpy as np

from imgrank.arrays import Floats
from imgrank.errors import InputError
from imgrank.tokens.product_quantization import Codebooks

_SUPPORTED = "supported are IndexPQ with 8 bits, and IndexPreTransform with one rotation (OPQ) before such an IndexPQ"
_TAIL = 9  # bytes of an IndexPQ's search settings
# What people are likely to try.
_NAMES = {
    b"IxF2": "IndexFlatL2", b"IxFI": "IndexFlatIP", b"IwFl": "IndexIVFFlat", b"IwPQ": "IndexIVFPQ",
    b"IxSQ": "IndexScalarQuantizer", b"IxRq": "IndexResidualQuantizer", b"IxPR": "IndexProductResidualQuantizer",
    b"IPfs": "IndexPQFastScan", b"IHNp": "IndexHNSWPQ", b"IHNf": "IndexHNSWFlat", b"IxMp": "IndexIDMap",
    b"Pcam": "PCAMatrix", b"Viqm": "ITQMatrix", b"RmDT": "RemapDimensionsTransform", b"VNrm": "NormalizationTransform",
    b"VCnt": "CenteringTransform",
}  # fmt: skip


def read_faiss_codebooks(path: str | os.PathLike[str]) -> Codebooks:
    """Return the codebooks of a faiss index, of one level; vectors in the index are not read.

    Args:
        path: a file of `faiss.write_index`.

    Raises:
        InputError: the file cannot be read, is damaged, or holds something else; the message says what is supported.
    """
    try:
        with open(path, "rb") as file:  # noqa: PTH123 - any path-like
            return _Reader(file, os.fspath(path)).codebooks()
    except OSError as error:
        raise InputError(f"{os.fspath(path)}: cannot be read: {error.strerror or error}") from error


class _Reader:
    """Takes one piece after the other; nothing is allocated that the rest of the file could not fill."""

    def __init__(self, file: BinaryIO, path: str) -> None:
        self._file, self._path = file, path
        self._left = os.fstat(file.fileno()).st_size

    def codebooks(self) -> Codebooks:
        kind = self._take(4)
        rotation = None
        if kind == b"IxPT":
            d, _ = self._header()
            (transforms,) = self._numbers("<i")
            if transforms != 1:
                raise self._refusal(f"an index with {transforms} transforms")
            rotation = self._rotation(d)
            kind = self._take(4)
        if kind != b"IxPq":
            raise self._refusal(f"{'a rotation and then ' if rotation is not None else ''}{_named(kind)}")
        d, n = self._header()
        if rotation is not None and len(rotation) != d:
            raise self._damage(f"a rotation of {len(rotation)} numbers before an index of {d}")
        centroids = self._centroids(d)
        codes = self._length(1)
        if codes != n * len(centroids) or self._left != codes + _TAIL:
            raise self._damage(f"{n} vectors cannot have {codes} bytes of codes in a file of this size")
        try:
            return Codebooks(centroids[None, None], None if rotation is None else rotation[None])
        except InputError as error:
            raise InputError(f"{self._path}: {error}") from error

    def _header(self) -> tuple[int, int]:
        """Return the numbers of a vector, and how many vectors there are."""
        d, n, _, _, trained, metric = self._numbers("<iqqqBi")
        if metric > 1:
            self._take(4)
        if not trained:
            raise self._refusal("an index that is not trained; train it before it is written")
        if d < 1 or n < 0:
            raise self._damage(f"{n} vectors of {d} numbers")
        return d, n

    def _rotation(self, d: int) -> Floats:
        kind = self._take(4)
        if kind not in (b"LTra", b"rrot"):
            raise self._refusal(f"a transform {_named(kind)}")
        biased, *_ = self._numbers("<B")
        matrix, bias = self._floats(), self._floats()
        d_in, d_out, trained = self._numbers("<iiB")
        if d_in != d_out:
            raise self._refusal(f"a transform from {d_in} to {d_out} numbers, not a rotation")
        if not trained or d_in != d or len(matrix) != d * d:
            raise self._damage(f"a transform of {len(matrix)} numbers for vectors of {d}")
        if biased and bias.any():
            raise self._refusal("a transform with an offset, not a rotation")
        # faiss multiplies columns from the left, A x; here rows are multiplied from the right.
        return np.ascontiguousarray(matrix.reshape(d, d).T)

    def _centroids(self, d: int) -> Floats:
        """Return (M, 256, d // M)."""
        pq_d, m, bits = self._numbers("<qqq")
        if bits != 8:
            raise self._refusal(f"product quantization with {bits} bits a code")
        if pq_d != d or m < 1 or d % m:
            raise self._damage(f"{m} sub-vectors of {pq_d} numbers in an index of {d}")
        numbers = self._floats()
        if len(numbers) != 256 * d:
            raise self._damage(f"{len(numbers)} numbers for the centroids of {d}")
        return numbers.reshape(m, 256, d // m)

    def _floats(self) -> Floats:
        return np.frombuffer(self._take(4 * self._length(4)), dtype="<f4").astype(np.float32)

    def _length(self, size: int) -> int:
        """Return the length of a vector, if the file is long enough for it."""
        length: int = self._numbers("<q")[0]
        if not 0 <= length * size <= self._left:
            raise self._damage(f"{length} numbers cannot follow")
        return length

    def _numbers(self, layout: str) -> tuple[Any, ...]:
        return struct.unpack(layout, self._take(struct.calcsize(layout)))

    def _take(self, size: int) -> bytes:
        taken = self._file.read(size) if size <= self._left else b""
        if len(taken) != size:
            raise self._damage("it ends too early")
        self._left -= size
        return taken

    def _refusal(self, what: str) -> InputError:
        return InputError(f"{self._path}: holds {what}; {_SUPPORTED}")

    def _damage(self, what: str) -> InputError:
        return InputError(f"{self._path}: not a faiss index, or a damaged one: {what}; write it again with write_index")


def _named(kind: bytes) -> str:
    return _NAMES.get(kind) or f"something that starts with {kind!r}"
