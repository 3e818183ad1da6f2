"""`relocate`: the folder of a bundle's photos has moved."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from imgrank.bundle import file
from imgrank.bundle.images import set_root
from imgrank.errors import InputError
from imgrank.images.scan import display
from imgrank.records import OK
from imgrank.steps.paths import choose_root
from imgrank.steps.photos import open_photos


@dataclass(frozen=True)
class Relocation:
    """Where photos are looked for now.

    Attributes:
        root: as it is stored: relative to the folder of the bundle, or absolute.
        found: photos that are there, with the size they had.
        lacking: photos that are not.
    """

    root: bytes
    found: int
    lacking: int


def relocate(bundle: Path, root: Path, *, force: bool = False) -> Relocation:
    """Say where the photos of a bundle are now; what was computed of them stays.

    Args:
        bundle: the file.
        root: the folder that stored paths are relative to.
        force: also where not one photo is there.

    Raises:
        InputError: not one photo is there.
    """
    with file.Writer(bundle) as writer, open_photos(bundle, root=root.resolve()) as photos:
        rows = np.flatnonzero(photos.statuses == OK)
        sizes = photos.bundle.images.columns["size"].read()
        found = sum(_size(photos.location(row)) == int(sizes[row]) for row in rows.tolist())
        if len(rows) and not found and not force:
            first = display(photos.location(int(rows[0])))
            raise InputError(
                f"not one photo of {bundle} is below {root}, where {first} would be one; give the "
                "folder that stored paths are relative to (`imgrank info` shows it), or --force"
            )
        stored = choose_root(bundle, [], root)
        with writer.transaction() as h5:
            set_root(h5, stored)
    return Relocation(stored, found, len(rows) - found)


def _size(path: bytes) -> int | None:
    try:
        return os.stat(path).st_size  # noqa: PTH116  # bytes
    except OSError:
        return None
