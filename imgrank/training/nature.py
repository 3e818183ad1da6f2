"""Grown and weathered things: stones, fruit, plants and shells, as cut-outs."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from imgrank.arrays import Floats
from imgrank.training.noise import (
    Generator,
    as_colour,
    blurred,
    fractal,
    ramp,
    relief,
    soft_mask,
    to_pixels,
)
from imgrank.training.regions import outline


def stone(rng: Generator, colours: Floats, width: int, height: int) -> Image.Image:
    """Draw a stone, fruit or shell: one lumpy ball with a marked skin; RGBA."""
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    u, v = (x - width / 2) / (width / 2 - 1), (y - height / 2) / (height / 2 - 1)
    theta, radius = np.arctan2(v, u), np.hypot(u, v)
    lumpy = rng.uniform(0.0, 0.22)
    edge = np.full_like(theta, 0.88 - 0.4 * lumpy)
    for wave in range(2, 7):
        edge += np.float32(rng.normal(0, lumpy / wave)) * np.cos(wave * theta + np.float32(rng.uniform(0, 6.3)))
    inward = np.clip(radius / edge, 0, 1.5)
    ball = np.sqrt(np.clip(1 - inward**2, 0, 1)) * np.float32(min(width, height) / 2)
    skin = rng.integers(4)
    rough = fractal(rng, height, width, slope=float(rng.uniform(0.8, 1.5)))
    if skin == 0:
        rise = rough * np.float32(rng.uniform(0.5, 2.5))
    elif skin == 1:  # a spiral, as of a shell
        arms = rng.integers(1, 6)
        rise = 3 * np.sin(arms * theta + np.float32(rng.uniform(10, 40)) * np.log(radius + 0.1)) + 0.4 * rough
    elif skin == 2:  # pores, as of an orange
        pores = fractal(rng, height, width, slope=0.3)
        rise = np.minimum(pores, 0.5) * np.float32(0.9) + 0.3 * rough
    else:  # ribs, as of a pumpkin
        rise = np.abs(np.sin(theta * int(rng.integers(4, 12)))) * inward * np.float32(9) + 0.5 * rough
    marks = fractal(rng, height, width, slope=float(rng.uniform(0.9, 1.6)), grain=(1.0, float(rng.choice([1, 1, 4]))))
    if rng.uniform() < 0.4:
        marks = np.sin(marks * np.float32(rng.uniform(2, 6))) * np.float32(1.4)
    image = ramp(marks, colours[: int(rng.integers(3, 6))])
    shine = relief(ball * 0.55 + blurred(rise.astype(np.float32), 1.0), 2.35, 0.55)
    fine = relief(rise.astype(np.float32), 2.35, 0.35)
    dim = np.clip(1.15 - 0.75 * inward**3, 0.2, 1.2)
    image = image * (shine * fine * dim)[..., None]
    image = image + (np.clip(shine - 1.3, 0, 1) * rng.uniform(0, 160))[..., None]
    inside = Image.fromarray((inward < 1).astype(np.uint8) * np.uint8(255))
    return Image.fromarray(np.dstack([to_pixels(image), to_pixels(soft_mask(inside, 0.7) * 255)]))


def plant(rng: Generator, colours: Floats, width: int, height: int) -> Image.Image:
    """Draw a bunch of veined leaves or petals around a stem; RGBA."""
    canvas = Image.new("RGB", (width, height), as_colour(colours[0], 0.4))
    mask = Image.new("L", (width, height), 0)
    draw, cut = ImageDraw.Draw(canvas), ImageDraw.Draw(mask)
    green = np.array([70, 128, 44]) * rng.uniform(0.6, 1.3)
    base = colours if rng.uniform() < 0.4 else colours * 0.35 + green * 0.65
    cx, cy = width / 2, height * rng.uniform(0.45, 0.6)
    leaves = int(rng.integers(12, 60))
    flower = rng.uniform() < 0.4
    aspect = rng.uniform(0.3, 0.9)
    for i in range(leaves):
        far = 1 - i / leaves
        angle = i * 2.39996 + rng.normal(0, 0.15) if flower else rng.uniform(0, 2 * np.pi)
        size = min(width, height) * rng.uniform(0.09, 0.2) * (0.4 + far)
        reach = min(width, height) * (0.5 * far) - size * 0.4
        x, y = cx + reach * np.cos(angle), cy + reach * np.sin(angle) * 0.95
        shape = outline(rng, "leaf", angle, aspect) * np.float32(size) + np.array([x, y], np.float32)
        tone = base[i % len(base)] * rng.uniform(0.55, 1.25) * (1.1 - 0.4 * far)
        points = shape.ravel().tolist()
        shadow = (shape + 4).ravel().tolist()
        draw.polygon(shadow, fill=as_colour(tone, 0.35))
        draw.polygon(points, fill=as_colour(tone), outline=as_colour(tone, 0.6))
        cut.polygon(points, fill=255)
        c, s = np.cos(angle), np.sin(angle)
        draw.line((x - c * size, y - s * size, x + c * size, y + s * size), fill=as_colour(tone, 1.4), width=2)
        for t in np.linspace(-0.7, 0.7, 6):
            vx, vy = x + c * size * t, y + s * size * t
            half = aspect * 0.5 * size * (1 - t * t)
            for side in (-1, 1):
                tip = (vx + (c * 0.6 - side * s) * half, vy + (s * 0.6 + side * c) * half)
                draw.line((vx, vy, *tip), fill=as_colour(tone, 1.25 if side < 0 else 0.75))
    if flower:
        r = min(width, height) * rng.uniform(0.05, 0.12)
        draw.ellipse((cx - r, cy - r, cx + r, cy + r), fill=as_colour(colours[1], 1.2))
        for i in range(60):
            q = r * np.sqrt(i / 60)
            px, py = cx + q * np.cos(i * 2.4), cy + q * np.sin(i * 2.4)
            draw.ellipse((px - 2, py - 2, px + 2, py + 2), fill=as_colour(colours[2], 0.4 + i / 60))
    pixels = np.asarray(canvas, dtype=np.float32)
    rise = blurred(pixels.mean(axis=2), 1.5) * np.float32(0.05) + fractal(rng, height, width, slope=1.0) * np.float32(
        0.5
    )
    pixels = pixels * relief(rise.astype(np.float32), 2.3, 0.3)[..., None]
    return Image.fromarray(np.dstack([to_pixels(pixels), to_pixels(soft_mask(mask, 0.7) * 255)]))
