"""Paintings in frames, rosettes and crests, and modelled figures."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from imgrank.arrays import Floats, Pixels
from imgrank.training import glyphs
from imgrank.training.noise import (
    Generator,
    as_colour,
    blurred,
    fractal,
    palette,
    ramp,
    relief,
    soft_mask,
    to_pixels,
)
from imgrank.training.regions import paint, scatter, varied


def painting(rng: Generator, colours: Floats, width: int, height: int) -> Image.Image:
    """Draw a painted picture (landscape, portrait, still life or abstract) in a moulded frame; RGBA."""
    rim = int(min(width, height) * rng.uniform(0.03, 0.13))
    w, h = width - 2 * rim, height - 2 * rim
    motif = rng.integers(4)
    if motif == 0:
        picture = _landscape(rng, colours, w, h)
    elif motif == 1:
        picture = _portrait(rng, colours, w, h)
    elif motif == 2:
        kinds = (("card",), ("disc", "shard"), ("shard",), ("stone",))[int(rng.integers(4))]
        regions = scatter(rng, h, w, kinds, count=60, smallest=8, largest=0.4 * w, power=1.8)
        picture = to_pixels(paint(rng, regions, varied(rng, colours, regions.count), shadow=0.1))
    else:
        regions = scatter(rng, h, w, ("disc", "leaf"), count=40, smallest=12, largest=0.25 * w, power=1.5, aspect=0.8)
        picture = to_pixels(paint(rng, regions, varied(rng, colours, regions.count), roundness=0.7))
    canvas = Image.fromarray(picture)
    _brush(canvas, rng, strokes=int(rng.choice([0, 500, 900, 1400])), size=max(w, h))
    weave = fractal(rng, h, w, slope=0.7, grain=(1.0, float(rng.choice([1.0, 1.0, 4.0]))))
    pixels = np.asarray(canvas, dtype=np.float32)
    pixels = pixels * relief(weave * 1.2, 2.2, 0.06)[..., None]

    gilt = palette(rng, 1, vivid=0.5)[0] if rng.uniform() < 0.5 else np.array([168, 128, 62], np.float32)
    frame = _moulding(rng, gilt, width, height, rim)
    frame[rim : rim + h, rim : rim + w] = pixels
    frame[rim : rim + 3, rim : rim + w] *= 0.55
    frame[rim : rim + h, rim : rim + 3] *= 0.65
    return Image.fromarray(to_pixels(frame)).convert("RGBA")


def _moulding(rng: Generator, colour: Floats, width: int, height: int, rim: int) -> Floats:
    x, y = np.arange(width, dtype=np.float32)[None, :], np.arange(height, dtype=np.float32)[:, None]
    to_side, to_top = np.minimum(x, width - 1 - x), np.minimum(y, height - 1 - y)
    inward = np.minimum(to_side, to_top) / max(1, rim)
    along = np.where(to_side < to_top, y, x)
    profile = np.sin(inward * np.float32(rng.uniform(2, 9))) * 3
    carving = np.sin(along * np.float32(2 * np.pi / rng.uniform(8, 30))) * np.sin(inward * np.float32(np.pi))
    height_map = profile * np.float32(0.12 * rim) + carving * np.float32(rng.uniform(0, 3))
    height_map += fractal(rng, height, width, slope=1.0) * np.float32(0.5)
    return (colour * relief(height_map.astype(np.float32), 2.3, 0.35)[..., None]).astype(np.float32)


def _landscape(rng: Generator, colours: Floats, width: int, height: int) -> Pixels:
    canvas = Image.fromarray(to_pixels(ramp(fractal(rng, height, width, slope=1.4, grain=(1, 3)), colours[[1, 0, 2]])))
    draw = ImageDraw.Draw(canvas)
    sun = rng.uniform(0.03, 0.1) * width
    x, y = rng.uniform(0.1, 0.9) * width, rng.uniform(0.1, 0.4) * height
    draw.ellipse((x - sun, y - sun, x + sun, y + sun), fill=as_colour(colours[3], 1.3))
    columns = np.arange(0, width + 4, 4)
    for layer in range(5):
        line = fractal(rng, 2, len(columns), slope=1.6)[0] * height * 0.05
        line = line + height * (0.4 + 0.12 * layer)
        shape = [
            (0.0, float(height)),
            *zip(columns.tolist(), line.tolist(), strict=True),
            (float(width), float(height)),
        ]
        draw.polygon(shape, fill=as_colour(colours[layer % len(colours)], 1.1 - 0.13 * layer))
        for _ in range(int(rng.integers(2, 12))):
            i = int(rng.integers(len(columns)))
            tx, ty, size = float(columns[i]), float(line[i]), (0.02 + 0.02 * layer) * height * rng.uniform(0.6, 1.8)
            if rng.uniform() < 0.3:
                wall = as_colour(colours[-1], 1.2)
                glyphs.block(draw, (tx - size, ty - size, tx + size, ty + size * 0.4), fill=wall)
                roof = (tx - size * 1.2, ty - size, tx, ty - size * 1.9, tx + size * 1.2, ty - size)
                draw.polygon(roof, fill=as_colour(colours[1], 0.6))
            else:
                draw.line((tx, ty + size, tx, ty - size), fill=(50, 38, 30), width=max(1, int(size * 0.2)))
                leaf = as_colour(colours[int(rng.integers(len(colours)))], 0.8)
                draw.ellipse((tx - size, ty - 2.2 * size, tx + size, ty - 0.3 * size), fill=leaf)
    return np.asarray(canvas)


def _portrait(rng: Generator, colours: Floats, width: int, height: int) -> Pixels:
    canvas = Image.fromarray(to_pixels(ramp(fractal(rng, height, width, slope=1.7), colours[[0, 4, 1]] * 0.6)))
    draw = ImageDraw.Draw(canvas)
    cx, cy = width * rng.uniform(0.4, 0.6), height * rng.uniform(0.36, 0.46)
    a, b = width * rng.uniform(0.13, 0.2), height * rng.uniform(0.15, 0.21)
    skin = np.array([224, 180, 150]) * rng.uniform(0.4, 1.08)
    robe, hair = colours[2], colours[3] * 0.5

    def oval(x: float, y: float, rx: float, ry: float, colour: tuple[int, int, int]) -> None:
        draw.ellipse((x - rx, y - ry, x + rx, y + ry), fill=colour)

    oval(cx, cy - 0.25 * b, a * rng.uniform(1.15, 1.7), b * rng.uniform(1.05, 1.5), as_colour(hair))
    draw.polygon(
        (cx - 0.45 * a, cy, cx + 0.45 * a, cy, cx + 0.55 * a, cy + 1.7 * b, cx - 0.55 * a, cy + 1.7 * b),
        fill=as_colour(skin, 0.8),
    )
    oval(cx, height * 1.02, a * rng.uniform(2.0, 2.8), height - cy - 1.25 * b, as_colour(robe))
    for _ in range(int(rng.integers(3, 14))):  # folds and buttons
        x = cx + a * rng.normal(0, 1.1)
        line = (x, height, cx + 0.4 * (x - cx), cy + 1.5 * b)
        draw.line(line, fill=as_colour(robe, rng.uniform(0.5, 1.5)), width=int(rng.integers(2, 8)))
    oval(cx, cy, a, b, as_colour(skin))
    oval(cx + 0.35 * a, cy + 0.1 * b, a * 0.62, b * 0.8, as_colour(skin, 0.86))
    gaze = rng.uniform(-0.15, 0.15)
    for side in (-1, 1):
        ex, ey = cx + a * (0.42 * side + gaze), cy - 0.12 * b
        oval(ex, ey, 0.2 * a, 0.09 * b, (238, 232, 222))
        oval(ex + gaze * 0.3 * a, ey, 0.09 * a, 0.085 * b, as_colour(colours[4], 0.5))
        brow = (ex - 0.26 * a, ey - 0.16 * b, ex + 0.26 * a, ey - rng.uniform(0.12, 0.26) * b)
        draw.line(brow, fill=as_colour(hair), width=max(2, int(0.06 * b)))
    nose = (cx + gaze * a, cy - 0.05 * b, cx + (gaze + 0.16) * a, cy + 0.3 * b, cx + (gaze - 0.06) * a, cy + 0.32 * b)
    draw.line(nose, fill=as_colour(skin, 0.62), width=max(2, int(0.04 * b)))
    oval(cx + gaze * a, cy + 0.55 * b, a * rng.uniform(0.2, 0.4), b * rng.uniform(0.04, 0.1), (150, 60, 60))
    if rng.uniform() < 0.5:
        oval(cx, cy - 0.95 * b, a * rng.uniform(1.2, 2.2), b * 0.18, as_colour(colours[5]))
        glyphs.block(draw, (cx - 0.9 * a, cy - 1.6 * b, cx + 0.9 * a, cy - 0.95 * b), fill=as_colour(colours[5], 0.8))
    return np.asarray(canvas)


def _brush(canvas: Image.Image, rng: Generator, *, strokes: int, size: int) -> None:
    """Redraw a picture with strokes of a brush that follow a smooth flow, in place."""
    if strokes == 0:
        return
    source = np.asarray(canvas)
    height, width = source.shape[:2]
    flow = blurred(fractal(rng, height, width, slope=2.0), 6) * np.float32(rng.uniform(0.4, 2.5))
    draw = ImageDraw.Draw(canvas)
    xs = rng.integers(0, width, strokes)
    ys = rng.integers(0, height, strokes)
    jitter = rng.normal(0, 16, (strokes, 1)) + rng.normal(0, 7, (strokes, 3))
    inks = np.clip(source[ys, xs].astype(np.float32) + jitter, 0, 255).astype(np.int64).tolist()
    lengths = size * rng.uniform(0.012, 0.04, strokes)
    turns = flow[ys, xs] + rng.normal(0, 0.25, strokes)
    dx, dy = lengths * np.cos(turns), lengths * np.sin(turns)
    wide = rng.integers(2, max(4, size // 50), strokes)
    for i in range(strokes):
        ends = (xs[i] - dx[i], ys[i] - dy[i], xs[i] + dx[i], ys[i] + dy[i])
        draw.line(ends, fill=tuple(inks[i]), width=int(wide[i]))


def ornament(rng: Generator, colours: Floats, width: int, height: int) -> Image.Image:
    """Draw a rosette, decorated plate, or crest, in low relief; RGBA."""
    side = min(width, height)
    canvas = Image.new("RGB", (side, side), as_colour(colours[0]))
    draw = ImageDraw.Draw(canvas)
    c = side / 2
    fold = int(rng.choice([4, 5, 6, 8, 10, 12, 16]))
    inks = [as_colour(v) for v in colours]
    silhouette = Image.new("L", (side, side), 0)
    cut = ImageDraw.Draw(silhouette)
    form = rng.integers(3)
    if form == 0:
        cut.ellipse((1, 1, side - 2, side - 2), fill=255)
    elif form == 1:
        cut.polygon(glyphs.star(c, c, c - 1, fold, rng.uniform(0.72, 0.95)), fill=255)
    else:
        shield = (0.06, 0.03, 0.94, 0.03, 0.94, 0.5, 0.8, 0.78, 0.5, 0.99, 0.2, 0.78, 0.06, 0.5)
        cut.polygon([v * side for v in shield], fill=255)
        for quarter in range(4):
            x, y = (quarter % 2) * c, (quarter // 2) * c
            glyphs.block(draw, (x, y, x + c, y + c), fill=inks[int(rng.integers(len(inks)))])
            glyphs.logo(canvas, (int(x + 0.15 * c), int(y + 0.1 * c), int(x + 0.9 * c), int(y + 0.85 * c)), rng, inks)
    radius = c
    while radius > 0.08 * c and (form < 2 or radius == c):
        ink = inks[int(rng.integers(len(inks)))]
        kind = rng.integers(5)
        ring = radius * rng.uniform(0.6, 0.95)
        if kind == 0:
            draw.ellipse((c - ring, c - ring, c + ring, c + ring), fill=ink)
        elif kind == 1:
            draw.polygon(glyphs.star(c, c, ring, fold, rng.uniform(0.4, 0.9), rng.uniform(0, 1)), fill=ink)
        elif kind == 2 and form < 2:
            bead = np.pi * ring / fold * rng.uniform(0.3, 0.8)
            for i in range(fold * 2):
                x, y = c + ring * np.cos(i * np.pi / fold), c + ring * np.sin(i * np.pi / fold)
                draw.ellipse((x - bead / 2, y - bead / 2, x + bead / 2, y + bead / 2), fill=ink)
        elif kind == 3 and form < 2:
            petal, long = rng.uniform(0.15, 0.5), rng.uniform(0.3, 0.9)
            for i in range(fold):
                t = 2 * np.pi * i / fold
                tip = (c + ring * np.cos(t), c + ring * np.sin(t))
                for sign_ in (-petal, petal):
                    mid = (c + long * ring * np.cos(t + sign_), c + long * ring * np.sin(t + sign_))
                    draw.polygon((c, c, *mid, *tip), fill=ink)
        else:
            thick = max(2, int(radius * rng.uniform(0.02, 0.1)))
            draw.ellipse((c - ring, c - ring, c + ring, c + ring), outline=ink, width=thick)
        radius *= rng.uniform(0.72, 0.94)
    if form == 2 and rng.uniform() < 0.7:
        band = (int(0.1 * side), int(0.42 * side), int(0.9 * side), int(0.58 * side))
        glyphs.block(draw, band, fill=inks[1])
        glyphs.headline(
            canvas, band, rng, glyphs.title(rng), as_colour(colours[1], 0.3 if colours[1].mean() > 110 else 2.5)
        )
    pixels = np.asarray(canvas, dtype=np.float32)
    grey = blurred(pixels.mean(axis=2) * np.float32(0.04), 2)
    wear = fractal(rng, side, side, slope=1.0)
    rise = grey + wear * np.float32(rng.uniform(0.2, 0.9))
    inner = blurred(soft_mask(silhouette, 0.0), 0.04 * side) * np.float32(0.05 * side)
    pixels = pixels * relief(rise + inner, 2.3, 0.3)[..., None] * (1 + 0.08 * wear[..., None])
    alpha = to_pixels(soft_mask(silhouette, 0.7) * 255)
    return Image.fromarray(np.dstack([to_pixels(pixels), alpha]))


def figure(rng: Generator, colours: Floats, width: int, height: int) -> Image.Image:
    """Model a figure from ellipsoids (a toy, an animal, a bust), lit from the side; RGBA."""
    depth = np.full((height, width), -1e3, np.float32)
    part = np.zeros((height, width), np.int32)
    y, x = np.mgrid[0:height, 0:width].astype(np.float32)
    count = int(rng.integers(7, 22))
    mirrored = rng.uniform() < 0.6
    size = min(width, height)
    centres = [np.array([0.5 * width, 0.55 * height, 0.0])]
    for i in range(count):
        start = centres[int(rng.integers(max(0, len(centres) - 4), len(centres)))]
        radii = size * rng.uniform(0.05, 0.2 if i else 0.3, 3)
        step = rng.normal(0, 1, 3) * size * (0.0 if i == 0 else 0.16)
        centre = start + step
        centre[:2] = np.clip(
            centre[:2], [radii.max() * 1.1] * 2, [width - radii.max() * 1.1, height - radii.max() * 1.1]
        )
        centres.append(centre)
        turn = rng.uniform(0, np.pi)
        for flip in (False, True) if mirrored and i else (False,):
            cx = width - centre[0] if flip else centre[0]
            t = -turn if flip else turn
            reach = int(radii[:2].max()) + 2
            rows = slice(max(0, int(centre[1]) - reach), min(height, int(centre[1]) + reach))
            cols = slice(max(0, int(cx) - reach), min(width, int(cx) + reach))
            u, v = x[rows, cols] - cx, y[rows, cols] - centre[1]
            p = (u * np.cos(t) + v * np.sin(t)) / radii[0]
            q = (v * np.cos(t) - u * np.sin(t)) / radii[1]
            rise = 1 - p * p - q * q
            z = np.where(rise > 0, centre[2] + radii[2] * np.sqrt(np.clip(rise, 0, 1)), -1e3).astype(np.float32)
            front = z > depth[rows, cols]
            part[rows, cols][front] = i
            depth[rows, cols][front] = z[front]
    solid = depth > -900
    height_map = np.where(solid, depth, depth[solid].min() if solid.any() else 0).astype(np.float32)
    surface = fractal(rng, height, width, slope=float(rng.uniform(0.9, 1.5)))
    bumps = np.sin(x * rng.uniform(0.1, 0.5)) * np.sin(y * rng.uniform(0.1, 0.5)) * np.float32(rng.choice([0, 0, 1.5]))
    lit = relief(height_map + surface * np.float32(rng.uniform(0.3, 1.4)) + bumps, 2.4, 0.42)
    hollow = np.clip((height_map - blurred(height_map, size * 0.06)) / (size * 0.08), -0.8, 0.3)
    if rng.uniform() < 0.5:
        paints = varied(rng, colours, count, 10)[part]
    else:
        paints = np.broadcast_to(colours[0], (*part.shape, 3))
    marks = ramp(fractal(rng, height, width, slope=1.2), np.stack([colours[1] * 0.7, colours[0], colours[2]]))
    image = (paints * 0.65 + marks * 0.35) * (lit * (1 + hollow))[..., None]
    image = image + (np.clip(lit - 1.35, 0, 1) * rng.uniform(0, 220))[..., None]
    alpha = to_pixels(soft_mask(Image.fromarray(solid.astype(np.uint8) * np.uint8(255)), 0.7) * 255)
    return Image.fromarray(np.dstack([to_pixels(image), alpha]))
