"""Flat surfaces that scenes are put together from: walls, grounds in perspective, and uneven light on them."""

from __future__ import annotations

import numpy as np
from PIL import Image

from imgrank.arrays import Floats
from imgrank.training.noise import Generator, fractal, palette, ramp
from imgrank.training.regions import TILE, atlas


def wall(rng: Generator, height: int, width: int) -> Floats:
    """Draw plaster, wood, cloth, brick or concrete seen straight on, unevenly lit."""
    colours = palette(rng, 4, vivid=float(rng.choice([0.0, 0.1, 0.4])))
    grain = (1.0, float(rng.choice([1.0, 1.0, 6.0])))
    surface = fractal(rng, height, width, slope=float(rng.uniform(1.1, 2.0)), grain=grain)
    image = ramp(surface * np.float32(rng.uniform(0.05, 0.5)), colours[:3])
    tile = atlas(int(rng.integers(6)))[int(rng.integers(16))]
    zoom, turn = rng.uniform(0.4, 1.6), rng.normal(0, 0.1)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32) * np.float32(zoom)
    u, v = (x + y * turn).astype(np.int32) & (TILE - 1), (y - x * turn).astype(np.int32) & (TILE - 1)
    pattern = tile[v, u].astype(np.float32) - np.float32(128)
    return uneven(rng, image + pattern[..., None] * np.float32(rng.choice([0.0, rng.uniform(0.05, 0.5)])))


def uneven(rng: Generator, image: Floats) -> Floats:
    """Light a (h, w, 3) painting with a gradient and soft shade."""
    height, width = image.shape[:2]
    angle = rng.uniform(0, 2 * np.pi)
    x = np.linspace(-1, 1, width, dtype=np.float32)[None, :]
    y = np.linspace(-1, 1, height, dtype=np.float32)[:, None]
    slant = x * np.float32(np.cos(angle)) + y * np.float32(np.sin(angle))
    shade = fractal(rng, max(4, height // 8), max(4, width // 8), slope=1.8)
    soft = np.asarray(Image.fromarray(shade).resize((width, height), Image.Resampling.BICUBIC))
    gain = np.exp(slant * np.float32(rng.uniform(0, 0.5)) + soft * np.float32(rng.uniform(0, 0.2)))
    return image * gain[..., None]


def plane(rng: Generator, height: int, width: int, horizon: float, colours: Floats) -> Floats:
    """Draw a textured ground seen in perspective; rows above the horizon are filled with its far colour."""
    tile = atlas(int(rng.integers(6)))[int(rng.integers(16))]
    y = np.arange(height, dtype=np.float32)[:, None] - np.float32(horizon)
    x = np.arange(width, dtype=np.float32)[None, :] - np.float32(rng.uniform(0.3, 0.7) * width)
    depth = np.float32(height) / np.maximum(y, 1.0)
    zoom = np.float32(rng.uniform(0.3, 1.0))
    turn = np.float32(rng.uniform(-0.7, 0.7))
    u, v = x * depth * zoom, depth * np.float32(rng.uniform(80, 200)) * zoom
    u, v = u * np.cos(turn) - v * np.sin(turn), u * np.sin(turn) + v * np.cos(turn)
    grain = tile[v.astype(np.int32) & (TILE - 1), u.astype(np.int32) & (TILE - 1)].astype(np.float32) - np.float32(128)
    # Far texture is finer than a pixel: fade it, as a lens would.
    near = np.clip(1.6 / (depth * zoom), 0.08, 1)
    stains = fractal(rng, height, width, slope=1.6, grain=(1.0, 2.0))
    strength = np.float32(rng.choice([0.03, rng.uniform(0.1, 0.5)]))
    image = ramp(stains * np.float32(rng.uniform(0.05, 0.4)), colours) + (grain * near * strength)[..., None]
    return np.asarray(image, dtype=np.float32)
