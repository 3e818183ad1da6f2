"""The built-in encoder: classical local features aggregated to one descriptor; no download, no GPU.

The features are computed once and serve the descriptor and the geometric re-ranking. The weights, a vocabulary and a
projection, were fitted on drawn photos by `imgrank.training.vocabulary`.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from importlib import resources
from typing import Any

import numpy as np
from safetensors import SafetensorError
from safetensors.numpy import load

from imgrank.arrays import Floats, Pixels
from imgrank.encode.base import JSON, Encoded
from imgrank.errors import MissingModelError
from imgrank.local.keypoints import Keypoints, LocalSettings, available_threads, detect, kept
from imgrank.local.projection import Projection, unpack
from imgrank.local.vlad import INPUT_DIM, Vocabulary, aggregate

WEIGHTS_FILE = "builtin.safetensors"
DESCRIPTOR_DIM = 1024
WEIGHTS_VERSION = 1  # changes when the meaning of the weights does
_BATCH = 32


class BuiltinEncoder:
    """VLAD of RootSIFT, colours and angles, projected to 1024 numbers; gives the local features along.

    Args:
        raw: leave the projection out, and give the unit vectors that another projection can be fitted on.

    Raises:
        MissingModelError: the weights are missing from the installation, damaged, or of another version.
    """

    name = "builtin"

    def __init__(self, *, raw: bool = False) -> None:
        self._local = LocalSettings()
        self._vocabulary, projection, digest = _load_weights(self._local)
        self._projection = None if raw else projection
        self.revision = f"{WEIGHTS_VERSION}-{digest}"
        self.dim = self._vocabulary.raw_dim if raw else projection.basis.shape[1]
        self.longer_side = self._local.longer_side
        self.batch_size = _BATCH
        self.settings: Mapping[str, JSON] = {"local": json.loads(self._local.to_json())}

    def encode(self, images: Sequence[Pixels]) -> Encoded:
        """Compute descriptors and local features of n photos, each (height, width, 3) uint8 sRGB of any size.

        A photo's result depends on its own pixels only: neither on its batch nor on the number of threads. Photos
        without any keypoint all get the same descriptor.

        Raises:
            InputError: a photo has another shape or dtype.
        """
        descriptors = np.zeros((len(images), self.dim), dtype=np.float32)
        local = []
        workers = min(len(images), available_threads())
        # Only OpenCV's part runs in threads of ours: matrix products have threads of their own, and both kinds nested
        # would halve the speed.
        with ThreadPoolExecutor(max(1, workers)) as pool:
            found = pool.map(lambda image: detect(image, self._local), images)
            for row, keypoints in zip(descriptors, found, strict=True):
                row[:] = self.aggregate(keypoints)
                local.append(kept(keypoints, self._local))
        return Encoded(descriptors, local)

    def aggregate(self, keypoints: Keypoints) -> Floats:
        """Return the (dim,) float32 descriptor of a photo's keypoints."""
        vector = aggregate(keypoints, self._vocabulary)
        return vector if self._projection is None else self._projection.apply(vector[None])[0]


def _load_weights(settings: LocalSettings) -> tuple[Vocabulary, Projection, str]:
    reinstall = "reinstall imgrank"
    try:
        data = (resources.files("imgrank.encode") / WEIGHTS_FILE).read_bytes()
        tensors = load(data)
        meta = _metadata(data)
        if meta != expected_metadata(settings):
            raise MissingModelError("builtin", f"{WEIGHTS_FILE} is of another version ({meta}); {reinstall}")
        vocabulary = Vocabulary(
            *(tensors[key].astype(np.float32) for key in ("vocabulary.mean", "vocabulary.basis", "vocabulary.words"))
        )
        mean = tensors["projection.mean"].astype(np.float32)
        projection = Projection(mean, unpack(tensors["projection.codes"], tensors["projection.steps"], len(mean)))
    except (OSError, SafetensorError, KeyError, ValueError) as error:
        raise MissingModelError("builtin", f"{WEIGHTS_FILE} cannot be read ({error}); {reinstall}") from error
    fits = (
        vocabulary.mean.shape == (INPUT_DIM,)
        and vocabulary.basis.shape == (INPUT_DIM, vocabulary.words.shape[1])
        and projection.basis.shape[0] == vocabulary.raw_dim == len(projection.mean)
    )
    if not fits:
        raise MissingModelError("builtin", f"{WEIGHTS_FILE} has arrays of other shapes; {reinstall}")
    return vocabulary, projection, hashlib.sha256(data).hexdigest()[:12]


def expected_metadata(settings: LocalSettings) -> dict[str, str]:
    """Return what the weights file must say of itself, in safetensors metadata.

    A single key: safetensors writes several in random order, and equal weights would not be equal bytes.
    """
    return {"version": f"{WEIGHTS_VERSION}.{settings.version}"}


def _metadata(data: bytes) -> dict[str, Any]:
    """Return the metadata of a safetensors file: 8 bytes of length, little-endian, then a JSON header."""
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    found = header.get("__metadata__", {})
    return {str(key): found[key] for key in sorted(found)}
