"""Pages and montages of rankings, as files that appear whole or not at all."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from imgrank.arrays import Pixels
from imgrank.images.resize import fit_longer_side
from imgrank.images.scan import printable
from imgrank.report.contact_sheet import Cell, contact_sheet
from imgrank.report.html import Page
from imgrank.report.shown import Picture, Shown
from imgrank.steps.outputs import check_output, replacing
from imgrank.steps.pictures import pixels_of

MONTAGE_QUERIES, MONTAGE_HITS = 50, 12  # pictures that one montage holds, so that its memory stays below 300 MB
_SIDE = 160  # pixels of a picture in a montage
_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WebP"}


def check_page(path: Path) -> None:
    """Find out whether a page can be written; one that is there is replaced.

    Raises:
        SettingsError: the name ends otherwise than .html, there is no such folder, or something else is there.
    """
    check_output(path, ".html", force=True)


@contextlib.contextmanager
def writing_page(path: Path, title: str) -> Iterator[Page]:
    """Give a page to add queries to; it is at its place when the block ends, and not at all when it raises."""
    with replacing(path) as incoming, incoming.open("w", encoding="utf-8") as stream:
        page = Page(stream, printable(title))
        yield page
        page.finish()


class Montage:
    """Queries with their first hits, as one picture.

    Args:
        path: .png, .jpg, .jpeg or .webp; a file that is there is replaced.

    Raises:
        SettingsError: another ending, no such folder, or something else is there.
    """

    def __init__(self, path: Path) -> None:
        check_output(path, *_FORMATS, force=True)
        self._path = path
        self._rows: list[list[Cell]] = []
        self.left_out = 0  # queries beyond MONTAGE_QUERIES
        self.cut = 0  # hits beyond MONTAGE_HITS, of the queries that are there

    def add(self, shown: Shown) -> None:
        """Add a query, or count it where there is no room."""
        if len(self._rows) == MONTAGE_QUERIES:
            self.left_out += 1
            return
        row = [_cell(shown.query[0], "query")]
        for hit, picture in list(zip(shown.ranking.hits, shown.hits, strict=True))[:MONTAGE_HITS]:
            row.append(_cell(picture, f"{hit.rank}: {hit.score:.3f}"))
        self.cut += len(shown.hits) - len(row) + 1
        self._rows.append(row)

    def save(self) -> None:
        """Draw the picture and write it."""
        with replacing(self._path) as incoming:
            contact_sheet(self._rows, side=_SIDE).save(incoming, _FORMATS[self._path.suffix.lower()])


def _cell(picture: Picture, caption: str) -> Cell:
    pixels = pixels_of(picture)
    if pixels is None:
        return Cell(_grey(), f"{caption}, {picture.reason}" if picture.reason else caption)
    return Cell(fit_longer_side(pixels, _SIDE), caption)


def _grey() -> Pixels:
    return np.full((_SIDE, _SIDE, 3), 225, dtype=np.uint8)
