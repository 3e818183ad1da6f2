"""Names of photos from text lists, and from folders where a data set is published without a list."""

from __future__ import annotations

import os
from collections.abc import Iterator, Sequence
from pathlib import Path

from imgrank.errors import InputError


def first_file(folder: Path, names: Sequence[str]) -> Path | None:
    """Return the first of some files that a folder has."""
    return next((folder / name for name in names if (folder / name).is_file()), None)


def read_lines(path: Path) -> list[bytes]:
    """Return the lines of a list that are not empty, without white space around them.

    Raises:
        InputError: it cannot be read.
    """
    try:
        return [line.strip() for line in path.read_bytes().splitlines() if line.strip()]
    except OSError as error:
        raise InputError(f"{path} cannot be read: {error.strerror}") from error


def walk(folder: Path, name: str) -> list[bytes]:
    """Return the .jpg files of a folder and those below it, relative to the outer folder, in byte order.

    What starts with a dot is left out: such files are made by systems, not published.

    Args:
        folder: of the data set.
        name: of the folder in it.

    Raises:
        InputError: a folder cannot be listed.
    """
    return sorted(_walk(os.fsencode(folder), os.fsencode(name)))


def _walk(root: bytes, name: bytes) -> Iterator[bytes]:
    below = [name]
    while below:
        current = below.pop()
        try:
            with os.scandir(os.path.join(root, current)) as entries:  # noqa: PTH118  # bytes
                for entry in entries:
                    if entry.name.startswith(b"."):
                        continue
                    inside = current + b"/" + entry.name
                    if entry.is_dir():
                        below.append(inside)
                    elif entry.name.lower().endswith(b".jpg"):
                        yield inside
        except OSError as error:
            raise InputError(f"{os.fsdecode(os.path.join(root, current))}: {error.strerror}") from error  # noqa: PTH118
