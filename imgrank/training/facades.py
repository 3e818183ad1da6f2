"""Fronts of buildings: walls of brick or stone, rows of windows, arches, columns, cornices, roofs and signs."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from imgrank.arrays import Floats
from imgrank.training import glyphs
from imgrank.training.noise import Generator, as_colour, contrasting, fractal, ramp, soft_mask, to_pixels
from imgrank.training.regions import TILE, atlas


def facade(rng: Generator, colours: Floats, width: int, height: int) -> Image.Image:
    """Draw one building front with its roof line as silhouette; RGBA."""
    roof = int(height * rng.uniform(0.0, 0.22))
    wall_colour = colours[0] * 0.5 + np.array([188, 170, 150]) * rng.uniform(0.25, 0.55)
    wall = np.broadcast_to(wall_colour, (height, width, 3)) * (
        1 + 0.1 * fractal(rng, height, width, slope=1.3)[..., None]
    )
    tile = atlas(int(rng.integers(6)))[int(rng.choice([11, 11, 0, 1, 4]))]
    zoom = rng.uniform(0.6, 1.8)
    rows, columns = (np.arange(n) * zoom for n in (height, width))
    grain = tile[rows.astype(int)[:, None] % TILE, columns.astype(int)[None, :] % TILE].astype(np.float32)
    wall = wall * (1 + (grain[..., None] - 128) * np.float32(rng.uniform(0.0008, 0.004)))
    canvas = Image.fromarray(to_pixels(wall))
    draw = ImageDraw.Draw(canvas)
    trim = as_colour(wall_colour, float(rng.choice([0.55, 1.35, 1.5])))
    shade = as_colour(wall_colour, 0.45)

    floors, bays = int(rng.integers(2, 7)), int(rng.integers(2, 8))
    base = int(height * rng.uniform(0.72, 0.88))
    tall, wide = (base - roof) / floors, width / bays
    window = _WindowStyle(rng, wide, tall, wall_colour, colours)
    for floor in range(floors):
        top = roof + floor * tall
        if rng.uniform() < 0.6:
            _ledge(draw, top, width, max(2, int(tall * rng.uniform(0.03, 0.1))), trim, shade)
        if rng.uniform() < 0.25:
            window = _WindowStyle(rng, wide, tall, wall_colour, colours)
        for bay in range(bays):
            window.draw(draw, rng, bay * wide, top)
    _columns(draw, rng, bays, wide, roof, base, trim, shade)
    _ground_floor(canvas, draw, rng, colours, base, trim, shade)
    alpha = _roof(canvas, draw, rng, colours, roof, trim, shade)
    light = 1 + 0.22 * (
        np.linspace(-1, 1, width)[None, :] * rng.normal(0, 0.7) - np.linspace(-1, 1, height)[:, None] * 0.4
    )
    stains = fractal(rng, height, width, slope=1.4, grain=(4.0, 1.0))
    dirt = 1 - 0.1 * np.clip(stains, 0, 2)
    pixels = np.asarray(canvas, dtype=np.float32) * (light * dirt).astype(np.float32)[..., None]
    pixels = pixels + rng.standard_normal((height, width, 1), dtype=np.float32) * np.float32(5)
    return Image.fromarray(np.dstack([to_pixels(pixels), to_pixels(soft_mask(alpha, 0.6) * 255)]))


class _WindowStyle:
    """One design of window, repeated over a floor with other curtains and reflections."""

    def __init__(self, rng: Generator, wide: float, tall: float, wall: Floats, colours: Floats) -> None:
        self.half = wide * rng.uniform(0.22, 0.4)
        self.top, self.end = tall * rng.uniform(0.15, 0.28), tall * rng.uniform(0.78, 0.95)
        self.middle = wide / 2
        self.arch = rng.choice(["flat", "flat", "round", "point", "pediment"])
        self.bars = int(rng.integers(1, 4)), int(rng.integers(1, 5))
        self.shutters = rng.uniform() < 0.25
        self.balcony = rng.uniform() < 0.25
        self.rim = max(1, int(wide * rng.uniform(0.02, 0.08)))
        self.frame = as_colour(wall, float(rng.choice([0.4, 1.4, 1.5])))
        self.bar = as_colour(np.array([225, 222, 214]) if rng.uniform() < 0.7 else colours[1] * 0.6)
        self.leaf = as_colour(colours[2] * 0.8)
        self.glass = np.array([46, 56, 70]) * rng.uniform(0.5, 1.6)

    def draw(self, draw: ImageDraw.ImageDraw, rng: Generator, left: float, top: float) -> None:
        """Draw one window of this design with its bay at (left, top)."""
        cx, a, b, r, w = left + self.middle, top + self.top, top + self.end, self.rim, self.half
        glass = as_colour(self.glass, rng.uniform(0.6, 1.5))
        shadow = as_colour(self.glass, 0.4)
        glyphs.block(draw, (cx - w - r, a - r, cx + w + r, b + r), fill=self.frame)
        if self.arch == "round":
            draw.ellipse((cx - w - r, a - w - r, cx + w + r, a + w + r), fill=self.frame)
            draw.ellipse((cx - w, a - w, cx + w, a + w), fill=shadow)
        elif self.arch == "point":
            draw.polygon((cx - w - r, a, cx, a - 1.7 * w, cx + w + r, a), fill=self.frame)
            draw.polygon((cx - w, a, cx, a - 1.4 * w, cx + w, a), fill=shadow)
        elif self.arch == "pediment":
            draw.polygon((cx - 1.3 * w, a - r, cx, a - 0.6 * w - r, cx + 1.3 * w, a - r), fill=self.frame)
        glyphs.block(draw, (cx - w, a, cx + w, b), fill=glass)
        glyphs.block(draw, (cx - w, a, cx + w, a + max(1, 0.12 * (b - a))), fill=shadow)
        glyphs.block(draw, (cx - w, a, cx - w + max(1, 0.15 * w), b), fill=shadow)
        if rng.uniform() < 0.35:  # a curtain, a blind or a lamp behind the glass
            lit = as_colour(np.array([214, 196, 158]) * rng.uniform(0.5, 1.1))
            glyphs.block(
                draw,
                (cx - w * rng.uniform(0, 0.9), a + 2, cx + w * rng.uniform(0, 0.9), a + (b - a) * rng.uniform(0.2, 1)),
                fill=lit,
            )
        if rng.uniform() < 0.4:  # the sky in the glass
            sky = as_colour(np.array([150, 172, 196]) * rng.uniform(0.6, 1.2))
            x = cx + w * rng.uniform(-0.8, 0.2)
            draw.polygon((x, b, x + 0.4 * w, b, x + 0.8 * w, a, x + 0.3 * w, a), fill=sky)
        for i in range(1, self.bars[0] + 1):
            x = cx - w + 2 * w * i / (self.bars[0] + 1)
            draw.line((x, a, x, b), fill=self.bar, width=max(1, r // 2))
        for i in range(1, self.bars[1] + 1):
            y = a + (b - a) * i / (self.bars[1] + 1)
            draw.line((cx - w, y, cx + w, y), fill=self.bar, width=max(1, r // 2))
        glyphs.block(draw, (cx - w - 2 * r, b, cx + w + 2 * r, b + r), fill=self.frame)
        glyphs.block(draw, (cx - w - 2 * r, b + r, cx + w + 2 * r, b + 2 * r), fill=shadow)
        if self.shutters:
            for side in (-1, 1):
                edge = cx + side * (w + r)
                box = sorted((edge, edge + side * 0.55 * w))
                glyphs.block(draw, (box[0], a, box[1], b), fill=self.leaf)
                for y in np.arange(a + 2, b, 4):
                    draw.line((box[0], y, box[1], y), fill=shadow)
        if self.balcony:
            y = b - 0.3 * (b - a)
            draw.line((cx - 1.3 * w, y, cx + 1.3 * w, y), fill=(22, 22, 24), width=2)
            for x in np.arange(cx - 1.3 * w, cx + 1.3 * w, 4):
                draw.line((x, y, x, b + r), fill=(26, 26, 28))


def _ledge(
    draw: ImageDraw.ImageDraw, y: float, width: int, thick: int, light: tuple[int, int, int], dark: tuple[int, int, int]
) -> None:
    glyphs.block(draw, (0, y, width, y + thick), fill=light)
    glyphs.block(draw, (0, y + thick, width, y + 1.6 * thick), fill=dark)
    for x in range(0, width, max(4, 2 * thick)):
        glyphs.block(draw, (x, y + thick, x + thick // 2, y + 1.8 * thick), fill=light)


def _columns(
    draw: ImageDraw.ImageDraw,
    rng: Generator,
    bays: int,
    wide: float,
    top: int,
    base: int,
    light: tuple[int, int, int],
    dark: tuple[int, int, int],
) -> None:
    if rng.uniform() < 0.5:
        return
    half = wide * rng.uniform(0.05, 0.11)
    start = top if rng.uniform() < 0.6 else int(base - (base - top) * rng.uniform(0.3, 0.6))
    for bay in range(0, bays + 1, int(rng.integers(1, 3))):
        x = bay * wide
        for step in range(5):  # five strips, bright to dark, make it round
            tone = as_colour(np.asarray(light), 1.1 - 0.13 * step)
            left = x - half + 2 * half * step / 5
            glyphs.block(draw, (left, start, left + 2 * half / 5, base), fill=tone)
        glyphs.block(draw, (x - 1.5 * half, start, x + 1.5 * half, start + half), fill=light)
        glyphs.block(draw, (x - 1.5 * half, start + half, x + 1.5 * half, start + 1.4 * half), fill=dark)
        glyphs.block(draw, (x - 1.5 * half, base - half, x + 1.5 * half, base), fill=light)


def _ground_floor(
    canvas: Image.Image,
    draw: ImageDraw.ImageDraw,
    rng: Generator,
    colours: Floats,
    base: int,
    light: tuple[int, int, int],
    dark: tuple[int, int, int],
) -> None:
    width, height = canvas.size
    count = int(rng.integers(2, 6))
    wide = width / count
    style = rng.integers(3)
    glyphs.block(draw, (0, base, width, height), fill=as_colour(colours[0], 0.6))
    for i in range(count):
        a, b = i * wide + 0.12 * wide, (i + 1) * wide - 0.12 * wide
        if style == 0:  # an arcade
            radius = min((b - a) / 2, height - base)
            draw.ellipse(
                (a, base + 2, b, base + 2 + 2 * radius), fill=dark, outline=light, width=max(2, int(wide * 0.05))
            )
            glyphs.block(draw, (a + 2, base + radius, b - 2, height), fill=dark)
        elif style == 1:  # shops
            glyphs.block(
                draw, (a, base + 0.35 * (height - base), b, height), fill=as_colour(colours[3], 0.4), outline=light
            )
            box = (int(a), base + 2, int(b), int(base + 0.3 * (height - base)))
            ground = colours[int(rng.integers(len(colours)))]
            glyphs.block(draw, box, fill=as_colour(ground))
            glyphs.headline(canvas, box, rng, glyphs.title(rng), contrasting(rng, colours, ground))
            for _ in range(6):
                x, y = rng.uniform(a, b), rng.uniform(base + 0.5 * (height - base), height)
                size = wide * rng.uniform(0.03, 0.1)
                draw.ellipse(
                    (x - size, y - size, x + size, y + size), fill=as_colour(colours[int(rng.integers(len(colours)))])
                )
        else:  # doors
            glyphs.block(draw, (a, base + 3, b, height), fill=light)
            glyphs.block(draw, (a + 4, base + 7, b - 4, height), fill=as_colour(colours[2], 0.5))
            for j in range(4):
                y = base + 12 + (height - base - 12) * (j // 2) / 2
                x = a + 8 + (b - a - 16) * (j % 2) / 2
                glyphs.block(draw, (x, y, x + (b - a) / 2 - 12, y + (height - base) / 3), outline=dark, width=2)
    if rng.uniform() < 0.3:
        glyphs.block(draw, (0, base - 3, width, base + 3), fill=light)


def _roof(
    canvas: Image.Image,
    draw: ImageDraw.ImageDraw,
    rng: Generator,
    colours: Floats,
    roof: int,
    light: tuple[int, int, int],
    dark: tuple[int, int, int],
) -> Image.Image:
    """Draw the roof over the top `roof` rows and return the silhouette as an L mask."""
    width, height = canvas.size
    alpha = Image.new("L", (width, height), 255)
    if roof < 6:
        return alpha
    cut = ImageDraw.Draw(alpha)
    cut.rectangle((0, 0, width, roof), fill=0)
    style = rng.integers(4)
    cx = width / 2
    if style == 0:
        shape = [(0.0, float(roof)), (cx, 1.0), (float(width), float(roof))]
    elif style == 1:
        inset = width * rng.uniform(0.05, 0.2)
        shape = [(0.0, float(roof)), (inset, 1.0), (width - inset, 1.0), (float(width), float(roof))]
    elif style == 2:  # domes
        lobes = int(rng.integers(1, 4))
        x = np.linspace(0, width, 40)
        rise = np.abs(np.sin(x / width * np.pi * lobes)) ** 0.6
        shape = [
            (0.0, float(roof)),
            *zip(x.tolist(), (roof - rise * (roof - 2)).tolist(), strict=True),
            (float(width), float(roof)),
        ]
    else:  # battlements and gables
        shape = [(0.0, float(roof))]
        steps = int(rng.integers(5, 20))
        for i in range(steps):
            y = roof * (0.2 if i % 2 == 0 else 0.75)
            shape += [(i * width / steps, y), ((i + 1) * width / steps, y)]
        shape.append((float(width), float(roof)))
    cut.polygon(shape, fill=255)
    tone = ramp(fractal(rng, roof, width, slope=1.0, grain=(1.0, 3.0)), np.stack([colours[4] * 0.4, colours[4] * 0.8]))
    courses = np.arange(roof) % int(rng.integers(4, 9)) == 0
    tone[courses] *= np.float32(0.6)
    canvas.paste(Image.fromarray(to_pixels(tone)), (0, 0))
    draw.line([*shape], fill=light, width=max(2, roof // 16))
    if rng.uniform() < 0.5:
        r = roof * 0.22
        y = roof * 0.62
        draw.ellipse((cx - r, y - r, cx + r, y + r), fill=dark, outline=light, width=max(2, int(r * 0.2)))
        for i in range(6):
            draw.line((cx, y, cx + r * np.cos(i), y + r * np.sin(i)), fill=light)
    glyphs.block(draw, (0, roof - 3, width, roof + 2), fill=light)
    return alpha
