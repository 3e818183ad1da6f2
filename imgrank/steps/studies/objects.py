"""Where the object of a query is in a photo: by a mask, by a box of a file or of the data set, or by assumption."""

from __future__ import annotations

import os
from collections.abc import Collection
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import Literal

import numpy as np

from imgrank.boxes import Box
from imgrank.config import DecodeSettings
from imgrank.errors import InputError
from imgrank.evaluation.datasets.base import Dataset
from imgrank.evaluation.region import Mask, Region
from imgrank.images.decode import decode
from imgrank.images.scan import display
from imgrank.steps.studies.annotations import Key, PlacedBox, boxed, read_boxes

Source = Literal["mask", "box of the file", "box of the data set", "middle half"]
Pair = tuple[bytes, bytes]  # query, photo


@dataclass(frozen=True, eq=False)
class Located:
    """Where an object is in a photo that was reduced.

    Attributes:
        region: a box in pixels, or a (h, w) bool mask.
        source: who says so.
        whole: nothing surrounds it.
    """

    region: Region
    source: Source
    whole: bool


class Objects:
    """What is known of the objects of a data set.

    Args:
        dataset: with boxes, perhaps.
        boxes: a file of boxes, which goes before those of the data set.
        masks: a folder of PNG files, which goes before all boxes; see `mask`.
        limits: for decoding masks.

    Raises:
        InputError: see `read_boxes`; or no line of the file is of a relevant photo.
    """

    def __init__(
        self,
        dataset: Dataset,
        boxes: Path | None = None,
        masks: Path | None = None,
        limits: DecodeSettings | None = None,
    ) -> None:
        self._dataset, self._masks, self._limits = dataset, masks, limits or DecodeSettings()
        self._given = {} if boxes is None else read_boxes(boxes)
        if boxes is not None:
            check_names(boxes, self._given, positives(dataset))

    @property
    def has_boxes(self) -> bool:
        """Return whether any box is known."""
        return bool(self._given or self._dataset.boxes)

    def box(self, query: bytes, photo: bytes, width: int, height: int) -> tuple[Box, Source] | None:
        """Return the box of a query's object in a photo, inside the photo; None where nobody says.

        Args:
            query: its name.
            photo: its name.
            width: of the upright photo at its full size, pixels.
            height: likewise.

        Raises:
            InputError: the box lies beside the photo, or, of a file, reaches out of it.
        """
        placed = self._given.get((query, photo)) or self._given.get((None, photo))
        if placed is not None:
            return boxed(placed, photo, width, height), "box of the file"
        box = self._dataset.boxes.get((query, photo))
        if box is None:
            return None
        inside = box.within(width, height)
        if inside is None:
            return boxed(PlacedBox(box, self._dataset.title), photo, width, height), "box of the data set"  # raises
        rows, columns = inside
        return Box(box.x, box.y, columns.stop - columns.start, rows.stop - rows.start), "box of the data set"

    def mask(self, photo: bytes, width: int, height: int) -> Mask | None:
        """Read the mask of a photo: `FOLDER/photos/a.png` of `photos/a.jpg`, else `FOLDER/a.png`; None without one.

        What is not black is the object.

        Returns:
            (height, width) bool, of the upright photo at its full size.

        Raises:
            InputError: it has other proportions than the photo, is black, or cannot be read.
        """
        if self._masks is None:
            return None
        stem = os.fsdecode(os.path.splitext(photo)[0])  # noqa: PTH122  # bytes
        paths = [self._masks / f"{stem}.png", self._masks / f"{os.path.basename(stem)}.png"]  # noqa: PTH119
        path = next((path for path in paths if path.is_file()), None)
        if path is None:
            return None
        marked = np.asarray(decode(path, self._limits).pixels.any(axis=2))
        rows, columns = marked.shape
        # Proportions that rounding to whole pixels explains.
        if abs(rows * width - columns * height) > max(width, height, rows, columns):
            raise InputError(
                f"mask {path} has {columns} x {rows} pixels, its photo {display(photo)} {width} x {height}; give the "
                "mask of the whole upright photo"
            )
        if not marked.any():
            raise InputError(f"mask {path} is all black; what is not black is the object")
        return _nearest(marked, height, width)

    def located(self, query: bytes, photo: bytes, full: tuple[int, int], seen: tuple[int, int]) -> Located:
        """Return where a query's object is in a photo that was reduced; without any word of it, in the middle half.

        Args:
            query: its name.
            photo: its name.
            full: (width, height) of the upright photo.
            seen: (height, width) of the pixels.

        Raises:
            InputError: as `box` and `mask`.
        """
        height, width = seen
        mask = self.mask(photo, *full)
        if mask is not None:
            small = _nearest(mask, height, width)
            if small.any():  # else the object is smaller than a pixel
                return Located(small, "mask", bool(small.all()))
        known = self.box(query, photo, *full)
        if known is None:
            margins = [round(side * (1 - sqrt(0.5)) / 2) for side in (width, height)]
            corners = (margins[0], margins[1], width - margins[0], height - margins[1])
            return Located(corners, "middle half", whole=False)
        box, source = known
        x0, x1 = _scaled(box.x, box.x + box.width, full[0], width)
        y0, y1 = _scaled(box.y, box.y + box.height, full[1], height)
        return Located((x0, y0, x1, y1), source, (x1 - x0, y1 - y0) == (width, height))


def positives(dataset: Dataset) -> dict[Pair, None]:
    """Return (query, photo) of all relevant photos of all tasks, in the order of the judgements."""
    return {
        (query, photo): None
        for task in dataset.tasks
        for query, judged in task.qrels.items()
        for photo, grade in judged.items()
        if grade > 0
    }


def check_names(path: Path, keys: Collection[Key], known: Collection[Pair]) -> None:
    """Refuse a file of which no line is of a relevant photo.

    Args:
        path: of the file.
        keys: (query, photo) of its lines; query None: of every query.
        known: relevant photos.

    Raises:
        InputError: there is none.
    """
    photos = {photo for _, photo in known}
    if not any((query, photo) in known if query is not None else photo in photos for query, photo in keys):
        some, other = (display(next(iter(names), (b"", b"?"))[1]) for names in (keys, known))
        raise InputError(
            f"{path}: none of its {len(keys)} lines is of a relevant photo; it has {some}, the judgements {other}; "
            "use the names of the judgements"
        )


def _scaled(first: int, last: int, full: int, side: int) -> tuple[int, int]:
    """Return the pixels of a reduced side that a stretch of the full one touches."""
    return first * side // full, -(-last * side // full)


def _nearest(mask: Mask, height: int, width: int) -> Mask:
    rows = (np.arange(height) * 2 + 1) * mask.shape[0] // (2 * height)
    columns = (np.arange(width) * 2 + 1) * mask.shape[1] // (2 * width)
    small: Mask = mask[rows[:, None], columns]
    return small
