"""Scenes under the sky, and heaps of natural things: hills, water, streets, foliage, stones."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from imgrank.arrays import Floats
from imgrank.training import facades
from imgrank.training.noise import Generator, as_colour, fractal, palette, ramp, relief, to_pixels
from imgrank.training.regions import paint, scatter, varied
from imgrank.training.surfaces import plane, uneven


def stones(rng: Generator, height: int, width: int) -> Floats:
    """Draw pebbles, fruit or berries heaped up, each a lit ball."""
    fruit = rng.uniform() < 0.5
    small = float(rng.uniform(5, 14))
    regions = scatter(
        rng,
        height,
        width,
        ("disc",) if fruit else ("stone",),
        count=int(rng.integers(300, 800)),
        smallest=small,
        largest=small * float(rng.uniform(1.6, 6)),
        aspect=float(rng.uniform(0.75, 1.0)),
        power=1.8,
    )
    base = palette(rng, 3 if fruit else 6, vivid=0.8 if fruit else 0.15)
    return paint(rng, regions, varied(rng, base, regions.count, 12), roundness=0.85, texture=0.3, shadow=0.7)


def foliage(rng: Generator, height: int, width: int) -> Floats:
    """Draw leaves, needles or blades of grass, near ones over far ones."""
    style = rng.integers(3)
    green = np.array([[78, 110, 40], [48, 84, 34], [120, 140, 66], [92, 82, 44], [30, 44, 22]], np.float32)
    base = green if rng.uniform() < 0.7 else palette(rng, 5, vivid=0.6)
    if style == 0:  # blades
        regions = scatter(
            rng,
            height,
            width,
            ("leaf",),
            count=1500,
            smallest=9,
            largest=70,
            aspect=0.1,
            direction=float(rng.normal(-1.57, 0.3)),
            power=2.5,
        )
    else:
        regions = scatter(
            rng,
            height,
            width,
            ("leaf",),
            count=int(rng.integers(700, 1500)),
            smallest=5,
            largest=float(rng.uniform(25, 90)),
            aspect=float(rng.uniform(0.4, 0.9)),
            power=2.6,
            direction=None if style == 1 else float(rng.uniform(0, 6)),
        )
    image = paint(rng, regions, varied(rng, base, regions.count), tilt=0.4, shadow=0.65, reach=6)
    patches = fractal(rng, height, width, slope=1.5)
    return np.asarray(image * np.exp(patches * np.float32(rng.uniform(0.1, 0.45)))[..., None], dtype=np.float32)


def sky(rng: Generator, height: int, width: int) -> Floats:
    """Draw a sky with clouds, (height, width, 3) float32."""
    down = np.linspace(0, 1, height, dtype=np.float32)[:, None, None]
    high = np.array([96, 140, 196], np.float32) * np.float32(rng.uniform(0.5, 1.15))
    low = np.array([214, 220, 224], np.float32) * np.float32(rng.uniform(0.75, 1.1))
    if rng.uniform() < 0.2:
        low = np.array([236, 170, 110], np.float32)
    blue = high + (low - high) * down
    clouds = np.clip(fractal(rng, height, width, slope=1.35, grain=(1.0, 1.8)) + np.float32(rng.normal(0, 0.8)), 0, 1.6)
    return np.asarray(blue + (np.float32(240) - blue) * (clouds * np.float32(0.6))[..., None], dtype=np.float32)


def hills(rng: Generator, height: int, width: int) -> Floats:
    """Draw a landscape: sky, ridges that fade with distance, lit relief, trees in front."""
    image = sky(rng, height, width)
    rows = np.arange(height, dtype=np.float32)[:, None]
    layers = int(rng.integers(2, 6))
    base = np.array([[90, 104, 60], [120, 110, 84], [70, 84, 52], [140, 128, 100]], np.float32)
    base = base * np.float32(rng.uniform(0.5, 1.1)) + rng.normal(0, 12, (4, 3)).astype(np.float32)
    for layer in range(layers):
        near = (layer + 1) / layers
        ridge = fractal(rng, 2, width, slope=1.7)[0] * np.float32(height * 0.07 * rng.uniform(0.4, 1.6))
        line = ridge + np.float32(height * (0.25 + 0.6 * layer / layers))
        ground = rows > line[None, :]
        field = fractal(rng, height, width, slope=1.25, grain=(1.0, float(1 + 2 * rng.uniform())))
        lit = relief(field * np.float32(1.5), 3.6, 0.25 + 0.2 * near)
        body = ramp(field, base[[layer % 4, (layer + 1) % 4, 2]]) * lit[..., None]
        body = body * np.float32(0.35 + 0.65 * near) + np.array([170, 184, 200], np.float32) * np.float32(
            0.65 - 0.65 * near
        )
        image = np.where(ground[..., None], body, image)
    if rng.uniform() < 0.6:
        image = with_trees(rng, image, height, width)
    return image.astype(np.float32)


def with_trees(rng: Generator, image: Floats, height: int, width: int) -> Floats:
    """Return the painting with a few trees in front."""
    canvas = Image.fromarray(to_pixels(image))
    draw = ImageDraw.Draw(canvas)
    for _ in range(int(rng.integers(2, 9))):
        x, foot, tall = rng.uniform(0, width), height * rng.uniform(0.75, 1.1), height * rng.uniform(0.2, 0.75)
        tone = np.array([58, 76, 36]) * rng.uniform(0.4, 1.3)
        bark = max(2, int(tall * 0.04))
        draw.line((x, foot, x + rng.normal(0, 0.04) * tall, foot - 0.7 * tall), fill=(52, 42, 34), width=bark)
        count = 260
        spread = rng.normal(0, 1, (count, 2))
        cone = rng.uniform() < 0.5
        level = rng.uniform(0, 1, count)
        across = spread[:, 0] * (0.16 * level if cone else 0.16)
        px = x + across * tall
        py = foot - tall * ((1 - level) * 0.85 + 0.15 if cone else 0.72 + 0.14 * spread[:, 1])
        size = tall * rng.uniform(0.012, 0.04, count)
        gain = rng.uniform(0.45, 1.5, count) * (1.15 - 0.5 * (across > 0))
        for i in np.argsort(gain, kind="stable").tolist():
            fill = as_colour(tone, float(gain[i]))
            draw.ellipse((px[i] - size[i], py[i] - 0.7 * size[i], px[i] + size[i], py[i] + 0.7 * size[i]), fill=fill)
    return np.asarray(canvas, dtype=np.float32)


def water(rng: Generator, height: int, width: int) -> Floats:
    """Draw water, sand or snow towards a horizon."""
    colours = palette(rng, 3, vivid=0.3) * np.float32(0.5) + np.array([60, 84, 104], np.float32) * np.float32(0.6)
    horizon = int(height * rng.uniform(0.2, 0.5))
    image = sky(rng, height, width)
    waves = fractal(rng, height, width, slope=0.9, grain=(1.0, 3.0))
    lit = relief(waves * np.float32(2), 4.2, 0.3)
    surface = ramp(waves, colours) * lit[..., None]
    image[horizon:] = surface[horizon:]
    return image


def street(rng: Generator, height: int, width: int) -> Floats:
    """Draw a row of house fronts under the sky, with a pavement, signs, posts and trees."""
    canvas = Image.fromarray(to_pixels(sky(rng, height, width)))
    foot = int(height * rng.uniform(0.72, 0.9))
    ground = plane(rng, height, width, foot - height * 0.15, palette(rng, 2, vivid=0.1))
    canvas.paste(Image.fromarray(to_pixels(ground[foot:])), (0, foot))
    x = -int(rng.uniform(0, 60))
    shrink = rng.normal(0, 0.25)
    while x < width:
        w = int(width * rng.uniform(0.25, 0.6))
        tall = int(foot * rng.uniform(0.6, 1.1) * (1 + shrink * (x / width - 0.5)))
        front = facades.facade(rng, palette(rng, 5, vivid=0.3), w, max(60, tall))
        canvas.paste(front, (x, foot - front.height), front)
        x += w - 1
    draw = ImageDraw.Draw(canvas)
    for _ in range(int(rng.integers(0, 5))):
        px = rng.uniform(0, width)
        top = foot - height * rng.uniform(0.2, 0.6)
        draw.line((px, foot + height * 0.05, px, top), fill=(40, 42, 44), width=int(rng.integers(2, 6)))
        r = height * rng.uniform(0.02, 0.05)
        draw.ellipse(
            (px - r, top - r, px + r, top + r), fill=as_colour(palette(rng, 1, vivid=0.9)[0]), outline=(230, 230, 225)
        )
    pixels = np.asarray(canvas, dtype=np.float32)
    if rng.uniform() < 0.4:
        pixels = with_trees(rng, pixels, height, width)
    return uneven(rng, pixels)
