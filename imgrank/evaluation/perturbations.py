"""Ten controlled changes of a photo, to measure how far it may change before it is not recognised any more.

The ten are those of the robustness study of arXiv:2604.13268 (Fig. 5), which does not publish their ranges; the ranges
here are ours. Each begins at nothing and ends where little of the object is left. All keep the size of the photo, so
that curves differ by what was changed and not by what a model makes of another size. A box says where the object is,
or, closer, a mask. docs/evaluation.md lists all ten.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np

from imgrank.arrays import Floats, Pixels
from imgrank.errors import InputError
from imgrank.evaluation.canvas import bilinear, blank, cleared, mean_colour, paste, rounded
from imgrank.evaluation.region import Box, Mask, Region, locate
from imgrank.images.resize import check_pixels, resize

LEAST_CONTRAST = 0.05  # of the photo's own
MOST_GAIN = 8.0  # on sRGB values; about 6.6 stops of exposure
MOST_DEGREES = 180.0
LEAST_SCALE = 0.25  # of the sides
MOST_BLUR = 0.02  # standard deviation, of the longer side
MOST_TILES = 8  # across and down
MOST_NOISE = 80.0  # standard deviation, of 255
MOST_PATCHES = 24  # they cover about three quarters of what surrounds the object
MOST_OCCLUSION = 0.8  # of the object's area
_LUMA = np.array([0.299, 0.587, 0.114])


@dataclass(frozen=True, eq=False)
class _Case:
    pixels: Pixels
    box: Box  # around the object
    mask: Mask  # the pixels of the box that are the object
    strength: float  # in (0, 1]
    rng: np.random.Generator
    other: Pixels | None

    @property
    def inside(self) -> tuple[slice, slice]:
        """(rows, columns) of the box."""
        x0, y0, x1, y1 = self.box
        return slice(y0, y1), slice(x0, x1)

    def patch(self, height: int, width: int) -> Pixels:
        """Take a random part of the other photo, or draw a pattern of coarse and fine spots."""
        if self.other is None:
            spots = [self.rng.integers(0, 256, (n, n, 3), dtype=np.uint8) for n in (2, 6, 18)]
            return rounded(sum(w * resize(s, height, width) for w, s in zip((0.5, 0.3, 0.2), spots, strict=True)))
        rows, columns = min(height, self.other.shape[0]), min(width, self.other.shape[1])
        top = int(self.rng.integers(self.other.shape[0] - rows + 1))
        left = int(self.rng.integers(self.other.shape[1] - columns + 1))
        return resize(self.other[top : top + rows, left : left + columns], height, width)


@dataclass(frozen=True)
class Perturbation:
    """One of the ten.

    Attributes:
        extreme: what it does at strength 1.
        apply: changes a photo; arguments have been checked.
        around: whether it changes what surrounds the object, so that there must be something.
    """

    extreme: str
    apply: Callable[[_Case], Pixels]
    around: bool = False


def perturb(
    name: str, pixels: Pixels, region: Region, strength: float, *, seed: int = 0, other: Pixels | None = None
) -> Pixels:
    """Change a photo of an object. Equal arguments give equal bytes.

    Args:
        name: a key of `PERTURBATIONS`.
        pixels: (height, width, 3) uint8, is not changed.
        region: where the object is: a box (x0, y0, x1, y1) in pixels, half-open, or a (height, width) bool mask, True
            on it. Equal regions give equal bytes, whether said by a box or by a mask.
        strength: 0 (the photo as it is) to 1 (`Perturbation.extreme`).
        seed: at least 0; decides what is random. The random parts of one seed grow with the strength: a place that is
            covered stays covered. Tiles are shuffled anew.
        other: (h, w, 3) uint8, a photo of other things, whose parts clutter and occlude; None takes drawn patterns.

    Returns:
        (height, width, 3) uint8, a new array.

    Raises:
        InputError: an unknown name, a strength outside [0, 1], a box outside the photo, an empty mask, a negative
            seed, arrays of another shape or type, or a region that is the whole photo where its surroundings are to be
            changed.
    """
    if name not in PERTURBATIONS:
        raise InputError(f"no perturbation {name!r}; known: {', '.join(PERTURBATIONS)}")
    check_pixels(pixels)
    if other is not None:
        check_pixels(other, "the other photo")
    if not 0 <= strength <= 1:
        raise InputError(f"strength {strength}: must be in [0, 1]")
    if seed < 0:
        raise InputError(f"seed {seed}: must be at least 0")
    box, mask = locate(region, *pixels.shape[:2])
    chosen = PERTURBATIONS[name]
    if chosen.around and mask.shape == pixels.shape[:2] and mask.all():
        raise InputError(f"{name}: the object is the whole photo, so nothing surrounds it; choose another photo")
    if strength == 0:
        return pixels.copy()
    return chosen.apply(_Case(pixels, box, mask, strength, np.random.default_rng([0x9E27, seed]), other))


# Light


def _contrast(case: _Case) -> Pixels:
    grey = float(mean_colour(case.pixels) @ _LUMA)
    factor = 1 - (1 - LEAST_CONTRAST) * case.strength
    return rounded(grey + (case.pixels.astype(np.float64) - grey) * factor)


def _brightness(case: _Case) -> Pixels:
    exponent = case.strength if case.rng.uniform() < 0.5 else -case.strength
    return rounded(case.pixels * MOST_GAIN**exponent)


# Geometry


def _rotation(case: _Case) -> Pixels:
    height, width = case.pixels.shape[:2]
    x0, y0, x1, y1 = case.box
    middle_x, middle_y = (x0 + x1 - 1) / 2, (y0 + y1 - 1) / 2  # of the centres of pixels
    radians = np.deg2rad(MOST_DEGREES * case.strength)
    y, x = np.mgrid[0:height, 0:width] - np.array([middle_y, middle_x])[:, None, None]
    # Where each pixel comes from. Rows grow downwards, so this turns counterclockwise to the eye.
    from_x = np.cos(radians) * x - np.sin(radians) * y + middle_x
    from_y = np.sin(radians) * x + np.cos(radians) * y + middle_y
    framed = blank(height + 2, width + 2, case.pixels)
    framed[1:-1, 1:-1] = case.pixels
    return rounded(bilinear(framed.astype(np.float32), from_y + 1, from_x + 1))


def _scale(case: _Case) -> Pixels:
    height, width = case.pixels.shape[:2]
    small = _reduced(case.pixels, case.strength)
    canvas = blank(height, width, case.pixels)
    paste(canvas, small, (height - small.shape[0]) // 2, (width - small.shape[1]) // 2)
    return canvas


def _reduced(pixels: Pixels, strength: float) -> Pixels:
    """Shrink both sides by the same factor; equal steps of strength are equal ratios."""
    height, width = pixels.shape[:2]
    factor = LEAST_SCALE**strength
    return resize(pixels, max(1, round(height * factor)), max(1, round(width * factor)), "lanczos")


def _background_scaling(case: _Case) -> Pixels:
    x0, y0, x1, y1 = case.box
    # Behind the object's edge its own colours go on, so that nothing of the background is shrunk with it.
    alone = cleared(case.pixels[case.inside], (0, 0, x1 - x0, y1 - y0), ~case.mask)
    small = _reduced(alone, case.strength)
    height, width = small.shape[:2]
    cover = resize(np.repeat(case.mask[..., None] * np.uint8(255), 3, axis=2), height, width, "box") / 255
    canvas = cleared(case.pixels, case.box, case.mask)
    top, left = (y0 + y1 - height) // 2, (x0 + x1 - width) // 2
    behind = canvas[top : top + height, left : left + width]
    behind[:] = rounded(cover * small + (1 - cover) * behind)
    return canvas


def _tiling(case: _Case) -> Pixels:
    across = min(1 + round((MOST_TILES - 1) * case.strength), *case.pixels.shape[:2])
    height, width = case.pixels.shape[0] // across, case.pixels.shape[1] // across
    tiles = [
        (slice(row * height, (row + 1) * height), slice(column * width, (column + 1) * width))
        for row in range(across)
        for column in range(across)
    ]
    shuffled = case.pixels.copy()  # rows and columns that the division leaves over stay
    order = case.rng.permutation(len(tiles)).tolist()
    # In a ring, so that every tile moves; a plain permutation would leave one in its place on average.
    for source, target in zip(order, order[1:] + order[:1], strict=True):
        shuffled[tiles[target]] = case.pixels[tiles[source]]
    return shuffled


# Detail


def _blur(case: _Case) -> Pixels:
    sigma = max(MOST_BLUR * case.strength * max(case.pixels.shape[:2]), 1e-3)  # less would divide by about 0
    reach = int(np.ceil(3 * sigma))
    weights = np.exp(-0.5 * (np.arange(-reach, reach + 1) / sigma) ** 2)
    weights = (weights / weights.sum()).astype(np.float32)
    values: Floats = case.pixels.astype(np.float32)
    for _ in range(2):  # down, then, on the transposed photo, across
        padded = np.pad(values, ((reach, reach), (0, 0), (0, 0)), mode="edge")
        values = np.zeros_like(values)
        for i, weight in enumerate(weights):
            values += weight * padded[i : i + len(values)]
        values = np.ascontiguousarray(values.swapaxes(0, 1))
    return rounded(values)


def _noise(case: _Case) -> Pixels:
    noise = case.rng.standard_normal(case.pixels.shape, dtype=np.float32)
    return rounded(case.pixels + noise * np.float32(MOST_NOISE * case.strength))


# Other things


def _clutter(case: _Case) -> Pixels:
    height, width = case.pixels.shape[:2]
    cluttered = case.pixels.copy()
    for _ in range(int(np.ceil(MOST_PATCHES * case.strength))):
        rows, columns = (1 + max(height, width) * case.rng.uniform(1 / 8, 1 / 3, 2)).astype(int).tolist()
        top, left = int(case.rng.integers(height)) - rows // 2, int(case.rng.integers(width)) - columns // 2
        paste(cluttered, case.patch(rows, columns), top, left)
    cluttered[case.inside][case.mask] = case.pixels[case.inside][case.mask]
    return cluttered


def _occlusion(case: _Case) -> Pixels:
    occluded = case.pixels.copy()
    box = occluded[case.inside]
    height, width = box.shape[:2]
    # The lowest places of a smooth random relief: a few blobs, of just the area wanted.
    relief = case.rng.uniform(size=(4, 4, 1)).astype(np.float32)
    y, x = np.meshgrid(np.linspace(0, 3, height), np.linspace(0, 3, width), indexing="ij")
    lowest = np.argsort(bilinear(relief, y, x)[case.mask, 0], kind="stable")
    covered = np.argwhere(case.mask)[lowest[: round(MOST_OCCLUSION * case.strength * lowest.size)]]
    rows, columns = covered.T
    box[rows, columns] = case.patch(height, width)[rows, columns]
    return occluded


PERTURBATIONS: Mapping[str, Perturbation] = {
    "contrast": Perturbation("a twentieth of the contrast is left about the photo's mean grey", _contrast),
    "brightness": Perturbation("all values times 8, or by 8, as the seed decides", _brightness),
    "rotation": Perturbation(
        "turned by 180 degrees, counterclockwise about the middle of the object's box; what leaves the frame is lost, "
        "what enters it has the photo's mean colour",
        _rotation,
    ),
    "scale": Perturbation("the photo at a quarter of its sides, amid its mean colour", _scale),
    "background-scaling": Perturbation(
        "the object at a quarter of its sides, about the middle of its box; its place is filled from around it",
        _background_scaling,
        around=True,
    ),
    "blur": Perturbation("Gaussian blur, with a standard deviation of a fiftieth of the longer side", _blur),
    "tiling": Perturbation("cut into 8 x 8 tiles (at less strength, fewer and larger ones), shuffled", _tiling),
    "noise": Perturbation("Gaussian noise of standard deviation 80 on each value", _noise),
    "clutter": Perturbation(
        "24 patches, an eighth to a third of the longer side long, around the object and behind it",
        _clutter,
        around=True,
    ),
    "occlusion": Perturbation("four fifths of the object's area covered", _occlusion),
}
