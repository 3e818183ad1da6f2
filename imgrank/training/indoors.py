"""Scenes under a roof: tables, shelves of products, rooms and corridors, and heaps of cards."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFilter

from imgrank.arrays import Floats
from imgrank.training import glyphs, products
from imgrank.training.noise import Generator, as_colour, palette, to_pixels
from imgrank.training.outdoors import foliage
from imgrank.training.regions import TILE, paint, scatter, varied
from imgrank.training.surfaces import plane, uneven, wall


def table(rng: Generator, height: int, width: int) -> Floats:
    """Draw a table or floor with an out-of-focus wall behind it."""
    horizon = height * rng.uniform(0.15, 0.5)
    back = Image.fromarray(to_pixels(_far(rng, height, width)))
    back = back.filter(ImageFilter.GaussianBlur(rng.uniform(1.0, 7.0)))
    ground = plane(rng, height, width, horizon, palette(rng, 3, vivid=float(rng.choice([0.0, 0.1, 0.4]))))
    edge = (np.arange(height) > horizon + rng.uniform(0, 12))[:, None, None]
    return uneven(rng, np.where(edge, ground, np.asarray(back, dtype=np.float32)).astype(np.float32))


def _far(rng: Generator, height: int, width: int) -> Floats:
    scene = (wall, shelf, room, foliage, cards)[int(rng.integers(5))]
    small = Image.fromarray(to_pixels(scene(rng, max(48, height // 2), max(48, width // 2))))
    return np.asarray(small.resize((width, height), Image.Resampling.BILINEAR), dtype=np.float32)


def cards(rng: Generator, height: int, width: int) -> Floats:
    """Draw a heap of sheets, cards and discs of all sizes: dead leaves in the sense of Matheron."""
    kinds = (("card",), ("disc",), ("shard", "card"), ("stone", "disc", "card", "leaf"))[int(rng.integers(4))]
    regions = scatter(
        rng,
        height,
        width,
        kinds,
        count=int(rng.integers(250, 900)),
        smallest=4,
        largest=0.35 * width,
        aspect=float(rng.uniform(0.4, 1.0)),
        power=float(rng.uniform(2.2, 3.2)),
    )
    colours = varied(rng, palette(rng, 8, vivid=float(rng.uniform(0.1, 0.8))), regions.count)
    return paint(rng, regions, colours, roundness=float(rng.choice([0, 0, 0.4])), reach=float(rng.uniform(3, 10)))


def shelf(rng: Generator, height: int, width: int) -> Floats:
    """Draw shelves of packages, each product repeated a few times, with price tags."""
    canvas = Image.fromarray(to_pixels(np.broadcast_to(palette(rng, 1, vivid=0.1)[0] * 0.4, (height, width, 3))))
    draw = ImageDraw.Draw(canvas)
    rows = int(rng.integers(2, 5))
    tall = height // rows
    rail = max(5, tall // 9)
    rail_colour = as_colour(palette(rng, 1, vivid=0.2)[0])
    for row in range(rows):
        floor = (row + 1) * tall - rail
        x = -int(rng.uniform(0, 30))
        while x < width:
            w = int(tall * rng.uniform(0.3, 0.75))
            h = int((tall - rail) * rng.uniform(0.7, 0.97))
            item = products.front(rng, palette(rng, 5, vivid=0.85), w, h, detail=False)
            for _ in range(int(rng.integers(1, 4))):
                gain = rng.uniform(0.65, 1.1)
                canvas.paste(item.point(lambda v, g=gain: int(v * g)), (x, floor - h + int(rng.integers(-2, 3))))
                draw.line((x, floor - h, x, floor), fill=(20, 20, 22), width=int(rng.integers(1, 4)))
                x += w + int(rng.integers(0, 5))
        glyphs.block(draw, (0, floor, width, floor + rail), fill=rail_colour)
        for tag in range(0, width, int(rng.integers(50, 110))):
            box = (tag, floor, tag + 34, floor + rail)
            glyphs.block(draw, box, fill=(246, 240, 214))
            glyphs.headline(canvas, box, rng, f"{rng.integers(1, 99)}.{rng.integers(10, 99)}", (30, 24, 24))
    pixels = np.asarray(canvas, dtype=np.float32)
    depth = (np.arange(height) % tall) / tall
    lit = np.clip(0.4 + 1.6 * depth, 0, 1)[:, None, None].astype(np.float32)
    return uneven(rng, pixels * lit)


def _surface(rng: Generator, openings: bool) -> npt.NDArray[np.uint8]:
    """Draw one side of a room as a (TILE, TILE, 3) texture: panels, doors, windows, pictures, tiles."""
    canvas = Image.fromarray(to_pixels(wall(rng, TILE, TILE)))
    draw = ImageDraw.Draw(canvas)
    if openings:
        for _ in range(int(rng.integers(1, 6))):
            x, y = rng.uniform(0, TILE * 0.9), rng.uniform(20, TILE * 0.6)
            w, h = rng.uniform(12, 80), rng.uniform(20, 120)
            kind = rng.integers(4)
            frame = as_colour(palette(rng, 1, vivid=0.2)[0])
            if kind == 0:
                glyphs.block(draw, (x, y, x + w, TILE), fill=frame, outline=(30, 28, 26), width=2)
                draw.ellipse((x + w * 0.8, y + 80, x + w * 0.9, y + 88), fill=(210, 200, 150))
            elif kind == 1:
                glyphs.block(draw, (x, y, x + w, y + h), fill=(214, 226, 236), outline=frame, width=3)
                draw.line((x + w / 2, y, x + w / 2, y + h), fill=frame, width=2)
                draw.line((x, y + h / 2, x + w, y + h / 2), fill=frame, width=2)
            elif kind == 2:
                poster = products.front(rng, palette(rng, 5, vivid=0.7), int(w) + 12, int(h), detail=False)
                canvas.paste(poster, (int(x), int(y)))
                glyphs.block(draw, (x, y, x + int(w) + 12, y + h), outline=(24, 22, 20), width=2)
            else:
                for i in range(int(rng.integers(3, 9))):
                    glyphs.block(draw, (x, y + i * 14, x + w, y + i * 14 + 8), fill=as_colour(palette(rng, 1)[0]))
        glyphs.block(draw, (0, TILE - 12, TILE, TILE), fill=as_colour(palette(rng, 1, vivid=0.1)[0]))
    else:
        pitch = int(rng.choice([16, 32, 64]))
        tone = int(rng.integers(40, 220))
        for i in range(0, TILE, pitch):
            draw.line((i, 0, i, TILE), fill=(tone,) * 3)
            draw.line((0, i, TILE, i), fill=(tone,) * 3)
        if rng.uniform() < 0.5:
            glyphs.block(draw, (96, 40, 160, 90), fill=(250, 248, 240))
    return np.asarray(canvas)


def room(rng: Generator, height: int, width: int) -> Floats:
    """Draw the inside of a room or corridor in one-point perspective, with box-like furniture."""
    vx, vy = width * rng.uniform(0.25, 0.75), height * rng.uniform(0.3, 0.6)
    x = np.arange(width, dtype=np.float32)[None, :] - np.float32(vx)
    y = np.arange(height, dtype=np.float32)[:, None] - np.float32(vy)
    half, up, down = rng.uniform(0.5, 1.1) * width, rng.uniform(0.6, 1.0) * height, rng.uniform(0.5, 0.9) * height
    far = np.float32(rng.uniform(1.6, 6.0))
    to_side = np.float32(half) / np.maximum(np.abs(x), 1e-3)
    to_level = np.where(y < 0, np.float32(up), np.float32(down)) / np.maximum(np.abs(y), 1e-3)
    depth = np.minimum(np.minimum(to_side, to_level), far)
    back, side = depth >= far, to_side <= to_level
    across, level, deep = x * depth, y * depth, depth * np.float32(180)
    scale = np.float32(TILE / (up + down))
    rows = (level + np.float32(up)) * scale
    u = np.where(side & ~back, deep * np.float32(1.2), across * scale)
    v = np.where(back | side, rows, deep * np.float32(1.2))
    face = np.where(back, 0, np.where(side, np.where(x < 0, 1, 2), np.where(y < 0, 3, 4)))
    faces = np.stack([_surface(rng, i < 3) for i in range(5)])
    image = faces[face, v.astype(np.int32) & (TILE - 1), u.astype(np.int32) & (TILE - 1)].astype(np.float32)
    dim = np.array([0.9, 0.75, 0.95, 1.1, 0.7], np.float32)[face] * (np.float32(1.1) - np.float32(0.1) * depth)
    canvas = Image.fromarray(to_pixels(image * np.clip(dim, 0.2, 1.3)[..., None]))
    draw = ImageDraw.Draw(canvas)
    for _ in range(int(rng.integers(0, 5))):
        _furniture(draw, rng, height, width, vx, vy)
    return uneven(rng, np.asarray(canvas, dtype=np.float32))


def _furniture(draw: ImageDraw.ImageDraw, rng: Generator, height: int, width: int, vx: float, vy: float) -> None:
    """Draw a cupboard, table or chair: a box whose receding edges run to the vanishing point."""
    tone = palette(rng, 1, vivid=0.4)[0]
    left, floor = rng.uniform(-0.1, 0.9) * width, height * rng.uniform(0.7, 1.05)
    w, h = width * rng.uniform(0.1, 0.35), height * rng.uniform(0.1, 0.5)
    back = rng.uniform(0.15, 0.4)

    def recede(px: float, py: float) -> tuple[float, float]:
        return px + (vx - px) * back, py + (vy - py) * back

    a, b, c, d = (left, floor - h), (left + w, floor - h), (left + w, floor), (left, floor)
    draw.polygon((*a, *b, *recede(*b), *recede(*a)), fill=as_colour(tone, 1.25))
    if vx > left + w:
        draw.polygon((*b, *c, *recede(*c), *recede(*b)), fill=as_colour(tone, 0.55))
    elif vx < left:
        draw.polygon((*a, *d, *recede(*d), *recede(*a)), fill=as_colour(tone, 0.6))
    if rng.uniform() < 0.4:  # legs
        glyphs.block(draw, (*a, b[0], a[1] + 0.12 * h), fill=as_colour(tone))
        for px in (a[0], b[0] - 0.06 * w):
            glyphs.block(draw, (px, a[1], px + 0.06 * w, d[1]), fill=as_colour(tone, 0.8))
    else:
        glyphs.block(draw, (*a, *c), fill=as_colour(tone, 0.9), outline=as_colour(tone, 0.4))
        for i in range(1, int(rng.integers(2, 6))):
            y = a[1] + h * i / 5
            draw.line((a[0], y, b[0], y), fill=as_colour(tone, 0.4), width=2)
            draw.ellipse((a[0] + w * 0.47, y + 4, a[0] + w * 0.53, y + 9), fill=as_colour(tone, 1.6))
