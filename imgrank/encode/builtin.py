"""The built-in encoder: classical local features aggregated to one descriptor; no download, no GPU.

The features are computed once and serve the descriptor and the geometric re-ranking. The weights, a vocabulary and a
projection, were fitted on drawn photos by `imgrank.training.vocabulary`.
"""

from __future__ import annotations

import hashlib
import json
import os
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
from imgrank.local.features import LocalFeatures
from imgrank.local.keypoints import LocalSettings, detect
from imgrank.local.projection import Projection
from imgrank.local.vlad import INPUT_DIM, Vocabulary, aggregate

WEIGHTS_FILE = "builtin.safetensors"
WEIGHTS_VERSION = 1  # changes when the meaning of the weights does
_BATCH = 32


class BuiltinEncoder:
    """Colour- and angle-aware VLAD of RootSIFT features, projected; gives the local features along.

    Raises:
        MissingModelError: the weights are missing from the installation, damaged, or of another version.
    """

    name = "builtin"

    def __init__(self) -> None:
        self._local = LocalSettings()
        self._vocabulary, self._projection, digest = _load_weights(self._local)
        self.revision = f"{WEIGHTS_VERSION}-{digest}"
        self.dim = self._projection.basis.shape[1]
        self.longer_side = self._local.longer_side
        self.batch_size = _BATCH
        self.settings: Mapping[str, JSON] = {"local": json.loads(self._local.to_json())}

    def encode(self, images: Sequence[Pixels]) -> Encoded:
        """Compute descriptors and local features of n photos, each (height, width, 3) uint8 sRGB of any size.

        A photo's result depends on its own pixels only: neither on its batch nor on the number of threads. A photo without any
        feature gets the descriptor of an empty photo, the same for all of them.

        Raises:
            InputError: a photo has another shape or dtype.
        """
        workers = min(len(images), os.cpu_count() or 1, 8)
        if workers > 1:
            with ThreadPoolExecutor(workers) as pool:
                found = list(pool.map(self._encode_one, images))
        else:
            found = [self._encode_one(image) for image in images]
        descriptors = np.zeros((len(found), self.dim), dtype=np.float32)
        for row, (descriptor, _) in zip(descriptors, found, strict=True):
            row[:] = descriptor
        return Encoded(descriptors, [features for _, features in found])

    def _encode_one(self, pixels: Pixels) -> tuple[Floats, LocalFeatures]:
        features = detect(pixels, self._local)
        raw = aggregate(features, self._vocabulary)
        return self._projection.apply(raw[None])[0], features.first(self._local.keep)


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
        basis = tensors["projection.basis"].astype(np.float32) * tensors["projection.scale"].astype(np.float32)
        projection = Projection(tensors["projection.mean"].astype(np.float32), basis)
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
    """Return what the weights file must say of itself, in safetensors metadata."""
    return {"weights-version": str(WEIGHTS_VERSION), "local-version": str(settings.version)}


def _metadata(data: bytes) -> dict[str, Any]:
    """Return the metadata of a safetensors file: 8 bytes of length, little-endian, then a JSON header."""
    header = json.loads(data[8 : 8 + int.from_bytes(data[:8], "little")])
    found = header.get("__metadata__", {})
    return {str(key): found[key] for key in sorted(found)}
