"""Files in which somebody says where the object of a photo is, or how large or how cluttered it is.

Lines are cut at tabs, or at spaces where there are none, as in judgements (`imgrank.evaluation.qrels`).
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from imgrank.boxes import Box
from imgrank.errors import InputError
from imgrank.images.scan import display

Key = tuple[bytes | None, bytes]  # (query, photo); None: of every query
_MAX_LINE = 2**16
_MAX_SIDE = 2**31
_SLACK = 1  # pixels that a box may reach out of its photo: boxes are often rounded


@dataclass(frozen=True)
class PlacedBox:
    """A box with the line that it was read from, for messages."""

    box: Box
    line: str


def read_boxes(path: Path) -> dict[Key, PlacedBox]:
    """Read lines `photo left top width height`, or with the query before the photo, in pixels of the upright photo.

    Parts of pixels are counted as whole ones.

    Raises:
        InputError: a line has another form, a box is empty, a pair comes twice, or there is no line.
    """
    found: dict[Key, PlacedBox] = {}
    for where, key, numbers in _lines(path, "photo left top width height", 4):
        left, top, width, height = numbers
        if min(left, top) < 0 or min(width, height) <= 0 or max(numbers) > _MAX_SIDE:
            raise InputError(
                f"{where}: the box {_numbers(numbers)} of {display(key[1])} is empty or begins beside the photo; give "
                "left, top, width, height in pixels"
            )
        x0, y0 = math.floor(left), math.floor(top)
        box = Box(x0, y0, math.ceil(left + width) - x0, math.ceil(top + height) - y0)
        found[key] = PlacedBox(box, where)
    return found


def read_values(path: Path) -> dict[Key, float]:
    """Read lines `photo number`, or with the query before the photo.

    Raises:
        InputError: a line has another form, a pair comes twice, or there is no line.
    """
    return {key: numbers[0] for _, key, numbers in _lines(path, "photo number", 1)}


def boxed(placed: PlacedBox, photo: bytes, width: int, height: int) -> Box:
    """Return a box cut to its photo.

    Args:
        placed: the box.
        photo: its name, for the message.
        width: of the upright photo at its full size.
        height: likewise.

    Raises:
        InputError: it reaches out of the photo by more than a pixel.
    """
    box = placed.box
    inside = box.within(width, height)
    if inside is None or box.x + box.width > width + _SLACK or box.y + box.height > height + _SLACK:
        raise InputError(
            f"{placed.line}: the box {box.x},{box.y},{box.width},{box.height} reaches out of {display(photo)}, which "
            f"has {width} x {height} pixels; give boxes in pixels of the upright photo at its full size"
        )
    rows, columns = inside
    return Box(box.x, box.y, columns.stop - columns.start, rows.stop - rows.start)


def _lines(path: Path, form: str, count: int) -> Iterator[tuple[str, Key, list[float]]]:
    """Yield the place of each line, its names, and its last `count` cells as numbers."""
    seen: set[Key] = set()
    with path.open("rb") as file:
        for number, line in enumerate(file, 1):
            text, where = line.rstrip(b"\r\n"), f"{path}, line {number}"
            if not text.strip():
                continue
            cells = text.split(b"\t") if b"\t" in text else text.split()
            if len(cells) not in (count + 1, count + 2) or len(text) > _MAX_LINE:
                raise InputError(f"{where}: expected `{form}`, or `query {form}`, found {len(cells)} columns")
            key = (cells[0] if len(cells) == count + 2 else None, cells[-count - 1])
            if key in seen:
                raise InputError(f"{where}: {display(key[1])} comes twice; leave one of the lines out")
            seen.add(key)
            yield where, key, [_number(cell, where) for cell in cells[-count:]]
    if not seen:
        raise InputError(f"{path} holds no line `{form}`")


def _number(cell: bytes, where: str) -> float:
    try:
        number = float(cell)
    except ValueError:
        number = math.nan
    if not math.isfinite(number):
        raise InputError(f"{where}: {display(cell)} is not a number")
    return number


def _numbers(numbers: list[float]) -> str:
    return ",".join(f"{number:g}" for number in numbers)
