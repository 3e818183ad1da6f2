"""From the keypoints of a photo to one raw vector: VLAD that knows colours, angles and the middle of the photo.

A keypoint is coded by its difference from the nearest visual word; the difference is repeated, modulated by harmonics
of the keypoint's angle, so that two of them count fully only where their angles agree too, and weighs less far from
the middle of the photo. Sums per word, the words balanced and the values damped. Knows nothing of photos or files.

Sources: Jegou et al. 2010 (VLAD); Delhumeau et al. 2013 (residuals of length 1, damping in principal axes);
Arandjelovic and Zisserman 2013 (every word's block of length 1); Tolias, Furon and Jegou 2014 (angles by explicit
feature maps).
Colours in the input and the few but long words are ours: they measured best before a projection to 1024 numbers.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from imgrank.arrays import Floats, unit_rows
from imgrank.local.keypoints import COLOUR_POINTS, Keypoints

INPUT_DIM = 128 + 3 * COLOUR_POINTS
HARMONICS = (1.0, 0.9)  # weights of 1 and of (cos t, sin t)
POWER = 0.4  # every value v becomes sign(v) |v|^POWER: against keypoints that repeat within a photo
SPREAD = 0.25  # standard deviation of the weight around the middle, in units of the longer side
_MODULATIONS = 2 * len(HARMONICS) - 1
# Lab bytes to about the spread of a unit RootSIFT vector's numbers; lightness changes with the light: it counts less.
_COLOUR_ZERO = np.array([0.0, 128.0, 128.0], dtype=np.float32)
_COLOUR_SCALE = 0.2 * np.array([0.3 / 255, 1 / 60, 1 / 60], dtype=np.float32)


@dataclass(frozen=True, eq=False)
class Vocabulary:
    """Visual words.

    Attributes:
        mean: (INPUT_DIM,) float32, mean of the inputs of `embed`.
        basis: (INPUT_DIM, dim) float32, principal directions of the inputs.
        words: (n_words, dim) float32.
    """

    mean: Floats
    basis: Floats
    words: Floats

    @property
    def raw_dim(self) -> int:
        """Length of the vectors of `aggregate`."""
        return self.words.size * _MODULATIONS


def embed(keypoints: Keypoints) -> Floats:
    """Return the (n, INPUT_DIM) float32 inputs of the vocabulary: unit RootSIFT, then the colours."""
    colours = keypoints.colours.reshape(-1, COLOUR_POINTS, 3).astype(np.float32)
    colours = (colours - _COLOUR_ZERO) * _COLOUR_SCALE
    return np.concatenate([unit_rows(keypoints.root_sift), colours.reshape(-1, 3 * COLOUR_POINTS)], axis=1)


def aggregate(keypoints: Keypoints, vocabulary: Vocabulary) -> Floats:
    """Return the (raw_dim,) float32 vector of a photo: length 1, or all zero without any keypoint.

    The order is word, dimension, modulation.
    """
    if not len(keypoints):
        return np.zeros(vocabulary.raw_dim, dtype=np.float32)
    words = vocabulary.words
    inputs = (embed(keypoints) - vocabulary.mean) @ vocabulary.basis
    # Nearest word: the squared length of the input itself is the same for all words.
    nearest = np.argmax(inputs @ words.T - 0.5 * (words * words).sum(axis=1), axis=1)
    residuals = unit_rows(inputs - words[nearest])
    weights = np.exp(keypoints.squared_eccentricity() / (-2 * SPREAD**2))
    factors = modulation(keypoints.places[:, 3]) * weights[:, None]
    codes = (residuals[:, :, None] * factors[:, None, :]).reshape(len(keypoints), -1)
    membership = (nearest == np.arange(len(words))[:, None]).astype(np.float32)
    raw = unit_rows(membership @ codes)
    raw = np.sign(raw) * np.abs(raw) ** np.float32(POWER)
    flat: Floats = unit_rows(raw.reshape(1, -1))[0]
    return flat


def modulation(degrees: Floats) -> Floats:
    """Return the (n, 3) float32 factors of n angles: the product of two rows depends on the angle between them."""
    radians = np.deg2rad(degrees.astype(np.float64))
    columns = [np.full(len(radians), HARMONICS[0])]
    for order, weight in enumerate(HARMONICS[1:], 1):
        columns += [weight * np.cos(order * radians), weight * np.sin(order * radians)]
    return np.stack(columns, axis=1).astype(np.float32)
