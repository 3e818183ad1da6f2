"""Draw what a matcher is trained on: photos of one thing or place, and of look-alikes that are something else.

Look-alikes are of two kinds. A sibling shares kind, shape and palette with the thing and nothing that is on it. A
variant is the thing itself with a part of its surface replaced, as packages of one brand differ: its photos hold many
true matches and still do not show the same thing.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from imgrank.arrays import Pixels
from imgrank.training.camera import expose, random_camera
from imgrank.training.collection import staged
from imgrank.training.noise import Generator, fractal, resized
from imgrank.training.objects import Drawn, draw_object
from imgrank.training.photos import draw_photo
from imgrank.training.views import homography, photograph, place, window

Role = Literal["same", "sibling", "variant"]
SAME, SIBLING, VARIANT = 0, 1, 2
VIEWS = 4  # photos of the thing itself
PLACES = 0.2  # share of subjects that are whole scenes
_OBJECT_SIDE = 480  # pixels


@dataclass(frozen=True, eq=False)
class Shot:
    """One photo of a subject.

    Attributes:
        role: SAME, SIBLING or VARIANT.
        pixels: (height, width, 3) uint8.
        plane: (3, 3) float64, the homography from the subject's plane (0 to 1 across and down) to places in the photo
            (x and y in units of its longer side). Two photos of a subject show the same point at the places to which
            their planes send it.
    """

    role: int
    pixels: Pixels
    plane: npt.NDArray[np.float64]


def draw_subject(seed: int) -> list[Shot]:
    """Draw the photos of one subject: VIEWS of the thing itself, and for objects one of each kind of look-alike.

    Equal seeds give equal bits.
    """
    rng = np.random.default_rng([0x5AB7EC7, seed])
    if rng.uniform() < PLACES:
        return _place_shots(rng)
    number = int(rng.integers(2**31))
    thing = draw_object(number, longer_side=_OBJECT_SIDE)
    sibling = draw_object(number, longer_side=_OBJECT_SIDE, sibling=1)
    variant = _variant(thing, draw_object(number, longer_side=_OBJECT_SIDE, sibling=2), rng)
    things = [(SAME, thing)] * VIEWS + [(SIBLING, sibling), (VARIANT, variant)]
    shots = []
    for i, (role, drawn) in enumerate(things):
        # The first view is as a query would be: a good photo of the thing.
        difficulty = float(rng.uniform(0.0, 0.3) if i == 0 else rng.uniform(0.1, 0.95))
        background, view = staged(drawn, (0x5B, seed, i), difficulty)
        pixels, corners = photograph(drawn, background, view)
        left, top, right, bottom = view.crop
        shown = np.array([[left, top], [1 - right, top], [1 - right, 1 - bottom], [left, 1 - bottom]])
        shots.append(Shot(role, pixels, _plane(shown, corners, pixels)))
    return shots


def _plane(shown: npt.NDArray[np.float64], corners: npt.NDArray[np.float64], pixels: Pixels) -> npt.NDArray[np.float64]:
    """Return the homography that sends (4, 2) places of a plane to pixels, in units of the longer side."""
    numbers = homography(shown, corners / max(pixels.shape[:2]))
    return np.append(numbers, 1.0).reshape(3, 3)


def _variant(thing: Drawn, other: Drawn, rng: Generator) -> Drawn:
    """Replace a part of what is on a thing by what is on its sibling."""
    height, width = thing.rgba.shape[:2]
    y, x = np.mgrid[0:height, 0:width].astype(np.float32) / max(height, width)
    share = float(rng.uniform(0.35, 0.85))
    style = int(rng.integers(3))
    if style == 0:  # one side of a line
        angle = float(rng.uniform(0, 2 * np.pi))
        field = x * np.float32(np.cos(angle)) + y * np.float32(np.sin(angle))
    elif style == 1:  # patches
        field = resized(fractal(rng, max(4, height // 8), max(4, width // 8), slope=2.0), height, width)
    else:  # all around, or in the middle
        centre = rng.uniform(0.3, 0.7, 2)
        field = np.hypot(x - centre[0] * width / max(height, width), y - centre[1] * height / max(height, width))
        field = field * np.float32(rng.choice([-1.0, 1.0]))
    inside = thing.rgba[..., 3] > 0
    limit = np.quantile(field[inside], share) if inside.any() else 0.0
    replaced = (field <= limit) & (other.rgba[..., 3] > 128)
    rgba = thing.rgba.copy()
    rgba[replaced, :3] = other.rgba[replaced, :3]
    return Drawn(thing.kind, rgba)


def _place_shots(rng: Generator) -> list[Shot]:
    size = (612, 816) if rng.uniform() < 0.6 else (816, 612)
    scene = Image.fromarray(draw_photo(int(rng.integers(2**31)), size))
    return [_place_view(scene, rng, float(rng.uniform(0.0, 0.9))) for _ in range(VIEWS)]


def _place_view(scene: Image.Image, rng: Generator, difficulty: float) -> Shot:
    """Look at a part of a scene from another side."""
    upright = rng.uniform() < 0.5
    frame_size = (384, 512) if upright else (512, 384)
    reach = float(rng.uniform(0.95 - 0.4 * difficulty, 1.0))
    length = reach * min(scene.width / frame_size[0], scene.height / frame_size[1])
    half = np.array(frame_size) * length / 2
    slack = np.array(scene.size) / 2 - half
    centre = np.array(scene.size) / 2 + slack * rng.uniform(-1, 1, 2) * min(1.0, 0.4 + difficulty)
    turn = float(np.deg2rad(rng.normal(0, 2 + 8 * difficulty)))
    corners = np.array([[-1, -1], [1, -1], [1, 1], [-1, 1]]) * half
    corners = corners @ np.array([[np.cos(turn), np.sin(turn)], [-np.sin(turn), np.cos(turn)]])
    corners = corners + centre + rng.normal(0, 0.09 * difficulty, (4, 2)) * half
    # The scene is shrunk by the transform, which does not smooth by itself.
    smooth = scene.filter(ImageFilter.GaussianBlur(0.45 * length)) if length > 1.15 else scene
    frame = window(smooth, corners, frame_size)
    for _ in range(int(rng.integers(0, 1 + round(3 * difficulty)))):
        other = draw_object(int(rng.integers(2**31)), longer_side=int(rng.integers(64, 200)))
        at = float(rng.uniform(0, frame_size[0])), float(rng.uniform(0.3, 1.0) * frame_size[1])
        place(frame, other.rgba, 1.0, at, float(rng.normal(0, 15)), 0.0, 0.0, 0.4)
    pixels = expose(np.asarray(frame, dtype=np.float32), random_camera(rng, difficulty), rng)
    width, height = frame_size
    shown = np.array([[0.0, 0.0], [width, 0.0], [width, height], [0.0, height]])
    return Shot(SAME, pixels, _plane(corners / scene.size, shown, pixels))
