"""Photograph a drawn object: place it in a scene under a view, with other objects around and in front of it."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from imgrank.arrays import Pixels
from imgrank.errors import InputError
from imgrank.training.camera import Camera, expose, random_camera
from imgrank.training.noise import Generator
from imgrank.training.objects import KINDS, Drawn, Kind, draw_object


@dataclass(frozen=True)
class View:
    """Where the object is in the frame, what is around it, and how the photo is taken.

    The default is the identity: the object upright in the middle, its longer side as long as the frame's shorter
    side, nothing else in the frame and no camera effects.

    Attributes:
        scale: the whole object's longer side over the frame's shorter side.
        centre: (x, y) of the object's middle, as fractions of the frame.
        rotation: degrees in the image plane, counterclockwise.
        yaw: turn about the vertical axis in degrees (perspective), -60 to 60.
        pitch: turn about the horizontal axis in degrees, -60 to 60.
        crop: fractions of the object cut away at the left, top, right and bottom before it is placed.
        shadow: darkness of the shadow it throws on the scene, 0 to 1.
        background_blur: defocus of what is behind, in pixels.
        clutter: number of other objects beside and behind it.
        occluders: number of other objects in front of it.
        occlusion: about the fraction of the object that the occluders may cover, 0 to 0.8.
        camera: the exposure.
        seed: decides the other objects and the noise.
    """

    scale: float = 1.0
    centre: tuple[float, float] = (0.5, 0.5)
    rotation: float = 0.0
    yaw: float = 0.0
    pitch: float = 0.0
    crop: tuple[float, float, float, float] = (0.0, 0.0, 0.0, 0.0)
    shadow: float = 0.0
    background_blur: float = 0.0
    clutter: int = 0
    occluders: int = 0
    occlusion: float = 0.3
    camera: Camera = field(default_factory=Camera)
    seed: int = 0


def random_view(rng: Generator, difficulty: float) -> View:
    """Draw a view.

    Args:
        rng: the source of randomness.
        difficulty: 0 (large, nearly frontal, clear) to 1 (small, turned, occluded, in clutter, badly lit).

    Raises:
        InputError: a difficulty outside [0, 1].
    """
    if not 0 <= difficulty <= 1:
        raise InputError(f"difficulty {difficulty}: must be in [0, 1]")
    d = difficulty
    scale = float(np.exp(rng.uniform(np.log(0.85 - 0.5 * d), np.log(1.05))))
    slack = 0.06 + 0.2 * d
    upright = rng.uniform() < 0.75
    crop = [0.0, 0.0, 0.0, 0.0]
    if rng.uniform() < 0.25 * d:
        crop[int(rng.integers(4))] = float(rng.uniform(0.1, 0.4))
    return View(
        scale=scale,
        centre=(float(rng.uniform(0.5 - slack, 0.5 + slack)), float(rng.uniform(0.5 - slack, 0.5 + slack))),
        rotation=float(rng.normal(0, 3 + 12 * d) if upright else rng.uniform(-180, 180) * d),
        yaw=float(np.clip(rng.normal(0, 8 + 22 * d), -55, 55)),
        pitch=float(np.clip(rng.normal(0, 5 + 15 * d), -45, 45)),
        crop=(crop[0], crop[1], crop[2], crop[3]),
        shadow=float(rng.uniform(0.2, 0.7)),
        background_blur=float(rng.choice([0.0, 0.0, rng.uniform(0.5, 4)])),
        clutter=int(rng.integers(0, 2 + round(4 * d))),
        occluders=int(rng.uniform() < 0.6 * d) + int(rng.uniform() < 0.3 * d),
        occlusion=float(rng.uniform(0.05, 0.15 + 0.35 * d)),
        camera=random_camera(rng, d),
        seed=int(rng.integers(2**31)),
    )


def render_view(thing: Drawn, background: Pixels, view: View) -> Pixels:
    """Photograph `thing` in front of `background`; see `photograph`."""
    return photograph(thing, background, view)[0]


def photograph(thing: Drawn, background: Pixels, view: View) -> tuple[Pixels, npt.NDArray[np.float64]]:
    """Photograph `thing` in front of `background`, and tell where it is.

    Args:
        thing: the object.
        background: (h, w, 3) uint8; gives the frame.
        view: the view.

    Returns:
        (h, w, 3) uint8, where object pixels of full alpha come through unchanged with the identity view; and the
        (4, 2) float64 frame positions (x, y) of the corners of what the view's crop left of the object, clockwise from
        its top left.

    Raises:
        InputError: a scale that is not positive, a turn beyond 60 degrees, or a crop that leaves nothing.
    """
    if view.scale <= 0 or abs(view.yaw) > 60 or abs(view.pitch) > 60:
        raise InputError(f"{view}: scale must be above 0, yaw and pitch within 60 degrees")
    left, top, right, bottom = view.crop
    if min(view.crop) < 0 or left + right > 0.9 or top + bottom > 0.9:
        raise InputError(f"crop {view.crop}: fractions must be 0 or more and leave a tenth of the object")
    rng = np.random.default_rng([0x71E3, view.seed])
    frame = Image.fromarray(background)
    if view.background_blur > 0:
        frame = frame.filter(ImageFilter.GaussianBlur(view.background_blur))
    side = min(frame.size)
    for _ in range(view.clutter):
        _add_neighbour(frame, rng, view, side)
    rgba = thing.rgba
    height, width = rgba.shape[:2]
    rgba = rgba[int(top * height) : height - int(bottom * height), int(left * width) : width - int(right * width)]
    size = view.scale * side / max(height, width)
    at = view.centre[0] * frame.width, view.centre[1] * frame.height
    corners = place(frame, rgba, size, at, view.rotation, view.yaw, view.pitch, view.shadow)
    for _ in range(view.occluders):
        _add_occluder(frame, rng, view, corners)
    return expose(np.asarray(frame, dtype=np.float32), view.camera, rng), corners


def _movable(rng: Generator) -> Kind:
    """Choose a kind that can lie around: any but a house front."""
    kinds = [kind for kind in KINDS if kind != "facade"]
    return kinds[int(rng.integers(len(kinds)))]


def _add_neighbour(frame: Image.Image, rng: Generator, view: View, side: int) -> None:
    share = float(rng.uniform(0.2, 0.6))
    other = draw_object(int(rng.integers(2**31)), kind=_movable(rng), longer_side=max(64, int(side * share)))
    x, y = view.centre[0] + rng.normal(0, 0.35), view.centre[1] + rng.normal(0, 0.3)
    at = float(np.clip(x, 0, 1)) * frame.width, float(np.clip(y, 0, 1)) * frame.height
    place(frame, other.rgba, 1.0, at, float(rng.normal(0, 15)), float(rng.normal(0, 15)), 0.0, 0.5)


def _add_occluder(frame: Image.Image, rng: Generator, view: View, corners: npt.NDArray[np.float64]) -> None:
    extent = corners.max(axis=0) - corners.min(axis=0)
    length = float(np.clip(np.sqrt(view.occlusion * extent[0] * extent[1]) * 1.3, 48, 400))
    other = draw_object(int(rng.integers(2**31)), kind=_movable(rng), longer_side=int(length))
    corner = corners[int(rng.integers(4))]
    at = corner + (corners.mean(axis=0) - corner) * rng.uniform(0.1, 0.45)
    place(frame, other.rgba, 1.0, (float(at[0]), float(at[1])), float(rng.normal(0, 30)), 0.0, 0.0, 0.5)


def place(
    frame: Image.Image,
    rgba: npt.NDArray[np.uint8],
    size: float,
    at: tuple[float, float],
    rotation: float,
    yaw: float,
    pitch: float,
    shadow: float,
) -> npt.NDArray[np.float64]:
    """Paste a cut-out in perspective, in place.

    Args:
        frame: RGB Pillow image that is drawn on.
        rgba: (h, w, 4) uint8 cut-out.
        size: frame pixels per cut-out pixel.
        at: (x, y) of its middle in the frame.
        rotation: degrees, counterclockwise.
        yaw: degrees about the vertical axis.
        pitch: degrees about the horizontal axis.
        shadow: 0 to 1.

    Returns:
        (4, 2) float64 frame positions (x, y) of the cut-out's corners, clockwise from its top left.
    """
    image = Image.fromarray(np.ascontiguousarray(rgba))
    width, height = max(1, round(image.width * size)), max(1, round(image.height * size))
    if (width, height) != image.size:
        # Shrinking is done here, antialiased; the transform below then works near one to one.
        image = image.resize((width, height), Image.Resampling.LANCZOS)
    flat = np.array([[0.0, 0.0], [width, 0.0], [width, height], [0.0, height]]) - [width / 2, height / 2]
    corners = _turned(flat, rotation, yaw, pitch, 1.8 * max(width, height)) + _whole(at, width, height)
    reach = max(2, round(0.03 * max(width, height)))
    margin = 3 * reach if shadow > 0 else 1  # room for the shadow to fade out
    low = np.floor(corners.min(axis=0)).astype(int) - margin
    high = np.ceil(corners.max(axis=0)).astype(int) + margin
    low, high = np.maximum(low, 0), np.minimum(high, frame.size)
    if (high <= low).any():
        return corners
    box = (int(high[0] - low[0]), int(high[1] - low[1]))
    if rotation or yaw or pitch:
        matrix = homography(corners - low, flat + np.array([width / 2, height / 2]))
        warped = image.transform(box, Image.Transform.PERSPECTIVE, matrix, Image.Resampling.BICUBIC)
    else:  # the corner lies on whole pixels: nothing to interpolate, and rounding errors would
        warped = Image.new("RGBA", box, (0, 0, 0, 0))
        warped.paste(image, (round(corners[0, 0]) - int(low[0]), round(corners[0, 1]) - int(low[1])))
    alpha = warped.getchannel("A")
    if shadow > 0:
        # Blurred at a quarter of the size: a soft shadow has nothing finer, and it is many times faster.
        coarse = alpha.resize((alpha.width // 4 + 1, alpha.height // 4 + 1), Image.Resampling.BILINEAR)
        coarse = coarse.filter(ImageFilter.GaussianBlur(reach / 4)).point(lambda v: int(v * shadow))
        dark = coarse.resize(alpha.size, Image.Resampling.BILINEAR)
        frame.paste((8, 8, 12), (int(low[0]) + reach, int(low[1]) + reach), dark)
    frame.paste(warped.convert("RGB"), (int(low[0]), int(low[1])), alpha)
    return corners


def window(scene: Image.Image, corners: npt.NDArray[np.float64], size: tuple[int, int]) -> Image.Image:
    """Return what lies between four (x, y) `corners` of a scene, clockwise from the top left, as a frame of `size`.

    Places outside the scene show its mirror image at the nearest edge.
    """
    width, height = size
    margin = max(scene.size) // 4
    padded = np.pad(np.asarray(scene), ((margin, margin), (margin, margin), (0, 0)), mode="reflect")
    flat = np.array([[0.0, 0.0], [width, 0.0], [width, height], [0.0, height]])
    matrix = homography(flat, corners + margin)
    return Image.fromarray(padded).transform(size, Image.Transform.PERSPECTIVE, matrix, Image.Resampling.BICUBIC)


def _whole(at: tuple[float, float], width: int, height: int) -> npt.NDArray[np.float64]:
    """Move a middle by less than a pixel so that the corner falls on whole pixels and nothing is interpolated."""
    return np.array([round(at[0] - width / 2) + width / 2, round(at[1] - height / 2) + height / 2])


def _turned(
    flat: npt.NDArray[np.float64], rotation: float, yaw: float, pitch: float, distance: float
) -> npt.NDArray[np.float64]:
    """Turn (4, 2) points of a sheet in space and project them; `distance` of the eye in pixels."""
    r, a, b = np.radians([-rotation, yaw, pitch])
    x = flat[:, 0] * np.cos(r) - flat[:, 1] * np.sin(r)
    y = flat[:, 0] * np.sin(r) + flat[:, 1] * np.cos(r)
    z = x * np.sin(a) + y * np.sin(b)
    x, y = x * np.cos(a), y * np.cos(b)
    near = distance / (distance + z)
    return np.stack([x * near, y * near], axis=1)


def homography(target: npt.NDArray[np.float64], source: npt.NDArray[np.float64]) -> list[float]:
    """Return Pillow's 8 numbers that send (4, 2) `target` positions to `source` positions."""
    rows = []
    for (x, y), (u, v) in zip(target, source, strict=True):
        rows.append([x, y, 1, 0, 0, 0, -u * x, -u * y])
        rows.append([0, 0, 0, x, y, 1, -v * x, -v * y])
    numbers: list[float] = np.linalg.solve(np.array(rows), source.ravel()).tolist()
    return numbers
