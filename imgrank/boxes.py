"""A part of a photo, and the name that a crop has: the photo's path with a media fragment.

`vase.jpg#xywh=10,20,300,400` is the 300 x 400 pixels of vase.jpg whose top left corner is 10 from the left and 20 from
the top (W3C Media Fragments URI 1.0, section 4.2.2). So a crop is named wherever a photo is: among the arguments, in
lists, in JSON lines and in TREC runs.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from typing import Self

from imgrank.arrays import Pixels
from imgrank.errors import SettingsError

_FRAGMENT = re.compile(rb"#xywh=(?:pixel:)?(\d{1,9}),(\d{1,9}),(\d{1,9}),(\d{1,9})\Z")


@dataclass(frozen=True)
class Box:
    """A rectangle of an upright photo at its full size, in pixels."""

    x: int  # of the left edge
    y: int  # of the top edge
    width: int
    height: int

    def __post_init__(self) -> None:
        if min(self.x, self.y) < 0 or min(self.width, self.height) < 1:
            raise SettingsError(
                f"box {self.x},{self.y},{self.width},{self.height}: give left, top, width and height in pixels, with "
                "width and height of at least 1"
            )

    @classmethod
    def parse(cls, text: str) -> Self:
        """Read `x,y,w,h`.

        Raises:
            SettingsError: it is something else.
        """
        parts = text.split(",")
        if len(parts) != 4 or not all(part.strip().isdecimal() for part in parts):
            raise SettingsError(
                f"box {text!r}: give four whole numbers of pixels, left,top,width,height: 10,20,300,400"
            )
        return cls(*map(int, parts))

    def within(self, width: int, height: int) -> tuple[slice, slice] | None:
        """Return the rows and columns of a photo that the box covers; None where it lies beside the photo."""
        if self.x >= width or self.y >= height:
            return None
        return slice(self.y, min(self.y + self.height, height)), slice(self.x, min(self.x + self.width, width))

    def of(self, path: bytes) -> bytes:
        """Return the name of this part of a photo."""
        return path + f"#xywh={self.x},{self.y},{self.width},{self.height}".encode()


def split_name(name: bytes) -> tuple[bytes, Box | None]:
    """Return the file of a photo, and which part of it is meant; None: all of it.

    A file that is called exactly so goes before a part of a photo.
    """
    found = _FRAGMENT.search(name)
    if found is None or os.path.lexists(name):
        return name, None
    try:
        return name[: found.start()], Box(*map(int, found.groups()))
    except SettingsError:  # no width or no height: then it can only be a file's name
        return name, None


def cut(pixels: Pixels, box: Box) -> Pixels | None:
    """Return the (h, w, 3) part of a photo at its full size that a box covers; None where it lies beside it."""
    height, width = pixels.shape[:2]
    inside = box.within(width, height)
    return None if inside is None else pixels[inside].copy()
