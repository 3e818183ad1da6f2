"""RootSIFT reduced to few bytes: principal directions, partly whitened.

The directions were fitted on drawn photos by `imgrank.training.vocabulary` and are shipped beside this module.
"""

from __future__ import annotations

import functools
from dataclasses import dataclass
from importlib import resources

import numpy as np
import numpy.typing as npt
from safetensors import SafetensorError
from safetensors.numpy import load

from imgrank.arrays import Floats, unit_rows
from imgrank.errors import MissingModelError
from imgrank.local.features import DIM, ZERO

REDUCTION_FILE = "rootsift.safetensors"
_LENGTH = 256  # of a row before rounding; its numbers hardly reach half of that


@dataclass(frozen=True, eq=False)
class Reduction:
    """Affine map of unit RootSIFT vectors.

    Attributes:
        mean: (128,) float32.
        basis: (128, DIM) float32.
    """

    mean: Floats
    basis: Floats

    def to_bytes(self, root_sift: npt.NDArray[np.uint8]) -> npt.NDArray[np.uint8]:
        """Reduce (n, 128) RootSIFT rows of any length to the (n, DIM) bytes of `LocalFeatures.descriptors`."""
        reduced = unit_rows((unit_rows(root_sift) - self.mean) @ self.basis) * _LENGTH
        return (np.rint(np.clip(reduced, -ZERO, ZERO - 1)) + ZERO).astype(np.uint8)


@functools.cache
def shipped_reduction() -> Reduction:
    """Load the reduction that belongs to this version.

    Raises:
        MissingModelError: its file is missing from the installation, or damaged.
    """
    try:
        tensors = load((resources.files("imgrank.local") / REDUCTION_FILE).read_bytes())
        reduction = Reduction(tensors["mean"].astype(np.float32), tensors["basis"].astype(np.float32))
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise MissingModelError("builtin", f"{REDUCTION_FILE} cannot be read ({error}); reinstall imgrank") from error
    if reduction.mean.shape != (128,) or reduction.basis.shape != (128, DIM):
        raise MissingModelError("builtin", f"{REDUCTION_FILE} has arrays of other shapes; reinstall imgrank")
    return reduction
