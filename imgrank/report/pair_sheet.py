"""Two photos side by side, with what was compared of each and which parts of them match.

Knows pixels, boxes and captions; not what the numbers mean or how they came about.
"""

from __future__ import annotations

import colorsys
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw, ImageFont

from imgrank.arrays import Floats, Pixels
from imgrank.images.resize import fitted_size

WIDTH = 1300  # pixels of the picture
_MARGIN, _GAP = 20, 8
_PANEL = (WIDTH - 3 * _MARGIN) // 2
_TALLEST = 760
_INSET = 210  # longer side of the copy for tokens that see the whole photo
_FINE = 2  # lines are drawn that much larger and reduced, so that they are smooth
_PAPER, _INK, _FAINT, _GONE = (250, 250, 248), (30, 30, 30), (110, 110, 110), (200, 200, 198)
_DIM, _DIM_SHARE = (244, 244, 242), 0.72
_MATCHED = (60, 220, 90, 255)
_HEAT = ((255, 236, 60), (235, 30, 20))  # of the least and of the most attention
Ints = npt.NDArray[np.int64]


@dataclass(frozen=True, eq=False)
class Side:
    """One photo of a pair.

    Attributes:
        title: stands above it.
        size: (width, height); only the proportions matter.
        pixels: (h, w, 3) uint8; None draws a grey canvas.
        boxes: (n, 4) left, top, width, height of what was compared, as shares of the photo's width and height; None
            where the places are not known.
        left_out: (k, 4) boxes of what was not kept.
        cells: boxes are cells of a grid: left-out ones are dimmed. Else they are keypoints, drawn as dots.
        inset: (n,) bool, boxes that belong into a smaller copy of the photo, for tiles that show the whole of it.
        left_out_inset: (k,) bool likewise.
        means: boxes stand for groups; each is marked with a diamond.
        heat: (n,) from 0; boxes are coloured by it, relative to the largest.
        matched: (n,) bool; such dots are green.
    """

    title: str
    size: tuple[int, int]
    pixels: Pixels | None = None
    boxes: Floats | None = None
    left_out: Floats = field(default_factory=lambda: np.zeros((0, 4), dtype=np.float32))
    cells: bool = True
    inset: npt.NDArray[np.bool_] | None = None
    left_out_inset: npt.NDArray[np.bool_] | None = None
    means: bool = False
    heat: Floats | None = None
    matched: npt.NDArray[np.bool_] | None = None


@dataclass(frozen=True)
class Area:
    """Where a photo lies in the picture, pixels."""

    left: int
    top: int
    width: int
    height: int

    def rectangle(self, box: npt.ArrayLike) -> tuple[int, int, int, int]:
        """Return the left, top, right and bottom edge of a box, right and bottom not included; neighbours touch."""
        left, top, width, height = np.asarray(box, dtype=np.float64)
        edges = np.clip([left, top, left + width, top + height], 0, 1)
        x, y = np.rint(edges[[0, 2]] * self.width), np.rint(edges[[1, 3]] * self.height)
        return self.left + int(x[0]), self.top + int(y[0]), self.left + int(x[1]), self.top + int(y[1])

    def centre(self, box: npt.ArrayLike) -> tuple[float, float]:
        """Return the middle of what a box has inside the photo."""
        left, top, width, height = np.asarray(box, dtype=np.float64)
        x, y = np.clip([left, left + width], 0, 1).mean(), np.clip([top, top + height], 0, 1).mean()
        return self.left + float(x) * self.width, self.top + float(y) * self.height


@dataclass(frozen=True, eq=False)
class PairSheet:
    """The picture, and where the photos are in it: each whole, and its smaller copy where there is one."""

    image: Image.Image
    query: tuple[Area, Area | None]
    candidate: tuple[Area, Area | None]


