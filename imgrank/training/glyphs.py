"""Printed things: words, paragraphs, barcodes, badges and invented logos, in Pillow's bundled font.

One font is all there is; boldness (strokes), slant, width and outline stand in for typefaces, and `sign` draws
invented characters for scripts that the font lacks. The words are made of random syllables and mean nothing.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from PIL import Image, ImageDraw, ImageFont

from imgrank.training.noise import Colour, Generator

Box = tuple[int, int, int, int]  # left, top, right, bottom
Fill = int | Colour

# Short of some sounds on purpose, so that chance spells few rude words.
_ONSETS = "b c d f g h j k l m n p r s t v w z br ch cl cr dr fl gr pl pr sl st th tr qu".split()
_NUCLEI = "a e i o a e i o ai ea ee ie oa oo ou y".split()
_CODAS = ["", "", "", "n", "r", "l", "s", "m", "x", "nd", "rt", "st", "lm"]


def block(
    draw: ImageDraw.ImageDraw,
    box: Sequence[float],
    fill: Fill | None = None,
    outline: Fill | None = None,
    width: int = 1,
) -> None:
    """Fill a rectangle; one that is turned inside out by rounding or by a small size is left out."""
    if box[2] >= box[0] and box[3] >= box[1]:
        draw.rectangle((box[0], box[1], box[2], box[3]), fill, outline, width)


@lru_cache(maxsize=64)
def font(size: int) -> ImageFont.FreeTypeFont | ImageFont.ImageFont:
    """Return Pillow's own font at `size` pixels."""
    return ImageFont.load_default(size=max(5, size))


def word(rng: Generator, syllables: int | None = None) -> str:
    """Make up a word."""
    count = int(rng.integers(1, 4)) if syllables is None else syllables
    picks = rng.integers(0, 1000, (count, 3))
    parts = (_ONSETS[a % len(_ONSETS)] + _NUCLEI[b % len(_NUCLEI)] + _CODAS[c % len(_CODAS)] for a, b, c in picks)
    return "".join(parts)


def title(rng: Generator) -> str:
    """Make up a name of a thing: one or two words, in some mixture of cases, at times with a number."""
    text = word(rng, int(rng.integers(1, 4)))
    style = rng.integers(4)
    text = (text.upper(), text.capitalize(), text, text.title())[style]
    return text + str(rng.integers(1, 999)) if rng.uniform() < 0.12 else text


def text_mask(
    text: str, size: int, *, stroke: int = 0, stretch: float = 1.0, slant: float = 0.0, turn: float = 0.0
) -> Image.Image:
    """Render one line as an L mask cropped to its ink.

    Args:
        text: the line.
        size: font size in pixels.
        stroke: extra thickness in pixels.
        stretch: horizontal scale.
        slant: shear, positive leans right.
        turn: rotation in degrees.
    """
    face = font(size)
    left, top, right, bottom = (int(v) for v in face.getbbox(text, stroke_width=stroke))
    width, height = max(1, right - left), max(1, bottom - top)
    lean = int(abs(slant) * height)
    mask = Image.new("L", (width + lean, height), 0)
    ImageDraw.Draw(mask).text((-left + (lean if slant < 0 else 0), -top), text, 255, face, stroke_width=stroke)
    if slant:
        shift = -slant * height if slant > 0 else 0.0
        mask = mask.transform(mask.size, Image.Transform.AFFINE, (1, slant, shift, 0, 1, 0), Image.Resampling.BILINEAR)
    if stretch != 1.0:
        mask = mask.resize((max(1, round(mask.width * stretch)), mask.height), Image.Resampling.BILINEAR)
    if turn:
        mask = mask.rotate(turn, Image.Resampling.BILINEAR, expand=True)
    return mask


