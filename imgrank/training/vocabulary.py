"""Fit the built-in weights on drawn photos: reduction of local features, vocabulary, and projection of the encoder.

    OMP_NUM_THREADS=1 python -m imgrank.training.vocabulary -o imgrank/encode/builtin.safetensors \\
        --features imgrank/local/rootsift.safetensors

Equal arguments and an equal number of BLAS threads give equal bytes on one machine. No photo is read.
"""

from __future__ import annotations

import argparse
import itertools
import multiprocessing
from collections.abc import Iterator, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
from safetensors.numpy import save

from imgrank.arrays import Floats
from imgrank.encode.builtin import DESCRIPTOR_DIM, expected_metadata
from imgrank.errors import InputError
from imgrank.local.compact import Reduction
from imgrank.local.features import DIM
from imgrank.local.keypoints import Keypoints, LocalSettings, detect
from imgrank.local.projection import Projection, fit_projection, pack
from imgrank.local.vlad import INPUT_DIM, Vocabulary, aggregate, embed
from imgrank.training.photos import draw_photo

PHOTOS = 2000
WORDS = 8
SAMPLE = 150_000  # keypoints that the vocabulary is fitted on
ROUNDS = 20  # of k-means
FIRST_SEED = 1_000_000  # the drawn photos are FIRST_SEED, FIRST_SEED + 1, ...
_REDUCTION_WHITENING = 0.5  # as in `projection`: half way to equal variances


@dataclass(frozen=True, eq=False)
class Weights:
    """What is shipped."""

    reduction: Reduction
    vocabulary: Vocabulary
    projection: Projection


def fit(photos: Sequence[Keypoints], words: int = WORDS) -> Weights:
    """Fit all weights on the keypoints of drawn photos.

    Raises:
        InputError: the photos have too few keypoints.
    """
    inputs = np.concatenate([embed(one) for one in photos])
    if len(inputs) < max(words, INPUT_DIM):
        raise InputError(f"{len(inputs)} keypoints are too few to fit on; draw more photos")
    inputs = inputs[np.sort(np.random.default_rng(0).permutation(len(inputs))[:SAMPLE])]
    mean, basis = principal_directions(inputs, INPUT_DIM)
    vocabulary = Vocabulary(mean, basis, k_means((inputs - mean) @ basis, words, ROUNDS))
    vocabulary = Vocabulary(*(_halved(part) for part in (mean, basis, vocabulary.words)))
    raw = np.stack([aggregate(one, vocabulary) for one in photos])
    return Weights(_reduction(inputs[:, :128]), vocabulary, fit_projection(raw, DESCRIPTOR_DIM))


def _reduction(root_sift: Floats) -> Reduction:
    mean, basis = principal_directions(root_sift, DIM)
    deviations = ((root_sift - mean) @ basis).std(axis=0, dtype=np.float64)
    return Reduction(mean, (basis * deviations**-_REDUCTION_WHITENING).astype(np.float32))


def _halved(values: Floats) -> Floats:
    """Round to half precision, as stored: the projection is fitted on what the shipped vocabulary gives."""
    return values.astype(np.float16).astype(np.float32)


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


def encoder_bytes(weights: Weights, settings: LocalSettings) -> bytes:
    """Return the weights of the encoder as safetensors: half precision, the large matrix in 4 bits a number."""
    codes, steps = pack(weights.projection.basis)
    tensors: dict[str, npt.NDArray[Any]] = {
        "vocabulary.mean": weights.vocabulary.mean.astype(np.float16),
        "vocabulary.basis": weights.vocabulary.basis.astype(np.float16),
        "vocabulary.words": weights.vocabulary.words.astype(np.float16),
        "projection.mean": weights.projection.mean.astype(np.float16),
        "projection.steps": steps,
        "projection.codes": codes,
    }
    return bytes(save(tensors, metadata=expected_metadata(settings)))


def reduction_bytes(weights: Weights) -> bytes:
    """Return the weights of the local features as safetensors."""
    return bytes(save({"mean": weights.reduction.mean, "basis": weights.reduction.basis}))


def drawn_keypoints(count: int, workers: int | None) -> Iterator[Keypoints]:
    """Draw photos and yield their keypoints, in the order of the seeds."""
    seeds = range(FIRST_SEED, FIRST_SEED + count)
    with ProcessPoolExecutor(workers, multiprocessing.get_context("spawn")) as pool:
        yield from pool.map(_keypoints, seeds, itertools.repeat(LocalSettings()), chunksize=4)


def _keypoints(seed: int, settings: LocalSettings) -> Keypoints:
    return detect(draw_photo(seed), settings)


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line of this module."""
    parser = argparse.ArgumentParser(prog="python -m imgrank.training.vocabulary", description=__doc__)
    parser.add_argument("-o", "--output", type=Path, required=True, help="weights of the encoder")
    parser.add_argument("--features", type=Path, help="also write the weights of the local features")
    parser.add_argument("--photos", type=int, default=PHOTOS, help="photos to draw (default: %(default)s)")
    parser.add_argument("--words", type=int, default=WORDS, help="visual words (default: %(default)s)")
    parser.add_argument("--workers", type=int, default=None, help="processes (default: one per core)")
    options = parser.parse_args(arguments)
    weights = fit(list(drawn_keypoints(options.photos, options.workers)), options.words)
    options.output.write_bytes(encoder_bytes(weights, LocalSettings()))
    if options.features is not None:
        options.features.write_bytes(reduction_bytes(weights))


if __name__ == "__main__":
    main()
