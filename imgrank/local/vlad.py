"""From the local features of a photo to one raw vector: VLAD that knows colours and angles.

A feature is coded by its difference from the nearest visual word; the difference is repeated, modulated by harmonics
of the keypoint's angle, so that two features count fully only where their angles agree too. Sums per word, with
the words balanced and the values damped. Knows nothing of photos or files.

Sources: Jegou et al. 2010 (VLAD); Delhumeau et al. 2013 (residuals of length 1); Arandjelovic and Zisserman 2013
(every word's block of length 1); Tolias, Furon and Jegou 2014 (angles by explicit feature maps).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from imgrank.arrays import Floats, unit_rows
from imgrank.local.features import COLOUR_POINTS, DIM, LocalFeatures

INPUT_DIM = DIM + 3 * COLOUR_POINTS
HARMONICS = (1.0, 0.9, 0.5)  # weights of 1, of (cos t, sin t) and of (cos 2t, sin 2t)
POWER = 0.4  # every value v becomes sign(v) |v|^POWER: against features that repeat within a photo
# Lab bytes to numbers of about the spread of a unit RootSIFT vector's; lightness changes with the light, so it weighs less.
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
        return self.words.size * _modulation_dim()


def embed(features: LocalFeatures) -> Floats:
    """Return the (n, INPUT_DIM) float32 inputs of the vocabulary: unit RootSIFT, then the colours."""
    colours = features.colors.reshape(-1, COLOUR_POINTS, 3).astype(np.float32)
    colours = (colours - _COLOUR_ZERO) * _COLOUR_SCALE
    return np.concatenate([features.vectors(), colours.reshape(len(colours), -1)], axis=1)


def aggregate(features: LocalFeatures, vocabulary: Vocabulary) -> Floats:
    """Return the (raw_dim,) float32 vector of a photo: length 1, or all zero without any feature."""
    words = vocabulary.words
    inputs = (embed(features) - vocabulary.mean) @ vocabulary.basis
    # Nearest word: the squared length of the input itself is the same for all words.
    nearest = np.argmax(inputs @ words.T - 0.5 * (words * words).sum(axis=1), axis=1) if len(inputs) else []
    residuals = unit_rows(inputs - words[nearest]) if len(inputs) else inputs
    codes = residuals[:, :, None] * modulation(features.keypoints[:, 3])[:, None, :]
    raw = np.zeros((len(words), codes.shape[1] * codes.shape[2]), dtype=np.float32)
    np.add.at(raw, nearest, codes.reshape(len(codes), -1))
    raw = unit_rows(raw)
    raw = np.sign(raw) * np.abs(raw) ** np.float32(POWER)
    return unit_rows(raw.reshape(1, -1))[0]


def modulation(degrees: Floats) -> Floats:
    """Return the (n, 2 h - 1) float32 factors of n angles: products of two rows depend on the difference of angles."""
    radians = np.deg2rad(degrees.astype(np.float64))
    columns = [np.full(len(radians), HARMONICS[0])]
    for order, weight in enumerate(HARMONICS[1:], 1):
        columns += [weight * np.cos(order * radians), weight * np.sin(order * radians)]
    return np.stack(columns, axis=1).astype(np.float32)


def _modulation_dim() -> int:
    return 2 * len(HARMONICS) - 1
