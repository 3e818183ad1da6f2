"""Seeded random fields, colours and relief light: the raw material of every drawing.

Natural photos have amplitude spectra close to 1/f (Field 1987); `fractal` gives fields with that law at a
chosen exponent. Nothing here knows what is being drawn.
"""

from __future__ import annotations

import colorsys

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageFilter

from imgrank.arrays import Floats, Pixels

Generator = np.random.Generator
Colour = tuple[int, int, int]


def resized(field: Floats, height: int, width: int) -> Floats:
    """Resize a (h, w) float32 field with Pillow's bicubic kernel (antialiased when it shrinks)."""
    return np.asarray(Image.fromarray(field).resize((width, height), Image.Resampling.BICUBIC))


def blurred(field: Floats, sigma: float) -> Floats:
    """Blur a (h, w) float32 field with a Gaussian of `sigma` pixels, approximated by resizing.

    Pillow's filters refuse float images, and a coarse grid interpolated back is all that shading needs.
    """
    height, width = field.shape
    step = max(1.0, sigma * 1.2)
    small = resized(field, max(2, round(height / step)), max(2, round(width / step)))
    return resized(small, height, width)


def fractal(
    rng: Generator, height: int, width: int, *, slope: float = 1.0, grain: tuple[float, float] = (1.0, 1.0)
) -> Floats:
    """Draw a random field whose amplitude spectrum falls like 1 / frequency ** slope.

    Octaves of white noise are added from coarse to fine; each is interpolated up, so the cost is that of the
    finest octave.

    Args:
        rng: the source of randomness.
        height: rows.
        width: columns.
        slope: 1 looks like clouds of a natural scene, 2 is smooth, 0.5 is rough.
        grain: stretch of the field along (rows, columns); (1, 8) gives wood-like grain along x.

    Returns:
        (height, width) float32, mean 0 and standard deviation 1.
    """
    rows, columns = max(2, round(height / grain[0])), max(2, round(width / grain[1]))
    octaves = max(1, int(np.log2(max(rows, columns))) - 1)
    field = np.zeros((2, 2), np.float32)
    for octave in range(octaves, -1, -1):
        shape = max(2, rows >> octave), max(2, columns >> octave)
        field = resized(field, *shape)
        # One octave of a 1/f^slope spectrum in two dimensions has deviation 2 ** (1 - slope) of the one before.
        weight = np.float32(2.0 ** ((1.0 - slope) * (octaves - octave)))
        field = field + weight * rng.standard_normal(shape, dtype=np.float32)
    if (rows, columns) != (height, width):
        field = resized(field, height, width)
    return np.asarray((field - field.mean()) / (field.std() + np.float32(1e-6)), dtype=np.float32)


def periodic(rng: Generator, size: int, *, slope: float, stretch: float = 1.0) -> Floats:
    """Draw a (size, size) float32 field like `fractal`'s that repeats without a seam; mean 0, deviation 1."""
    fy = np.fft.fftfreq(size)[:, None] * size
    fx = np.fft.rfftfreq(size)[None, :] * size
    radius = np.hypot(fy * stretch, fx / stretch)
    radius[0, 0] = 1.0
    phases = rng.uniform(0, 2 * np.pi, radius.shape)
    field = np.fft.irfft2(np.exp(1j * phases) * radius**-slope, s=(size, size)).astype(np.float32)
    return np.asarray((field - field.mean()) / (field.std() + np.float32(1e-6)), dtype=np.float32)


def ramp(values: Floats, colours: npt.ArrayLike) -> Floats:
    """Map a field of about unit deviation through a gradient of colours.

    Args:
        values: (h, w) float32, mean about 0 and deviation about 1; clipped at +-2.5.
        colours: (n, 3) numbers in [0, 255], spread evenly over that range, n >= 2.

    Returns:
        (h, w, 3) float32 in [0, 255].
    """
    stops = np.asarray(colours, dtype=np.float64)
    positions = np.linspace(0, 255, len(stops))
    table = np.stack([np.interp(np.arange(256), positions, stops[:, c]) for c in range(3)], axis=1)
    index = np.clip(values * np.float32(51) + np.float32(127.5), 0, 255).astype(np.uint8)
    return np.asarray(table.astype(np.float32)[index])