def headline(
    canvas: Image.Image,
    box: Box,
    rng: Generator,
    text: str,
    fill: Colour,
    *,
    outline: Colour | None = None,
    turn: float = 0.0,
) -> None:
    """Write `text` as large as the box allows, in a made-up typeface, in place."""
    width, height = box[2] - box[0], box[3] - box[1]
    if width < 8 or height < 6:
        return
    size = max(7, int(height * rng.uniform(0.7, 1.0)))
    stroke = int(rng.integers(0, 1 + max(1, size // 12)))
    slant = float(rng.choice([0.0, 0.0, 0.25, rng.uniform(-0.2, 0.35)]))
    mask = text_mask(text, size, stroke=stroke, slant=slant, turn=turn)
    scale = min(width / mask.width, height / mask.height)
    stretch = min(1.0, rng.uniform(0.8, 1.3) * scale) if scale > 1 else scale
    fit = (max(1, min(width, round(mask.width * stretch))), max(1, min(height, round(mask.height * min(1, scale)))))
    mask = mask.resize(fit, Image.Resampling.BILINEAR)
    at = (box[0] + (width - fit[0]) // 2, box[1] + (height - fit[1]) // 2)
    if outline is not None:
        grown = text_mask(text, size, stroke=stroke + max(1, size // 9), slant=slant, turn=turn)
        big = (fit[0] + max(2, size // 5), fit[1] + max(2, size // 5))
        grown = grown.resize(big, Image.Resampling.BILINEAR)
        canvas.paste(outline, (at[0] - (big[0] - fit[0]) // 2, at[1] - (big[1] - fit[1]) // 2), grown)
    canvas.paste(fill, at, mask)


def print_text(canvas: Image.Image, box: Box, rng: Generator, *, size: int, fill: Fill) -> None:
    """Fill the box with lines of small print, ragged at the right, in place."""
    draw = ImageDraw.Draw(canvas)
    face = font(size)
    y = box[1]
    per_line = max(4, int((box[2] - box[0]) / (0.52 * size)))
    while y + size <= box[3]:
        line = ""
        length = per_line * rng.uniform(0.55, 1.0)
        while len(line) < length:
            line += (word(rng) if rng.uniform() < 0.9 else f"{rng.integers(1, 999)}%") + " "
        draw.text((box[0], y), line[: int(length)].capitalize(), fill, face)
        y += max(4, int(size * 1.25))


def barcode(canvas: Image.Image, box: Box, rng: Generator) -> None:
    """Draw black bars of random widths on white with digits below, in place."""
    draw = ImageDraw.Draw(canvas)
    draw.rectangle(box, fill=(246, 246, 242))
    x, floor = box[0] + 3, box[3] - max(3, (box[3] - box[1]) // 5)
    while x < box[2] - 3:
        bar = int(rng.integers(1, 4))
        draw.rectangle((x, box[1] + 2, min(x + bar - 1, box[2] - 3), floor), fill=(18, 18, 20))
        x += bar + int(rng.integers(1, 4))
    digits = "".join(str(d) for d in rng.integers(0, 10, 12))
    draw.text((box[0] + 4, floor), digits, (18, 18, 20), font(max(6, box[3] - floor)))


def star(cx: float, cy: float, radius: float, points: int, inner: float, turn: float = 0.0) -> list[float]:
    """Return the outline of a star, as x, y, x, y, ... for Pillow's polygon."""
    angles = np.arange(2 * points) * np.pi / points + turn
    radii = np.where(np.arange(2 * points) % 2 == 0, radius, radius * inner)
    outline: list[float] = np.stack([cx + radii * np.cos(angles), cy + radii * np.sin(angles)], 1).ravel().tolist()
    return outline


def logo(canvas: Image.Image, box: Box, rng: Generator, colours: list[Colour]) -> None:
    """Draw an invented emblem: stacked discs, rings, stars, stripes and an initial, in place."""
    draw = ImageDraw.Draw(canvas)
    cx, cy = (box[0] + box[2]) / 2, (box[1] + box[3]) / 2
    radius = min(box[2] - box[0], box[3] - box[1]) / 2
    for step in range(int(rng.integers(2, 5))):
        colour = colours[int(rng.integers(len(colours)))]
        r = radius * (1 - 0.25 * step) * rng.uniform(0.85, 1.0)
        if r < 2:
            break
        shape = int(rng.integers(5))
        if shape == 0:
            draw.ellipse((cx - r, cy - r, cx + r, cy + r), fill=colour)
        elif shape == 1:
            spikes = int(rng.integers(4, 18))
            draw.polygon(star(cx, cy, r, spikes, rng.uniform(0.45, 0.9), rng.uniform(0, 3)), fill=colour)
        elif shape == 2:
            draw.polygon(star(cx, cy, r, int(rng.integers(2, 5)), 0.75, rng.uniform(0, 3)), fill=colour)
        elif shape == 3:
            start = rng.uniform(0, 360)
            draw.pieslice((cx - r, cy - r, cx + r, cy + r), start, start + rng.uniform(90, 300), fill=colour)
        else:
            draw.rounded_rectangle((cx - r, cy - r * 0.5, cx + r, cy + r * 0.5), r * 0.3, fill=colour)
    if rng.uniform() < 0.6:
        letters = word(rng, 1).upper()[: int(rng.integers(1, 4))]
        r = radius * 0.5
        inner = (int(cx - r), int(cy - r * 0.8), int(cx + r), int(cy + r * 0.8))
        headline(canvas, inner, rng, letters, colours[int(rng.integers(len(colours)))])


def sign(draw: ImageDraw.ImageDraw, box: Box, rng: Generator, fill: Colour, width: int) -> None:
    """Draw one invented character: strokes between the points of a 4 x 4 grid, in place."""
    xs, ys = np.linspace(box[0], box[2], 4), np.linspace(box[1], box[3], 4)
    for _ in range(int(rng.integers(3, 8))):
        i, j, k, m = rng.integers(0, 4, 4)
        if rng.uniform() < 0.7:  # most strokes of real scripts are level or upright
            k, m = (k, j) if rng.uniform() < 0.5 else (i, m)
        draw.line((xs[i], ys[j], xs[k], ys[m]), fill=fill, width=width)
    if rng.uniform() < 0.3:
        draw.arc(box, rng.uniform(0, 360), rng.uniform(0, 360) + 200, fill=fill, width=width)
