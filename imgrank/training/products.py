"""Things with printed fronts: boxes, bottles, jars and posters.

Every function draws on a palette given by the caller, so that two things with one palette and different
randomness are look-alikes: the hard negatives of a collection.
"""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageDraw

from imgrank.arrays import Floats
from imgrank.training import glyphs
from imgrank.training.noise import (
    Colour,
    Generator,
    as_colour,
    contrasting,
    fractal,
    ramp,
    soft_mask,
    to_pixels,
)
from imgrank.training.regions import TILE, atlas, paint, scatter, varied


def front(rng: Generator, colours: Floats, width: int, height: int, *, detail: bool = True) -> Image.Image:
    """Draw the printed front of a package.

    Args:
        rng: the source of randomness.
        colours: (n, 3) float32 palette, n >= 4.
        width: pixels.
        height: pixels.
        detail: False leaves out small print and pictures, for fronts only a few dozen pixels wide.

    Returns:
        An RGB image of that size.
    """
    canvas = Image.fromarray(to_pixels(_ground(rng, colours, width, height)))
    draw = ImageDraw.Draw(canvas)
    inks = [as_colour(c) for c in colours]
    _swooshes(draw, rng, inks, width, height)
    ground = colours[0]
    top = rng.uniform(0.04, 0.3)
    band = (int(0.06 * width), int(top * height), int(0.94 * width), int((top + rng.uniform(0.12, 0.24)) * height))
    if rng.uniform() < 0.55:
        plate = inks[int(rng.integers(len(inks)))]
        pad = max(2, width // 40)
        box = (band[0] - pad, band[1] - pad, band[2] + pad, band[3] + pad)
        if rng.uniform() < 0.5:
            draw.rounded_rectangle(box, (band[3] - band[1]) * rng.uniform(0, 0.5), fill=plate)
        else:
            draw.ellipse((box[0], box[1] - pad, box[2], box[3] + pad), fill=plate)
        ground = np.asarray(plate, dtype=np.float32)
    picture_top = band[3] + int(rng.uniform(0.02, 0.12) * height)
    if detail:
        _picture(canvas, rng, colours, (int(rng.uniform(0, 0.3) * width), picture_top))
    ink = contrasting(rng, colours, ground)
    edge = contrasting(rng, colours, np.asarray(ink)) if rng.uniform() < 0.4 else None
    glyphs.headline(canvas, band, rng, glyphs.title(rng), ink, outline=edge, turn=float(rng.choice([0, 0, 0, 6, -5])))
    line = band[3] + max(2, height // 60)
    for _ in range(int(rng.integers(1, 3))):
        tall = int(rng.uniform(0.035, 0.08) * height)
        left = int(rng.uniform(0.05, 0.4) * width)
        text = " ".join(glyphs.word(rng) for _ in range(int(rng.integers(1, 4))))
        box = (left, line, min(width, left + int(rng.uniform(0.3, 0.6) * width)), line + tall)
        glyphs.headline(canvas, box, rng, text, contrasting(rng, colours, colours[0]))
        line += int(tall * 1.3)
    if detail:
        _fine_print(canvas, rng, colours, width, height)
    else:
        r = int(min(width, height) * rng.uniform(0.15, 0.3))
        cx, cy = int(width * rng.uniform(0.3, 0.7)), int(height * rng.uniform(0.6, 0.8))
        glyphs.logo(canvas, (cx - r, cy - r, cx + r, cy + r), rng, inks)
    return canvas


def _ground(rng: Generator, colours: Floats, width: int, height: int) -> Floats:
    x = np.linspace(0, 1, width, dtype=np.float32)[None, :]
    y = np.linspace(0, 1, height, dtype=np.float32)[:, None]
    style = rng.integers(4)
    if style == 0:
        mix = y + np.zeros_like(x)
    elif style == 1:
        mix = np.hypot(x - 0.5, y - np.float32(rng.uniform(0.2, 0.8)))
    elif style == 2:
        mix = (np.sin(x * np.float32(rng.uniform(2, 9)) + y * np.float32(rng.uniform(-9, 9))) > 0).astype(np.float32)
        mix = mix * np.float32(0.5)
    else:
        mix = np.float32(0.6) * np.abs(x - y)
    image = colours[0] + (colours[1] - colours[0]) * (mix * np.float32(rng.uniform(0.2, 1.0)))[..., None]
    if rng.uniform() < 0.7:
        tile = atlas(int(rng.integers(6)))[int(rng.integers(16))]
        zoom = rng.uniform(0.4, 1.5)
        rows = (np.arange(height) * zoom).astype(np.int64) % TILE
        columns = (np.arange(width) * zoom).astype(np.int64) % TILE
        weave = tile[rows[:, None], columns[None, :]].astype(np.float32) - np.float32(128)
        image = image + weave[..., None] * np.float32(rng.uniform(0.05, 0.4))
    result: Floats = image.astype(np.float32)
    return result


def _swooshes(draw: ImageDraw.ImageDraw, rng: Generator, inks: list[Colour], width: int, height: int) -> None:
    for _ in range(int(rng.integers(1, 5))):
        ink = inks[int(rng.integers(len(inks)))]
        kind = rng.integers(4)
        y = rng.uniform(0, height)
        if kind == 0:
            glyphs.block(draw, (0, y, width, y + rng.uniform(0.02, 0.3) * height), fill=ink)
        elif kind == 1:
            t = np.linspace(0, 1, 24)
            wave = y + height * rng.uniform(0.03, 0.15) * np.sin(t * rng.uniform(2, 8) + rng.uniform(0, 6))
            thick = height * rng.uniform(0.03, 0.3)
            points = np.concatenate(
                [np.stack([t * width, wave], 1), np.stack([t[::-1] * width, wave[::-1] + thick], 1)]
            )
            draw.polygon(points.ravel().tolist(), fill=ink)
        elif kind == 2:
            r = rng.uniform(0.2, 0.7) * width
            cx = rng.uniform(0, width)
            draw.ellipse((cx - r, y - r, cx + r, y + r), fill=ink)
        else:
            x = rng.uniform(0, width)
            slope = rng.normal(0, 0.4) * width
            thick = rng.uniform(0.05, 0.4) * width
            draw.polygon((x, 0, x + thick, 0, x + thick + slope, height, x + slope, height), fill=ink)


def _picture(canvas: Image.Image, rng: Generator, colours: Floats, at: tuple[int, int]) -> None:
    """Paste a bowl-like picture of round or leafy things."""
    width = int(canvas.width * rng.uniform(0.45, 0.85))
    height = int(min(canvas.height - at[1], canvas.height * rng.uniform(0.3, 0.5)))
    if width < 24 or height < 24:
        return
    kinds = (("disc",), ("stone",), ("leaf",), ("disc", "leaf"), ("shard", "card"))[int(rng.integers(5))]
    regions = scatter(
        rng,
        height,
        width,
        kinds,
        count=int(rng.integers(25, 90)),
        smallest=5,
        largest=0.3 * width,
        power=2.2,
        aspect=float(rng.uniform(0.6, 1.0)),
    )
    base = np.concatenate([colours[1:], colours[1:2]])
    painted = paint(
        rng, regions, varied(rng, base, regions.count), roundness=float(rng.uniform(0.3, 0.9)), texture=0.25
    )
    mask = Image.new("L", (width, height), 0)
    draw = ImageDraw.Draw(mask)
    shape = rng.integers(3)
    if shape == 0:
        draw.ellipse((0, 0, width - 1, height - 1), fill=255)
    elif shape == 1:
        draw.rounded_rectangle((0, 0, width - 1, height - 1), min(width, height) * 0.15, fill=255)
    else:  # the things themselves, without the ground behind them
        mask = Image.fromarray((regions.labels > 0) * np.uint8(255))
    canvas.paste(Image.fromarray(to_pixels(painted)), at, mask)


def _fine_print(canvas: Image.Image, rng: Generator, colours: Floats, width: int, height: int) -> None:
    inks = [as_colour(c) for c in colours]
    draw = ImageDraw.Draw(canvas)
    foot = int(rng.uniform(0.78, 0.92) * height)
    if rng.uniform() < 0.7:
        glyphs.block(draw, (0, foot, width, height), fill=inks[int(rng.integers(len(inks)))])
    under = np.asarray(canvas.getpixel((width // 2, min(height - 1, foot + 2))))
    size = max(7, int(height * rng.uniform(0.02, 0.035)))
    right = int(width * rng.uniform(0.45, 0.95))
    box = (int(0.05 * width), foot + 3, right, height - 2)
    glyphs.print_text(canvas, box, rng, size=size, fill=contrasting(rng, colours, under))
    if rng.uniform() < 0.4:
        left = int(rng.uniform(0.5, 0.68) * width)
        glyphs.barcode(canvas, (left, int(0.82 * height), min(width - 4, left + width // 3), int(0.97 * height)), rng)
    for _ in range(int(rng.integers(1, 4))):
        r = int(width * rng.uniform(0.06, 0.14))
        cx, cy = int(rng.uniform(0.12, 0.88) * width), int(rng.uniform(0.1, 0.8) * height)
        glyphs.logo(canvas, (cx - r, cy - r, cx + r, cy + r), rng, inks)
    if rng.uniform() < 0.35:
        r = int(width * rng.uniform(0.1, 0.16))
        cx, cy = int(rng.choice([0.15, 0.85]) * width), int(rng.uniform(0.15, 0.7) * height)
        ink = inks[int(rng.integers(len(inks)))]
        draw.polygon(glyphs.star(cx, cy, r, int(rng.integers(9, 20)), 0.82), fill=ink)
        text = str(rng.choice(["NEW", "-20%", "2 for 1", "1 kg", "BIO", "500 g", "PLUS"]))
        box = (cx - int(0.7 * r), cy - int(0.4 * r), cx + int(0.7 * r), cy + int(0.4 * r))
        glyphs.headline(canvas, box, rng, text, contrasting(rng, colours, np.asarray(ink)))


def package(rng: Generator, colours: Floats, width: int, height: int) -> Image.Image:
    """Draw a box: its printed front, and often a side in shade; RGBA."""
    depth = int(width * rng.uniform(0.12, 0.3)) if rng.uniform() < 0.65 else 0
    face = front(rng, colours, width - depth, height)
    canvas = Image.new("RGBA", (width, height), (0, 0, 0, 0))
    canvas.paste(face, (0, 0))
    if depth:
        side = Image.fromarray(to_pixels(_ground(rng, colours, depth, height)))
        size = max(7, height // 40)
        box = (3, int(height * 0.3), depth - 2, int(height * 0.85))
        glyphs.print_text(side, box, rng, size=size, fill=contrasting(rng, colours, colours[0]))
        turned = glyphs.text_mask(glyphs.title(rng), max(8, depth // 2), turn=90)
        side.paste(contrasting(rng, colours, colours[0]), (depth // 4, height // 12), turned)
        shade = np.asarray(side, dtype=np.float32) * np.linspace(0.72, 0.5, depth, dtype=np.float32)[None, :, None]
        side = Image.fromarray(to_pixels(shade)).convert("RGBA")
        # The far edge is shorter: columns shrink towards the right.
        fall = rng.uniform(0.03, 0.09)
        pixels = np.asarray(side)
        rows = np.arange(height, dtype=np.float32)[:, None]
        inset = (np.arange(depth, dtype=np.float32) / depth * fall * height)[None, :]
        source = (rows - inset) * (height / (height - 2 * inset))
        inside = (source >= 0) & (source <= height - 1)
        index = np.clip(source, 0, height - 1).astype(np.int64)
        warped = pixels[index, np.arange(depth)[None, :]].copy()
        warped[..., 3] = np.where(inside, 255, 0)
        canvas.paste(Image.fromarray(warped), (width - depth, 0))
    return canvas


def bottle(rng: Generator, colours: Floats, width: int, height: int) -> Image.Image:
    """Draw a bottle, jar or can with a wrapped label, lit as a cylinder; RGBA."""
    t = np.linspace(0, 1, height, dtype=np.float32)
    shape = rng.integers(3)
    if shape == 0:  # bottle
        neck, shoulder = rng.uniform(0.2, 0.4), rng.uniform(0.2, 0.4)
        half = neck + (1 - neck) / (1 + np.exp(-(t - shoulder) * rng.uniform(18, 40)))
    elif shape == 1:  # jar with a lid
        half = np.where(t < 0.14, 0.86, 1 - 0.12 * np.exp(-((t - 0.14) * 14)))
    else:  # can
        half = 1 - 0.1 * np.exp(-t * 30) - 0.1 * np.exp(-(1 - t) * 30)
    half = np.clip(half, 0.1, 1) * (width / 2 - 1)
    across = (np.arange(width, dtype=np.float32) - (width - 1) / 2)[None, :] / half[:, None]
    inside = np.abs(across) <= 1
    around = np.arcsin(np.clip(across, -1, 1))  # -pi/2 to pi/2 over the visible half
    sag = (np.cos(around) * np.float32(height * rng.uniform(0.0, 0.04))).astype(np.float32)

    body = ramp(fractal(rng, height, width, slope=1.5), np.stack([colours[2] * 0.7, colours[2], colours[3]]))
    label_top = rng.uniform(0.4, 0.5) if shape == 0 else rng.uniform(0.02, 0.22)
    label_end = rng.uniform(0.85, 0.99)
    label = front(rng, colours, int(width * 1.3), max(32, int((label_end - label_top) * height)))
    wrapped = np.asarray(label)
    rows = (np.arange(height, dtype=np.float32)[:, None] - np.float32(label_top * height) - sag).astype(np.int64)
    columns = ((around / np.pi + 0.5) * (label.width - 1)).astype(np.int64)
    on_label = (rows >= 0) & (rows < label.height)
    image = np.where(on_label[..., None], wrapped[np.clip(rows, 0, label.height - 1), columns].astype(np.float32), body)
    if shape != 2:
        cap = t[:, None] < (0.1 if shape == 0 else 0.14)
        ribs = np.float32(0.8) + np.float32(0.25) * np.sin(around * rng.uniform(40, 90))
        image = np.where(cap[..., None], colours[4] * ribs[..., None], image)
    lamp = rng.uniform(-0.8, 0.8)
    gain = np.float32(0.25) + np.float32(0.9) * np.clip(np.cos(around - lamp), 0, 1)
    image = image * gain[..., None]
    for at, wide in ((lamp * 0.6, rng.uniform(0.03, 0.12)), (-lamp, 0.04)):
        image = image + (np.exp(-np.square((around - at) / wide)) * rng.uniform(20, 110))[..., None]
    alpha = soft_mask(Image.fromarray(inside.astype(np.uint8) * np.uint8(255)), 0.6) * 255
    return Image.fromarray(np.dstack([to_pixels(image), alpha.astype(np.uint8)]))


def poster(rng: Generator, colours: Floats, width: int, height: int) -> Image.Image:
    """Draw a sheet of type: a poster, a street sign, a page or a board of invented characters; RGBA."""
    canvas = Image.fromarray(to_pixels(_ground(rng, colours, width, height)))
    draw = ImageDraw.Draw(canvas)
    inks = [as_colour(c) for c in colours]
    style = rng.integers(3)
    if style == 0:  # page: headline, columns of print and a picture
        glyphs.block(draw, (0, 0, width, height), fill=as_colour(np.array([236, 230, 214]) * rng.uniform(0.85, 1.05)))
        glyphs.headline(canvas, (10, 8, width - 10, height // 6), rng, glyphs.title(rng), (24, 22, 26))
        columns = int(rng.integers(1, 4))
        for c in range(columns):
            left = 10 + c * (width - 20) // columns
            right = left + (width - 20) // columns - 8
            size = int(rng.integers(8, 14))
            glyphs.print_text(canvas, (left, height // 5, right, height - 8), rng, size=size, fill=(40, 38, 42))
        _picture(canvas, rng, colours, (int(rng.uniform(0, 0.4) * width), int(rng.uniform(0.3, 0.5) * height)))
    elif style == 1:  # invented characters
        count = int(rng.integers(2, 6))
        side = width // count
        for row in range(height // side):
            for column in range(count):
                inset = int(side * rng.uniform(0.08, 0.2))
                x, y = column * side, row * side
                ground = colours[int(rng.integers(2))]
                if rng.uniform() < 0.3:
                    glyphs.block(draw, (x, y, x + side, y + side), fill=as_colour(ground))
                box = (x + inset, y + inset, x + side - inset, y + side - inset)
                stroke = max(2, int(side * rng.uniform(0.04, 0.12)))
                glyphs.sign(draw, box, rng, contrasting(rng, colours, colours[0]), stroke)
    else:  # big type over shapes
        _swooshes(draw, rng, inks, width, height)
        _picture(canvas, rng, colours, (int(rng.uniform(0, 0.4) * width), int(rng.uniform(0.1, 0.5) * height)))
        y = 0
        while y < height - 16:
            tall = int(height * rng.uniform(0.05, 0.24))
            fill = contrasting(rng, colours, colours[0])
            edge = as_colour(colours[0]) if rng.uniform() < 0.5 else None
            glyphs.headline(canvas, (8, y + 3, width - 8, y + tall), rng, glyphs.title(rng), fill, outline=edge)
            y += tall + int(rng.uniform(0, 0.12) * height)
    border = int(rng.integers(0, 8))
    if border:
        glyphs.block(draw, (0, 0, width - 1, height - 1), outline=inks[-1], width=border)
    return canvas.convert("RGBA")
