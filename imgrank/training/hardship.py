"""What real photos do to keypoints and flat drawings do not: other things in the way, relief, worn descriptors.

Every function takes a strength from 0 (nothing happens) to 1.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from imgrank.arrays import Floats
from imgrank.local.keypoints import Keypoints
from imgrank.training.noise import Generator

Places = npt.NDArray[np.float64]

_LOST = 0.7  # most of the keypoints of a photo that are not found again
_COVERED = 0.45  # most of a photo that another covers
_WARP, _JITTER = 0.02, 0.004  # of places, in units of the longer side
_TURN, _GROWTH = 8.0, 0.15  # of a keypoint's angle, degrees, and size, octaves
_WEAR = 22.0  # of RootSIFT bytes, whose spread is 45: cosines fall to about 0.85 by it alone


def crowded(
    rng: Generator, own: Keypoints, other: Keypoints, strength: float
) -> tuple[Keypoints, npt.NDArray[np.bool_]]:
    """Lose some keypoints, and let another photo cover what lies beyond a line.

    Returns:
        the keypoints, by their contrast within their photos; and which of them are the other photo's.
    """
    stay = rng.uniform(size=len(own)) >= rng.uniform(0, _LOST) * strength
    if rng.uniform() >= 0.6 * strength:
        return _take(own, stay), np.zeros(int(stay.sum()), bool)
    angle = rng.uniform(0, 2 * np.pi)
    direction = np.array([np.cos(angle), np.sin(angle)])
    # The line is put where a wanted share of the photo's own keypoints is beyond it.
    along = own.places[:, :2] @ direction
    limit = np.quantile(along, 1 - rng.uniform(0, _COVERED)) if len(along) else 0.0
    stay &= along <= limit
    theirs = (other.places[:, :2] @ direction > limit) & _within(other.places, own.extent)
    order = np.argsort(np.concatenate([np.flatnonzero(stay), np.flatnonzero(theirs)]), kind="stable")
    found = [_take(own, stay), _take(other, theirs)]
    sift, places, colours = (
        np.concatenate([getattr(one, name) for one in found])[order] for name in ("root_sift", "places", "colours")
    )
    foreign = np.repeat([False, True], [len(one) for one in found])
    return Keypoints(sift, places, colours, own.extent), foreign[order]


def replaced(
    rng: Generator,
    base: Keypoints,
    plane: Places,
    filler: Keypoints,
    filler_plane: Places,
    *,
    whole: bool,
) -> Keypoints:
    """Put one thing, or a part of it, where another stands in a photo.

    Args:
        rng: chooses the part.
        base: keypoints of the photo.
        plane: (3, 3), where the thing is in it; see `subjects.Shot`.
        filler: keypoints of a photo of the other thing.
        filler_plane: where that is.
        whole: all of the thing is replaced; else 25 to 70 % of its keypoints, on one side of a line or around a point.
    """
    inside, replacing = (_shown(one, at) for one, at in ((base.places, plane), (filler.places, filler_plane)))
    out = (inside >= 0).all(axis=1) & (inside <= 1).all(axis=1)
    come = (replacing >= 0).all(axis=1) & (replacing <= 1).all(axis=1)
    if not whole and out.any():
        if rng.uniform() < 0.5:
            angle = rng.uniform(0, 2 * np.pi)
            direction = np.array([np.cos(angle), np.sin(angle)])
            field, other = inside @ direction, replacing @ direction
        else:
            centre = rng.uniform(0.2, 0.8, 2)
            field, other = (np.hypot(*(one - centre).T) for one in (inside, replacing))
        limit = np.quantile(field[out], rng.uniform(0.25, 0.7))
        out, come = out & (field <= limit), come & (other <= limit)
    places = carried(filler.places.astype(np.float64), plane @ np.linalg.inv(filler_plane))
    # None that detection would not have found there, or the model learns to tell made photos by it.
    come = come & _within(places, base.extent) & (places[:, 2] >= base.places[:, 2].min(initial=np.inf))
    places = places[come]
    order = np.argsort(np.concatenate([np.flatnonzero(~out), np.flatnonzero(come)]), kind="stable")
    return Keypoints(
        np.concatenate([base.root_sift[~out], filler.root_sift[come]])[order],
        np.concatenate([base.places[~out], places.astype(np.float32)])[order],
        np.concatenate([base.colours[~out], filler.colours[come]])[order],
        base.extent,
    )


def _within(places: Floats | Places, extent: tuple[float, float]) -> npt.NDArray[np.bool_]:
    return np.asarray(((places[:, :2] >= 0) & (places[:, :2] <= extent)).all(axis=1), dtype=np.bool_)


def _shown(places: Floats, plane: Places) -> Places:
    """Return (n, 2) where on a thing (0 to 1 across and down) the places in its photo are."""
    at: Places = places[:, :2].astype(np.float64)
    back: Places = np.linalg.inv(plane).astype(np.float64)
    return _apply(back, at[:, 0], at[:, 1]).T


def carried(places: Places, change: Places) -> Places:
    """Return (n, 4) places (x, y, size, angle) after a (3, 3) homography."""
    x, y, size, angle = places.T
    radians = np.deg2rad(angle)
    at = _apply(change, x, y)
    tip = _apply(change, x + 1e-3 * np.cos(radians), y + 1e-3 * np.sin(radians))
    side = _apply(change, x - 1e-3 * np.sin(radians), y + 1e-3 * np.cos(radians))
    along, across = tip - at, side - at
    growth = np.sqrt(np.abs(along[0] * across[1] - along[1] * across[0])) / 1e-3
    turned = np.rad2deg(np.arctan2(along[1], along[0])) % 360
    return np.stack([*at, size * growth, turned], axis=1)


def _apply(matrix: Places, x: Places, y: Places) -> Places:
    u, v, w = matrix @ np.stack([x, y, np.ones_like(x)])
    w = np.where(np.abs(w) < 1e-9, 1e-9, w)
    found: Places = np.stack([u / w, v / w])
    return found


def wobbled(rng: Generator, places: Places, strength: float) -> Places:
    """Bend (n, 4) places as relief does, and find each a little elsewhere, larger or smaller, turned."""
    found = places.copy()
    x, y = places[:, 0], places[:, 1]
    for axis in range(2):
        a, b, c = rng.uniform(0, 2 * np.pi, 3)
        wave = np.sin(2 * np.pi * (np.cos(a) * x + np.sin(a) * y) * (0.5 + b / np.pi) + c)
        found[:, axis] += strength * rng.normal(0, _WARP) * wave
    found[:, :2] += rng.normal(0, _JITTER * strength * rng.uniform(), (len(places), 2))
    found[:, 2] *= np.exp2(rng.normal(0, _GROWTH * strength * rng.uniform(), len(places)))
    found[:, 3] = (found[:, 3] + rng.normal(0, _TURN * strength * rng.uniform(), len(places))) % 360
    return found


def worn(rng: Generator, root_sift: npt.NDArray[np.uint8], strength: float) -> npt.NDArray[np.uint8]:
    """Disturb (n, 128) descriptors, some more than others."""
    each = rng.uniform(0, _WEAR * strength) * np.exp(rng.normal(0, 0.4, (len(root_sift), 1)))
    noise = rng.standard_normal(root_sift.shape, dtype=np.float32) * each.astype(np.float32)
    found: npt.NDArray[np.uint8] = np.clip(root_sift + noise, 0, 255).astype(np.uint8)
    return found


def _take(keypoints: Keypoints, rows: npt.NDArray[np.bool_]) -> Keypoints:
    return Keypoints(keypoints.root_sift[rows], keypoints.places[rows], keypoints.colours[rows], keypoints.extent)
