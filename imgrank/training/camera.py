"""What a camera does to a scene: exposure, colour cast, fall-off, defocus, shake, sensor noise and JPEG."""

from __future__ import annotations

import io
from dataclasses import dataclass

import numpy as np
from PIL import Image, ImageFilter

from imgrank.arrays import Floats, Pixels
from imgrank.training.noise import Generator, fractal, resized, to_pixels


@dataclass(frozen=True)
class Camera:
    """One exposure. The default changes nothing.

    Attributes:
        exposure: factor on the light, 1 leaves it.
        contrast: factor around mid grey, 1 leaves it.
        warmth: red against blue, -0.3 (cold) to 0.3 (warm).
        side_light: strength of a light gradient across the frame, 0 to 1.
        side_angle: direction of that gradient in radians.
        vignette: darkening of the corners, 0 to 1.
        blur: Gaussian defocus in pixels (standard deviation).
        shake: length of a straight motion blur in pixels.
        shake_angle: its direction in radians.
        noise: standard deviation of the sensor noise in grey levels.
        jpeg: quality 1 to 95, or 0 for none.
    """

    exposure: float = 1.0
    contrast: float = 1.0
    warmth: float = 0.0
    side_light: float = 0.0
    side_angle: float = 0.0
    vignette: float = 0.0
    blur: float = 0.0
    shake: float = 0.0
    shake_angle: float = 0.0
    noise: float = 0.0
    jpeg: int = 0


def random_camera(rng: Generator, difficulty: float) -> Camera:
    """Draw an exposure; `difficulty` 0 is a good photo, 1 a poor one."""
    d = difficulty
    return Camera(
        exposure=float(np.exp(rng.normal(0.03, 0.1 + 0.18 * d))),
        contrast=float(np.exp(rng.normal(0, 0.06 + 0.16 * d))),
        warmth=float(np.clip(rng.normal(0.02, 0.03 + 0.07 * d), -0.3, 0.3)),
        side_light=float(rng.uniform(0, 0.15 + 0.45 * d)),
        side_angle=float(rng.uniform(0, 2 * np.pi)),
        vignette=float(rng.uniform(0, 0.2 + 0.3 * d)),
        blur=float(rng.uniform(0.4, 0.7) + max(0.0, rng.normal(-0.3, 0.9)) * d),
        shake=float(max(0.0, rng.normal(-4, 5)) * d),
        shake_angle=float(rng.uniform(0, np.pi)),
        noise=float(rng.gamma(1.5, 0.4 + 1.8 * d)),
        jpeg=int(rng.integers(round(90 - 45 * d), 96)),
    )


def expose(image: Floats, camera: Camera, rng: Generator) -> Pixels:
    """Take the photo.

    Args:
        image: (h, w, 3) float32 in about [0, 255].
        camera: the exposure.
        rng: source of the sensor noise.

    Returns:
        (h, w, 3) uint8.
    """
    height, width = image.shape[:2]
    if camera.blur > 0 or camera.shake >= 1.5:
        shot = Image.fromarray(to_pixels(image))
        if camera.blur > 0:
            shot = shot.filter(ImageFilter.GaussianBlur(camera.blur))
        image = np.asarray(shot, dtype=np.float32)
        if camera.shake >= 1.5:
            image = _shaken(image, camera.shake, camera.shake_angle)
    x = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    gain = np.full((height, width), camera.exposure, np.float32)
    if camera.side_light > 0:
        slant = x * np.float32(np.cos(camera.side_angle)) + y * np.float32(np.sin(camera.side_angle))
        gain *= np.exp(slant * np.float32(0.8 * camera.side_light))
    if camera.vignette > 0:
        gain *= np.float32(1) - np.float32(0.5 * camera.vignette) * (x * x + y * y)
    tint = np.array([1 + camera.warmth, 1.0, 1 - camera.warmth], np.float32)
    lit = image * gain[..., None] * tint
    if camera.contrast != 1.0:
        lit = (lit - np.float32(118)) * np.float32(camera.contrast) + np.float32(118)
    if camera.noise > 0:
        # Grey noise at pixel scale; colour noise over two pixels, as demosaicking leaves it.
        lit = lit + rng.standard_normal((height, width, 1), dtype=np.float32) * np.float32(0.7 * camera.noise)
        for channel in range(3):
            half = rng.standard_normal((height // 2 + 1, width // 2 + 1), dtype=np.float32)
            lit[..., channel] += resized(half, height, width) * np.float32(0.9 * camera.noise)
    shot = Image.fromarray(to_pixels(lit))
    return np.asarray(_jpeg(shot, camera.jpeg) if camera.jpeg else shot)


def _shaken(image: Floats, length: float, angle: float) -> Floats:
    steps = int(np.ceil(length))
    total = np.zeros_like(image)
    for step in range(steps):
        at = (step / max(1, steps - 1) - 0.5) * length
        total += np.roll(image, (round(at * np.sin(angle)), round(at * np.cos(angle))), axis=(0, 1))
    return total / np.float32(steps)


def _jpeg(shot: Image.Image, quality: int) -> Image.Image:
    buffer = io.BytesIO()
    shot.save(buffer, "JPEG", quality=quality)
    buffer.seek(0)
    return Image.open(buffer).convert("RGB")


def dappled(rng: Generator, height: int, width: int, strength: float) -> Floats:
    """Return (h, w) float32 factors of patchy light, as under trees or through blinds."""
    field = fractal(rng, max(4, height // 4), max(4, width // 4), slope=1.5)
    patches = np.tanh(resized(field, height, width) * np.float32(2))
    return np.asarray(np.exp(patches * np.float32(strength)), dtype=np.float32)