def palette(rng: Generator, count: int, *, vivid: float = 0.5) -> Floats:
    """Draw `count` colours that go together: one hue family, with some complements, darks and lights.

    Args:
        rng: the source of randomness.
        count: colours.
        vivid: 0 gives greys and earths, 1 gives print colours.

    Returns:
        (count, 3) float32 in [0, 255].
    """
    # Warm hues, greens and blues are common in photos, violet is rare.
    hue = float(rng.choice([0.01, 0.05, 0.08, 0.11, 0.14, 0.26, 0.35, 0.55, 0.6, rng.uniform()])) + rng.normal(0, 0.02)
    colours = []
    for _ in range(count):
        turn = rng.choice([0.0, 0.0, 0.06, -0.06, 0.5, rng.normal(0, 0.2)])
        saturation = float(np.clip(rng.beta(1.6, 2.2) * (0.35 + 0.9 * vivid), 0, 1))
        value = float(np.clip(rng.beta(2.0, 1.6), 0.06, 0.98))
        shade = (hue + turn + rng.normal(0, 0.02)) % 1.0
        spare = float(rng.uniform(0, 0.12))
        if (0.7 < shade < 0.96 and rng.uniform() < 0.75) or (0.27 < shade < 0.5 and rng.uniform() < 0.4):
            shade = spare  # violets, and half of the greens, give way to reds and browns
        colours.append(colorsys.hsv_to_rgb(shade, saturation, value))
    return np.asarray(colours, dtype=np.float32) * np.float32(255)


def as_colour(values: npt.ArrayLike, gain: float = 1.0) -> Colour:
    """Round a colour, times `gain`, to the integers that Pillow's drawing calls take."""
    red, green, blue = (int(min(255.0, max(0.0, v * gain))) for v in np.asarray(values, dtype=np.float64))
    return red, green, blue


def contrasting(rng: Generator, colours: Floats, ground: npt.ArrayLike) -> Colour:
    """Choose one of (n, 3) `colours`, or white or black, that is readable on the colour `ground`."""
    luma = np.array([0.299, 0.587, 0.114])
    ground_luma = float(np.asarray(ground, dtype=np.float64) @ luma)
    extreme = np.array([[250, 248, 240]] if ground_luma < 128 else [[20, 18, 24]])
    options = np.concatenate([np.asarray(colours, dtype=np.float64), extreme, extreme])
    far = options[np.abs(options @ luma - ground_luma) > 70]
    return as_colour(far[rng.integers(len(far))]) if len(far) else as_colour(extreme[0])


def relief(height_map: Floats, angle: float, strength: float) -> Floats:
    """Light a height map from the side; returns (h, w) float32 factors around 1, in [0.2, 1.9].

    Args:
        height_map: (h, w) float32, in pixels of height.
        angle: direction the light comes from, radians, counted from the x axis.
        strength: factor per unit slope.
    """
    down = np.empty_like(height_map)
    right = np.empty_like(height_map)
    down[1:-1] = (height_map[2:] - height_map[:-2]) * np.float32(0.5)
    down[0], down[-1] = down[1], down[-2]
    right[:, 1:-1] = (height_map[:, 2:] - height_map[:, :-2]) * np.float32(0.5)
    right[:, 0], right[:, -1] = right[:, 1], right[:, -2]
    slope = down * np.float32(np.sin(angle)) + right * np.float32(np.cos(angle))
    return np.asarray(np.clip(np.float32(1) - np.float32(strength) * slope, 0.2, 1.9), dtype=np.float32)


def to_pixels(image: npt.ArrayLike) -> Pixels:
    """Round (h, w, 3) numbers in about [0, 255] to uint8."""
    return np.clip(np.asarray(image) + np.float32(0.5), 0, 255).astype(np.uint8)


def soft_mask(mask: Image.Image, radius: float) -> Floats:
    """Turn a Pillow L mask into (h, w) float32 weights in [0, 1], its edge softened by `radius` pixels."""
    if radius > 0:
        mask = mask.filter(ImageFilter.GaussianBlur(radius))
    return np.asarray(mask, dtype=np.float32) * np.float32(1 / 255)
