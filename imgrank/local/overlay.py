"""Whether one photo is a copy of another: resized, re-encoded, cropped or turned, but the same shot.

Two shots of one thing never agree to the pixel over the whole picture: the camera moved, and what is near moved more
than what is far. In copies every match lies where one map of scale, turn and shift takes it.
Knows features only, no photos. The measure is ours.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

from imgrank.arrays import Floats
from imgrank.local.features import LocalFeatures
from imgrank.local.geometry import consistent, match

Complex = npt.NDArray[np.complex128]

_TOLERANCES = (0.03, 0.015, 0.01, 0.01)  # of the maps that are fitted one after the other; longer sides of a photo
_EXACT = 0.004  # how far from its place a match of a copy may lie: 2 pixels of 512
_FEWEST = 8  # matches in place; fewer prove nothing
_MARGIN = 0.01  # around the keypoints of a photo, within which another one's count as inside


def overlay_score(query: LocalFeatures, candidates: Sequence[LocalFeatures]) -> Floats:
    """Compare a photo with k others: how far one lies on the other.

    The score is the share of the matches that one map of scale, turn and shift takes to their places, times the share
    of the keypoints that the two photos have in the part they share, of the photo that has less of it there.

    Returns:
        (k,) float32 in [0, 1]; 0 for fewer than 8 matches in their places.
    """
    return np.array([_score(query, candidate) for candidate in candidates], dtype=np.float32)


def _score(query: LocalFeatures, candidate: LocalFeatures) -> float:
    matches = match(query, candidate)
    if matches is None:
        return 0.0
    kept = consistent(matches)
    here, there = _places(matches.query), _places(matches.candidate)
    for tolerance in (*_TOLERANCES, None):
        if kept.sum() < 3:
            return 0.0
        factor, shift = _fitted(here[kept], there[kept], matches.weights[kept])
        if abs(factor) < 1e-6:
            return 0.0
        # In units of the photo in which it is the smaller part: else a map that shrinks would hide what it misses.
        errors = np.abs(factor * here + shift - there) / max(1.0, abs(factor))
        if tolerance is not None:
            kept = errors < tolerance
    exact = errors < _EXACT
    if exact.sum() < _FEWEST:
        return 0.0
    all_here, all_there = _places(query.keypoints), _places(candidate.keypoints)
    shared = min(
        _inside(factor * all_here + shift, all_there),
        _inside((all_there - shift) / factor, all_here),
    )
    return float(exact.mean()) * shared


def _places(keypoints: npt.NDArray[np.floating]) -> Complex:
    """Return (n,) places as complex numbers, so that a map of scale, turn and shift is factor * z + shift."""
    places: Complex = keypoints[:, 0].astype(np.float64) + 1j * keypoints[:, 1].astype(np.float64)
    return places


def _fitted(here: Complex, there: Complex, weights: npt.NDArray[np.float64]) -> tuple[complex, complex]:
    """Return factor and shift of the map with the least weighted squares of errors."""
    total = weights.sum()
    mean_here, mean_there = (weights * here).sum() / total, (weights * there).sum() / total
    arms = here - mean_here
    spread = (weights * np.abs(arms) ** 2).sum()
    if spread < 1e-12:  # all in one place
        return 0j, 0j
    factor = (weights * np.conj(arms) * (there - mean_there)).sum() / spread
    return complex(factor), complex(mean_there - factor * mean_here)


def _inside(places: Complex, others: Complex) -> float:
    """Return the share of places that lie in the smallest upright box around others, and a margin."""
    fine = (places.real >= others.real.min() - _MARGIN) & (places.real <= others.real.max() + _MARGIN)
    fine &= (places.imag >= others.imag.min() - _MARGIN) & (places.imag <= others.imag.max() + _MARGIN)
    return float(fine.mean())
