"""A contact sheet: each query with its best hits beside it, as one picture.

Knows paths and captions; not how the hits were found.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from PIL import Image, ImageDraw, ImageFont

from imgrank.arrays import Pixels
from imgrank.images.resize import fit_longer_side

_MARGIN = 10  # pixels
_CAPTION = 22
_PAPER, _INK = (250, 250, 248), (30, 30, 30)
_FRAMES = {None: (205, 205, 205), True: (46, 140, 70), False: (190, 60, 50)}


@dataclass(frozen=True, eq=False)
class Cell:
    """One photo of a sheet."""

    pixels: Pixels
    caption: str
    right: bool | None = None  # frame: green for a right hit, red for a wrong one, grey where it is not known


def contact_sheet(rows: Sequence[Sequence[Cell]], *, side: int = 160) -> Image.Image:
    """Draw rows of photos; the first of each row, the query, stands a little apart.

    Args:
        rows: cells of each row.
        side: pixels of a photo's longer side.
    """
    columns = max((len(row) for row in rows), default=1)
    step_x, step_y = side + _MARGIN, side + _CAPTION + _MARGIN
    size = (columns * step_x + 3 * _MARGIN, len(rows) * step_y + _MARGIN)
    sheet = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(sheet)
    font = ImageFont.load_default(size=13)
    for i, row in enumerate(rows):
        for j, cell in enumerate(row):
            left = _MARGIN + j * step_x + (2 * _MARGIN if j else 0)
            top = _MARGIN + i * step_y
            photo = Image.fromarray(fit_longer_side(cell.pixels, side - 6))
            x, y = left + (side - photo.width) // 2, top + (side - photo.height) // 2
            frame = (x - 3, y - 3, x + photo.width + 2, y + photo.height + 2)
            draw.rectangle(frame, fill=_FRAMES[cell.right] if j else _INK)
            sheet.paste(photo, (x, y))
            draw.text((left + side / 2, top + side + 2), cell.caption, fill=_INK, font=font, anchor="ma")
    return sheet
