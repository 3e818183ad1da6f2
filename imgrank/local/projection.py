"""From raw vectors to descriptors: centre, rotate to principal directions, weigh them; or a linear layer.

The shipped projection was fitted on drawn photos. `fit_projection` fits one on a user's own collection, which measures
better there; descriptors of two projections do not mix.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from imgrank.arrays import Floats, unit_rows
from imgrank.errors import InputError

WHITENING = 0.5  # exponent: 0 keeps the variances, 1 makes them equal
_STEP = 0.335  # standard deviations; the best step for a Gaussian and 16 even levels (Max 1960)


@dataclass(frozen=True, eq=False)
class Projection:
    """Affine map to descriptors.

    Attributes:
        mean: (raw_dim,) float32.
        basis: (raw_dim, dim) float32, weighed principal directions, or the transposed weights of a linear layer.
        bias: (dim,) float32, of a linear layer that has one. It is not written as a mean: a layer with more outputs
            than inputs has none that gives its bias, and a square one only with a loss of digits.
    """

    mean: Floats
    basis: Floats
    bias: Floats | None = None

    @property
    def digest(self) -> str:
        """Return 16 hexadecimal digits that tell projections apart."""
        digest = hashlib.blake2b(digest_size=8)
        for array in (self.mean, self.basis, *([] if self.bias is None else [self.bias])):
            digest.update(array.tobytes())
        return digest.hexdigest()

    def apply(self, raw: Floats) -> Floats:
        """Project (n, raw_dim) raw vectors to (n, dim) float32 unit rows.

        A raw vector that the projection takes to zero becomes the first axis: a descriptor always has length 1.
        """
        mapped = (raw - self.mean) @ self.basis
        projected = unit_rows(mapped if self.bias is None else mapped + self.bias)
        projected[~projected.any(axis=1), 0] = 1
        return projected


def fit_projection(raw: Floats, dim: int = 1024, whitening: float = WHITENING) -> Projection:
    """Fit the principal directions of raw vectors, partly whitened.

    Args:
        raw: (n, raw_dim) float32; several thousand photos are plenty.
        dim: length of the descriptors; at most n - 1 and raw_dim, fewer where the photos vary in fewer directions.
        whitening: see `weights_of`.

    Raises:
        InputError: fewer than two photos, or they are all equal.

    Source:
        Jegou and Chum 2012. By the n x n products of the photos, because raw vectors are longer than n.
    """
    if len(raw) < 2:
        raise InputError(f"{len(raw)} photos are too few to fit a projection on; give at least 2")
    mean = raw.mean(axis=0, dtype=np.float64)
    centred = raw - mean
    values, vectors = np.linalg.eigh(centred @ centred.T)
    values, vectors = values[::-1], vectors[:, ::-1]
    dim = min(dim, len(raw) - 1, int((values > 1e-9 * values[0]).sum()))
    if values[0] <= 0 or dim < 1:
        raise InputError("the photos are all alike; a projection cannot be fitted on them")
    values, vectors = values[:dim], vectors[:, :dim]
    # The sign of an eigenvector is arbitrary: its largest entry is made positive, so that equal photos give equal bits.
    vectors = vectors * np.sign(vectors[np.abs(vectors).argmax(axis=0), np.arange(dim)])
    basis = centred.T @ (vectors / np.sqrt(values))
    return Projection(mean.astype(np.float32), (basis * weights_of(values, whitening)).astype(np.float32))


def weights_of(variances: npt.NDArray[np.float64], whitening: float) -> npt.NDArray[np.float64]:
    """Return the factors of principal directions.

    Args:
        variances: (dim,) of the directions, above 0; their unit does not matter.
        whitening: exponent: 0 keeps the variances, 1 makes them equal.
    """
    weights: npt.NDArray[np.float64] = (variances / variances.mean()) ** (-whitening / 2)
    return weights


def pack(basis: Floats) -> tuple[npt.NDArray[np.uint8], Floats]:
    """Round a (rows, dim) matrix to 4 bits a number.

    Returns:
        (rows / 2 rounded up, dim) uint8, rows 2 i and 2 i + 1 in the low and the high half of byte i; and (dim,)
        float32, the step of each column: a number is (code - 8) * step.
    """
    steps = (basis.astype(np.float64).std(axis=0) * _STEP).astype(np.float32)
    codes = np.clip(np.rint(basis / np.where(steps > 0, steps, 1)), -8, 7).astype(np.int8) + 8
    halves = np.vstack([codes, np.zeros((len(codes) % 2, codes.shape[1]), np.int8)]).astype(np.uint8)
    packed: npt.NDArray[np.uint8] = halves[0::2] | (halves[1::2] << np.uint8(4))
    return packed, steps


def unpack(packed: npt.NDArray[np.uint8], steps: Floats, rows: int) -> Floats:
    """Return the (rows, dim) float32 matrix of `pack`."""
    basis = np.empty((2 * len(packed), packed.shape[1]), dtype=np.float32)
    basis[0::2] = packed & 15
    basis[1::2] = packed >> 4
    return (basis[:rows] - 8) * steps
