"""Fit the weights of the built-in encoder on drawn photos and write them: a vocabulary and a projection.

    python -m imgrank.training.vocabulary -o imgrank/encode/builtin.safetensors

Equal arguments give equal bytes on one machine. No photo is read.
"""

from __future__ import annotations

import argparse
import itertools
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save

from imgrank.arrays import Floats
from imgrank.encode.builtin import expected_metadata
from imgrank.errors import InputError
from imgrank.local.features import LocalFeatures
from imgrank.local.keypoints import LocalSettings, detect
from imgrank.local.projection import Projection, fit_projection
from imgrank.local.vlad import Vocabulary, aggregate, embed
from imgrank.training.photos import draw_photo

PHOTOS = 1000
WORDS = 32
DIM = 32
DESCRIPTOR_DIM = 384
SAMPLE = 150_000  # features that the vocabulary is fitted on
ROUNDS = 20  # of k-means
FIRST_SEED = 1_000_000  # of the drawn photos, which are FIRST_SEED, FIRST_SEED + 1, ...


def fit(features: list[LocalFeatures], words: int = WORDS, dim: int = DIM) -> tuple[Vocabulary, Projection]:
    """Fit both on the features of drawn photos.

    Raises:
        InputError: the photos have fewer features than there are words.
    """
    inputs = np.concatenate([embed(one) for one in features])
    if len(inputs) < max(words, dim):
        raise InputError(f"{len(inputs)} features are too few for {words} words; draw more photos")
    rng = np.random.default_rng(0)
    inputs = inputs[np.sort(rng.permutation(len(inputs))[:SAMPLE])]
    mean, basis = principal_directions(inputs, dim)
    vocabulary = Vocabulary(mean, basis, k_means((inputs - mean) @ basis, words, ROUNDS))
    raw = np.stack([aggregate(one, vocabulary) for one in features])
    return vocabulary, fit_projection(raw, DESCRIPTOR_DIM)


def principal_directions(rows: Floats, dim: int) -> tuple[Floats, Floats]:
    """Return the mean (d,) of (n, d) rows and their first `dim` principal directions, (d, dim)."""
    mean = rows.mean(axis=0, dtype=np.float64)
    centred = rows - mean
    directions = np.linalg.eigh(centred.T @ centred)[1][:, ::-1][:, :dim]
    signs = np.sign(directions[np.abs(directions).argmax(axis=0), np.arange(directions.shape[1])])
    return mean.astype(np.float32), (directions * signs).astype(np.float32)


def k_means(rows: Floats, count: int, rounds: int, seed: int = 0) -> Floats:
    """Return (count, d) centres of (n, d) rows by Lloyd's rounds from random rows; an empty centre starts anew."""
    rng = np.random.default_rng(seed)
    centres = rows[rng.choice(len(rows), count, replace=False)].copy()
    for _ in range(rounds):
        nearest = np.argmax(rows @ centres.T - 0.5 * (centres * centres).sum(axis=1), axis=1)
        for j in range(count):
            mine = rows[nearest == j]
            centres[j] = mine.mean(axis=0) if len(mine) else rows[rng.integers(len(rows))]
    return centres


def to_bytes(vocabulary: Vocabulary, projection: Projection, settings: LocalSettings) -> bytes:
    """Return the weights as safetensors: half precision, the large matrix in bytes with a scale per column."""
    scale = np.abs(projection.basis).max(axis=0) / 127
    tensors: dict[str, npt.NDArray[np.generic]] = {
        "vocabulary.mean": vocabulary.mean.astype(np.float16),
        "vocabulary.basis": vocabulary.basis.astype(np.float16),
        "vocabulary.words": vocabulary.words.astype(np.float16),
        "projection.mean": projection.mean.astype(np.float16),
        "projection.scale": scale.astype(np.float32),
        "projection.basis": np.rint(projection.basis / np.where(scale > 0, scale, 1)).astype(np.int8),
    }
    return bytes(save(tensors, metadata=expected_metadata(settings)))


def drawn_features(count: int, workers: int | None) -> Iterator[LocalFeatures]:
    """Draw photos and yield their features, in the order of the seeds."""
    with ProcessPoolExecutor(workers) as pool:
        yield from pool.map(_features, range(FIRST_SEED, FIRST_SEED + count), itertools.repeat(LocalSettings()), chunksize=4)


def _features(seed: int, settings: LocalSettings) -> LocalFeatures:
    return detect(draw_photo(seed), settings)


def main(arguments: list[str] | None = None) -> None:
    """Run the command line of this module."""
    parser = argparse.ArgumentParser(prog="python -m imgrank.training.vocabulary", description=__doc__)
    parser.add_argument("-o", "--output", type=Path, required=True)
    parser.add_argument("--photos", type=int, default=PHOTOS, help="photos to draw (default: %(default)s)")
    parser.add_argument("--words", type=int, default=WORDS)
    parser.add_argument("--dim", type=int, default=DIM, help="of a reduced local feature")
    parser.add_argument("--workers", type=int, default=None, help="processes (default: one per core)")
    options = parser.parse_args(arguments)
    features = list(drawn_features(options.photos, options.workers))
    options.output.write_bytes(to_bytes(*fit(features, options.words, options.dim), LocalSettings()))


if __name__ == "__main__":
    main()