def pair_sheet(
    query: Side,
    candidate: Side,
    lines: Sequence[tuple[int, int]],
    *,
    heading: str,
    method: str,
    numbers: Sequence[tuple[str, str]],
    notes: Sequence[str] = (),
) -> PairSheet:
    """Draw a pair.

    Args:
        query: on the left.
        candidate: on the right.
        lines: boxes of the query and of the candidate that match, the strongest first; those without a place are left
            out.
        heading: stands above all.
        method: how the matches were found; stands below the photos.
        numbers: names and values.
        notes: what else is to be known.
    """
    body, small, large = (ImageFont.load_default(size=size) for size in (16, 15, 22))
    top = _MARGIN + _lines(heading, large, WIDTH - 2 * _MARGIN)[1] + _GAP
    title_height = _height(body)
    areas = [
        _areas(side, _MARGIN + place * (_PANEL + _MARGIN), top + title_height)
        for place, side in enumerate((query, candidate))
    ]
    below = max(area.top + area.height for pair in areas for area in pair if area is not None) + _MARGIN
    text = [(line, body, _INK) for line in _lines(method, body, WIDTH - 2 * _MARGIN)[0]]
    text += [(line, small, _FAINT) for note in notes for line in _lines(note, small, WIDTH - 2 * _MARGIN)[0]]
    rows = -(-len(numbers) // 2)
    height = below + sum(_height(font) for _, font, _ in text) + _MARGIN + rows * _height(body) + _MARGIN
    sheet = Image.new("RGB", (WIDTH, height), _PAPER)
    draw = ImageDraw.Draw(sheet)
    y = _MARGIN
    for line in _lines(heading, large, WIDTH - 2 * _MARGIN)[0]:
        draw.text((_MARGIN, y), line, fill=_INK, font=large)
        y += _height(large)
    for side, (whole, inset) in zip((query, candidate), areas, strict=True):
        left = _MARGIN + (side is candidate) * (_PANEL + _MARGIN)
        draw.text((left, top), shortened(side.title, body, _PANEL), fill=_INK, font=body)
        _photo(sheet, side, whole, False)
        if inset is not None:
            _photo(sheet, side, inset, True)
            beside = inset.left + inset.width + _GAP
            draw.text((beside, inset.top), "the tile that shows\nthe whole photo", fill=_FAINT, font=small)
    _over(sheet, (query, candidate), areas, lines)
    y = below
    for line, font, colour in text:
        draw.text((_MARGIN, y), line, fill=colour, font=font)
        y += _height(font)
    y += _MARGIN
    label_width = max((font_width(body, name) for name, _ in numbers), default=0) + 2 * _GAP
    for place, (name, value) in enumerate(numbers):
        column, row = divmod(place, rows)
        x, level = _MARGIN + column * (_PANEL + _MARGIN), y + row * _height(body)
        draw.text((x, level), name, fill=_FAINT, font=body)
        draw.text((x + label_width, level), shortened(value, body, _PANEL - label_width), fill=_INK, font=body)
    return PairSheet(sheet, areas[0], areas[1])


# Text

Font = ImageFont.FreeTypeFont | ImageFont.ImageFont


def font_width(font: Font, text: str) -> int:
    """Return how wide a line of text is, pixels."""
    return int(font.getlength(text) + 0.999)


def shortened(text: str, font: Font, width: int) -> str:
    """Return a line that is no wider than `width` pixels, its middle replaced by three dots where it was longer."""
    if font_width(font, text) <= width:
        return text
    low, high = 0, min(len(text), 4 * width)  # characters that stay
    while low < high:
        middle = (low + high + 1) // 2
        if font_width(font, _without_middle(text, middle)) <= width:
            low = middle
        else:
            high = middle - 1
    return _without_middle(text, low)


def _without_middle(text: str, kept: int) -> str:
    head = kept // 2
    return text[:head] + "..." + text[len(text) - (kept - head) :]


def _lines(text: str, font: Font, width: int) -> tuple[list[str], int]:
    """Return a text in lines that fit, and how high they are together."""
    lines: list[str] = []
    for word in text.split():
        longer = f"{lines[-1]} {word}" if lines else word
        if lines and font_width(font, longer) <= width:
            lines[-1] = longer
        else:
            lines.append(shortened(word, font, width))
    return lines, len(lines) * _height(font)


def _height(font: Font) -> int:
    return int(font.size * 1.45) if isinstance(font, ImageFont.FreeTypeFont) else 16


# Photos


def _areas(side: Side, left: int, top: int) -> tuple[Area, Area | None]:
    """Return where a photo goes, and where its copy goes."""
    width, height = side.size
    scale = min(_PANEL / width, _TALLEST / height)
    whole = Area(left, top, max(1, round(width * scale)), max(1, round(height * scale)))
    marked = [mask for mask in (side.inset, side.left_out_inset) if mask is not None]
    if not any(mask.any() for mask in marked):
        return whole, None
    small = fitted_size(whole.width, whole.height, _INSET)
    return whole, Area(left, whole.top + whole.height + _GAP, *small)


def _photo(sheet: Image.Image, side: Side, area: Area, inset: bool) -> None:
    """Draw a photo with what was kept of it."""
    size = (area.width, area.height)
    if side.pixels is None:
        photo = Image.new("RGB", size, _GONE)
    else:
        photo = Image.fromarray(side.pixels).resize(size, Image.Resampling.LANCZOS)
    left_out = side.left_out[_of(side.left_out_inset, len(side.left_out), inset)]
    here = Area(0, 0, area.width, area.height)
    if side.cells and len(left_out):
        dim = Image.blend(photo, Image.new("RGB", size, _DIM), _DIM_SHARE)
        for box in left_out:
            rectangle = here.rectangle(box)
            photo.paste(dim.crop(rectangle), rectangle)
    sheet.paste(photo, (area.left, area.top))


def _of(mask: npt.NDArray[np.bool_] | None, count: int, inset: bool) -> npt.NDArray[np.bool_]:
    """Return (count,) which boxes belong into the copy, or into the photo."""
    held = np.zeros(count, dtype=bool) if mask is None else mask
    return held if inset else ~held


# What is drawn over them


def _over(
    sheet: Image.Image,
    sides: tuple[Side, Side],
    areas: Sequence[tuple[Area, Area | None]],
    lines: Sequence[tuple[int, int]],
) -> None:
    over = Image.new("RGBA", (sheet.width * _FINE, sheet.height * _FINE), (0, 0, 0, 0))
    draw = ImageDraw.Draw(over)
    for side, pair in zip(sides, areas, strict=True):
        _marks(over, draw, side, pair)
    if all(side.boxes is not None for side in sides):
        ends = [
            [_end(side, pair, line[place]) for place, (side, pair) in enumerate(zip(sides, areas, strict=True))]
            for line in lines
        ]
        # The strongest come last, on top of the others.
        for number in reversed(range(len(lines))):
            _line(draw, sides, ends[number], _colour(number))
    small = over.resize(sheet.size, Image.Resampling.LANCZOS)
    sheet.paste(small, (0, 0), small)


def _end(side: Side, pair: tuple[Area, Area | None], box: int) -> tuple[Area, Floats]:
    assert side.boxes is not None  # asked before
    inset = pair[1] is not None and side.inset is not None and bool(side.inset[box])
    area = pair[1] if inset and pair[1] is not None else pair[0]
    return area, side.boxes[box]


def _marks(over: Image.Image, draw: ImageDraw.ImageDraw, side: Side, pair: tuple[Area, Area | None]) -> None:
    """Draw what was kept: outlines of cells where others were left out, dots of keypoints, colours of attention."""
    if not side.cells:
        for box in side.left_out:
            _dot(draw, pair[0].centre(box), 2.0, (150, 150, 150, 170))
    if side.boxes is None:
        return
    hottest = 0.0 if side.heat is None else float(side.heat.max(initial=0))
    pruned = len(side.left_out) > 0 or side.pixels is None
    for place, box in enumerate(side.boxes):
        area, _ = _end(side, pair, place)
        rectangle = _scaled(area.rectangle(box))
        x, y = area.centre(box)
        if side.heat is not None and hottest > 0:
            share = float(side.heat[place]) / hottest
            colour = (*_mixed(share), round(225 * share))
            if side.cells and rectangle[2] > rectangle[0] and rectangle[3] > rectangle[1]:
                over.paste(colour, rectangle)
            elif not side.cells:
                _dot(draw, (x, y), 3 + 6 * share, colour)
        elif not side.cells:
            _dot(draw, (x, y), 3.2, (20, 20, 20, 200))
            matched = side.matched is not None and bool(side.matched[place])
            _dot(draw, (x, y), 2.2, _MATCHED if matched else (255, 255, 255, 235))
        if side.cells and pruned:
            _outline(draw, rectangle, (40, 40, 40, 130), 1)
        if side.means:
            _diamond(draw, (x, y), 5)


def _line(
    draw: ImageDraw.ImageDraw, sides: tuple[Side, Side], ends: Sequence[tuple[Area, Floats]], colour: tuple[int, ...]
) -> None:
    for side, (area, box) in zip(sides, ends, strict=True):
        if side.cells:
            _outline(draw, _scaled(area.rectangle(box)), (*colour, 255), 3 * _FINE)
    middles = [area.centre(box) for area, box in ends]
    course = [tuple(_FINE * value for value in middle) for middle in middles]
    draw.line(course, fill=(255, 255, 255, 150), width=4 * _FINE)
    draw.line(course, fill=(*colour, 235), width=2 * _FINE)
    for middle in middles:
        _dot(draw, middle, 5, (255, 255, 255, 220))
        _dot(draw, middle, 4, (*colour, 255))


def _colour(number: int) -> tuple[int, ...]:
    """Return a colour that is told apart from those before it: hues a golden angle from each other."""
    red, green, blue = colorsys.hsv_to_rgb(number * 0.618034 % 1, 0.85, 0.88)
    return round(red * 255), round(green * 255), round(blue * 255)


def _mixed(share: float) -> tuple[int, ...]:
    return tuple(round(low + (high - low) * share) for low, high in zip(*_HEAT, strict=True))


def _scaled(rectangle: tuple[int, int, int, int]) -> tuple[int, int, int, int]:
    left, top, right, bottom = rectangle
    return left * _FINE, top * _FINE, right * _FINE, bottom * _FINE


def _outline(
    draw: ImageDraw.ImageDraw, rectangle: tuple[int, int, int, int], colour: tuple[int, ...], width: int
) -> None:
    left, top, right, bottom = rectangle
    if right > left and bottom > top:  # a cell in a margin beside the photo has no area
        draw.rectangle((left, top, right - 1, bottom - 1), outline=colour, width=width)


def _dot(draw: ImageDraw.ImageDraw, middle: tuple[float, float], radius: float, colour: tuple[int, ...]) -> None:
    x, y = middle[0] * _FINE, middle[1] * _FINE
    reach = radius * _FINE
    draw.ellipse((x - reach, y - reach, x + reach, y + reach), fill=colour)


def _diamond(draw: ImageDraw.ImageDraw, middle: tuple[float, float], radius: float) -> None:
    x, y, reach = middle[0] * _FINE, middle[1] * _FINE, radius * _FINE
    corners = [(x, y - reach), (x + reach, y), (x, y + reach), (x - reach, y)]
    draw.polygon(corners, fill=(255, 255, 255, 200), outline=(40, 40, 40, 220))
