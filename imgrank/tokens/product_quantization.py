"""Product quantization: a token is cut into sub-vectors, each of which is stored as the number of its nearest centroid.

Only what is stored is coded. The query stays as the model made it, and is compared with decoded tokens: what the paper
calls asymmetric.

Source: Jegou et al. 2011, doi:10.1109/TPAMI.2010.57. Each level of a token has codebooks of its own; a second stage
that codes what the first leaves, and a rotation before the cut (`rotation.py`), are options.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt

from imgrank.arrays import Floats
from imgrank.errors import InputError, SettingsError
from imgrank.tokens.base import Columns, check_vectors

if TYPE_CHECKING:
    from torch import Tensor

    from imgrank.tokens.kmeans import NearestCentroids

_CENTROIDS = 256
_DECODED, _ENCODED = 256, 2048  # tokens at once: the places in the table stay in a cache, what is on a GPU fits there


@dataclass(frozen=True)
class CodebookSpec:
    """What kind of codebooks to train.

    Attributes:
        subvectors: into how many parts a vector is cut, from 1; it must divide the numbers of a vector.
        stages: 2 adds codebooks for what the first ones leave, at twice the bytes; 1 does not.
        rotated: turn vectors by a learned rotation before they are cut.
    """

    subvectors: int
    stages: int = 1
    rotated: bool = False

    def __post_init__(self) -> None:
        if self.subvectors < 1:
            raise SettingsError(f"cannot cut a token into {self.subvectors} sub-vectors; take 1 or more")
        if self.stages not in (1, 2):
            raise SettingsError(f"product quantization has 1 or 2 stages, not {self.stages}")

    @property
    def name(self) -> str:
        """What a recipe calls it: "pq:M", with "o" in front where it is rotated, "r" where it has two stages."""
        return f"{'o' * self.rotated}{'r' * (self.stages == 2)}pq:{self.subvectors}"


@dataclass(frozen=True, eq=False)
class Codebooks:
    """The centroids of all levels, stages and sub-vectors, and the rotations.

    Attributes:
        centroids: (levels, stages, M, 256, hidden // M) float32.
        rotation: (levels, hidden, hidden) float32, orthonormal: what is cut is vectors @ rotation. None where vectors
            are cut as they are.

    Raises:
        InputError: the arrays are of other shapes or types, a number is not finite, or a rotation is none.
    """

    centroids: Floats
    rotation: Floats | None = None

    def __post_init__(self) -> None:
        shape = self.centroids.shape
        if len(shape) != 5 or shape[3] != _CENTROIDS or 0 in shape or shape[1] > 2:
            raise InputError(
                f"centroids of shape {shape}; codebooks are (levels, 1 or 2 stages, sub-vectors, {_CENTROIDS}, numbers)"
            )
        if self.centroids.dtype != np.float32:
            raise InputError(f"centroids must be float32, not {self.centroids.dtype}")
        with np.errstate(over="ignore"):
            sizes = np.einsum("...i,...i->...", self.centroids, self.centroids)
        if not np.isfinite(sizes).all():
            raise InputError("codebooks hold centroids that are not finite, or too large to compare; train them anew")
        if self.rotation is not None:
            _check_rotation(self.rotation, self.levels, self.hidden)

    @property
    def levels(self) -> int:
        """Vectors per token."""
        return int(self.centroids.shape[0])

    @property
    def stages(self) -> int:
        """1, or 2 where what the first stage leaves is coded too."""
        return int(self.centroids.shape[1])

    @property
    def subvectors(self) -> int:
        """Parts that a vector is cut into."""
        return int(self.centroids.shape[2])

    @property
    def hidden(self) -> int:
        """Numbers per vector."""
        return int(self.centroids.shape[2] * self.centroids.shape[4])

    @property
    def spec(self) -> CodebookSpec:
        """Of what kind the codebooks are."""
        return CodebookSpec(self.subvectors, self.stages, self.rotation is not None)

    def digest(self) -> str:
        """Return 32 hexadecimal digits that differ where anything in the codebooks does."""
        digest = hashlib.blake2b(digest_size=16)
        for array in (self.centroids, self.rotation):
            digest.update(f"{None if array is None else array.shape};".encode())
            if array is not None:
                digest.update(np.ascontiguousarray(array, dtype="<f4").data)
        return digest.hexdigest()


def _check_rotation(rotation: Floats, levels: int, hidden: int) -> None:
    if rotation.shape != (levels, hidden, hidden) or rotation.dtype != np.float32:
        raise InputError(
            f"rotations of shape {rotation.shape} and type {rotation.dtype}; these centroids need "
            f"{(levels, hidden, hidden)}, float32"
        )
    # There and back must be where one was. A few directions tell as much as a product of matrices, and take no time.
    there = np.random.default_rng(0).standard_normal((4, hidden)).astype(np.float32)
    with np.errstate(over="ignore", invalid="ignore"):
        off = np.abs(there @ rotation @ rotation.transpose(0, 2, 1) - there)
    if not (off < 1e-2).all():
        raise InputError("the rotation of codebooks does not keep lengths and angles, or is not finite")


def check_subvectors(subvectors: int, hidden: int) -> None:
    """Refuse to cut vectors into parts of different lengths.

    Raises:
        SettingsError: `subvectors` does not divide `hidden`; the message names the nearest that do.
    """
    if hidden % subvectors == 0:
        return
    known = [number for number in range(1, hidden + 1) if hidden % number == 0]
    nearest = [
        max((n for n in known if n < subvectors), default=1),
        min((n for n in known if n > subvectors), default=1),
    ]
    choice = " or ".join(str(number) for number in sorted(set(nearest) - {1}) or [1])
    raise SettingsError(f"{subvectors} sub-vectors do not divide tokens of {hidden} numbers; take {choice}")


def _tensor(array: Floats, device: str) -> Tensor:
    import torch

    # torch warns of arrays that cannot be written to.
    return torch.from_numpy(np.require(array, requirements=["C", "W"])).to(device)


def _silent(message: str) -> None:
    pass


def train_codebooks(
    vectors: Floats, spec: CodebookSpec, *, seed: int = 0, device: str = "cpu", iterations: int = 25,
    note: Callable[[str], None] = _silent,
) -> Codebooks:  # fmt: skip
    """Learn codebooks from tokens; the same ones from the same tokens, seed and device.

    Args:
        vectors: (n, levels, hidden) tokens, n at least 256; some ten thousand are enough.
        spec: which codebooks.
        seed: chooses what k-means starts from.
        device: a name for `torch.device`.
        iterations: of k-means.
        note: told what is being done.

    Raises:
        SettingsError: the sub-vectors do not divide the numbers of a vector.
        InputError: fewer than 256 tokens, not three axes, or a number is not finite.
    """
    vectors = check_vectors(vectors)
    n, levels, hidden = vectors.shape
    check_subvectors(spec.subvectors, hidden)
    if n < _CENTROIDS:
        raise InputError(
            f"{n} tokens are too few to train codebooks of {_CENTROIDS} centroids; keep more tokens or more photos, "
            "store int8, or take the codebooks of another bundle"
        )
    import torch

    from imgrank.tokens import kmeans
    from imgrank.tokens.rotation import learn_rotation

    rotations, centroids = [], []
    for level in range(levels):
        rest = _tensor(vectors[:, level], device)
        if spec.rotated:
            note(f"rotation{_place(level, levels)}")
            rotations.append(learn_rotation(rest, spec.subvectors, seed=seed))
            rest = rest @ rotations[-1]
        stages = []
        for stage in range(spec.stages):
            note(f"centroids{_place(level, levels)}{_place(stage, spec.stages, 'stage')}")
            stages.append(kmeans.train(rest, spec.subvectors, seed=seed, iterations=iterations))
            if stage + 1 < spec.stages:
                book = kmeans.NearestCentroids(stages[-1])
                rest = rest - book.vectors(book.codes(rest))
        centroids.append(torch.stack(stages))
    return Codebooks(torch.stack(centroids).cpu().numpy(), torch.stack(rotations).cpu().numpy() if rotations else None)


def _place(i: int, n: int, kind: str = "level") -> str:
    return f", {kind} {i + 1} of {n}" if n > 1 else ""


class ProductCodec:
    """One byte for each sub-vector, level and stage.

    A code is that of the nearest centroid, as near as float32 tells; of equally near ones that of the lowest. The
    second stage codes what the first leaves of a sub-vector. Encoding and the rotation use the device, and torch;
    decoding without a rotation is a table look-up in numpy.

    Args:
        codebooks: for the tokens of one model.
        device: a name for `torch.device`.
    """

    def __init__(self, codebooks: Codebooks, device: str = "cpu") -> None:
        self.name = codebooks.spec.name
        self._codebooks, self._device = codebooks, device
        levels, stages, m, _, width = codebooks.centroids.shape
        # One table for each stage, whose rows are the centroids of all levels and sub-vectors.
        self._tables = [codebooks.centroids[:, stage].reshape(-1, width) for stage in range(stages)]
        self._starts = np.arange(0, levels * m * _CENTROIDS, _CENTROIDS).reshape(levels, m)

    def columns(self, levels: int, hidden: int) -> dict[str, tuple[str, tuple[int, ...]]]:
        """Return the one column, `codes`: of each level the codes of the first stage, then those of the second.

        Raises:
            InputError: the codebooks are for tokens of another shape.
        """
        self._check(levels, hidden)
        return {"codes": ("uint8", (levels, self._codebooks.stages * self._codebooks.subvectors))}

    def encode(self, vectors: Floats) -> dict[str, npt.NDArray[Any]]:
        """Turn (n, levels, hidden) float32 into codes; see `Codec.encode`.

        Raises:
            InputError: also where the codebooks are for tokens of another shape.
        """
        vectors = check_vectors(vectors)
        n, levels, hidden = vectors.shape
        self._check(levels, hidden)
        import torch

        codes = np.empty((n, levels, self._codebooks.stages, self._codebooks.subvectors), dtype=np.uint8)
        for start in range(0, n, _ENCODED):
            rest = _tensor(vectors[start : start + _ENCODED], self._device)
            if self._rotation is not None:
                rest = torch.matmul(rest.transpose(0, 1), self._rotation).transpose(0, 1)
            rest = rest.reshape(len(rest), -1)
            for stage, book in enumerate(self._books):
                found = book.codes(rest)
                codes[start : start + _ENCODED, :, stage] = found.view(-1, levels, codes.shape[3]).cpu().numpy()
                if stage + 1 < len(self._books):
                    rest = rest - book.vectors(found)
        return {"codes": codes.reshape(n, levels, codes.shape[2] * codes.shape[3])}

    def decode(self, columns: Columns) -> Floats:
        """Return (n, levels, hidden) float32.

        Raises:
            InputError: the codes are not of these codebooks.
        """
        books, codes = self._codebooks, columns["codes"]
        if codes.dtype != np.uint8 or codes.shape[1:] != (books.levels, books.stages * books.subvectors):
            raise InputError(f"codes of shape {codes.shape} and type {codes.dtype} are not of codebooks {self.name}")
        codes = codes.reshape(len(codes), books.levels, books.stages, books.subvectors)
        width = books.centroids.shape[4]
        vectors = np.empty((len(codes), books.levels, books.subvectors, width), dtype=np.float32)
        for start in range(0, len(codes), _DECODED):
            some, into = codes[start : start + _DECODED], vectors[start : start + _DECODED]
            for stage, table in enumerate(self._tables):
                places = some[:, :, stage] + self._starts
                # "clip", as numpy then writes where it is told without a copy; no place is outside.
                if stage == 0:
                    np.take(table, places, axis=0, out=into, mode="clip")
                else:
                    into += np.take(table, places, axis=0, mode="clip")
        whole = vectors.reshape(len(codes), books.levels, books.hidden)
        return whole if books.rotation is None else self._turned_back(whole)

    def _turned_back(self, vectors: Floats) -> Floats:
        import torch

        assert self._rotation is not None  # by the caller
        for start in range(0, len(vectors), _ENCODED):
            some = _tensor(vectors[start : start + _ENCODED], self._device).transpose(0, 1)
            turned = torch.matmul(some, self._rotation.mT).transpose(0, 1)
            vectors[start : start + _ENCODED] = turned.cpu().numpy()
        return vectors

    @cached_property
    def _books(self) -> list[NearestCentroids]:
        from imgrank.tokens.kmeans import NearestCentroids

        shape = (self._starts.size, _CENTROIDS, -1)
        return [NearestCentroids(_tensor(table.reshape(shape), self._device)) for table in self._tables]

    @cached_property
    def _rotation(self) -> Tensor | None:
        rotation = self._codebooks.rotation
        return None if rotation is None else _tensor(rotation, self._device)

    def _check(self, levels: int, hidden: int) -> None:
        books = self._codebooks
        if (levels, hidden) != (books.levels, books.hidden):
            raise InputError(
                f"codebooks for {books.levels} x {books.hidden} numbers a token do not suit tokens of {levels} x "
                f"{hidden}; train them on tokens of this model"
            )
