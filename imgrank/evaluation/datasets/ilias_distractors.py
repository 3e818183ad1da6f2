"""The lists of distractors of ILIAS, millions of names, in seconds and little memory."""

from __future__ import annotations

import os
import re
from pathlib import Path

import numpy as np

from imgrank.errors import InputError
from imgrank.evaluation.datasets.textfiles import misfit, read_blocks

DISTRACTORS = {"mini": "mini_ilias_yfcc100m_ids.txt", "100m": "distractor_ids.txt.gz"}
_SHARDS = b"yfcc100m/"
_LINE = re.compile(rb"(?:([^/,\s.][^/,\s]*)\.tar/)?([^/,\s]+)(?:,.*)?")
_KEYS = re.compile(rb"(?:[^/,\s]++\n)*+")  # a block of lines that are keys and nothing else
_IDS = re.compile(rb"(?:[^/,\s.][^/,\s]*+(?<=\.tar)/[^/,\s]++\n)*+")
_EXPECTED = "a distractor of ILIAS, `SHARD.tar/KEY` or `KEY`"


def read_distractors(folder: Path, chosen: str) -> list[bytes]:
    """Return the names of the photos of a list.

    An id with its shard is the photo `yfcc100m/SHARD/KEY.jpg`. One without, as in the list of 5 million, is looked up
    in the folders of `yfcc100m`; where they lack it, or there are none, it is `yfcc100m/KEY.jpg`.

    Args:
        folder: of the data set.
        chosen: a key of `DISTRACTORS`.

    Raises:
        InputError: there is no such list, a line has another form, or an id stands twice.
    """
    path = folder / "image_ids" / DISTRACTORS[chosen]
    names: list[bytes] = []
    bare = False
    for first, block in read_blocks(path, _EXPECTED):
        if _KEYS.fullmatch(block):
            names += [b"yfcc100m/" + key + b".jpg" for key in block.split()]
            bare = True
        elif _IDS.fullmatch(block):
            names += [b"yfcc100m/" + key + b".jpg" for key in block.replace(b".tar/", b"/").split()]
        else:
            bare |= _add_lines(path, first, block, names)
    if not names:
        raise misfit(path, "", f"lines of {_EXPECTED}")
    _refuse_twice(path, names)
    return _looked_up(folder / os.fsdecode(_SHARDS), names) if bare else names


def _add_lines(path: Path, first: int, block: bytes, names: list[bytes]) -> bool:
    """Add the names of lines of any allowed form; return whether one has no shard."""
    bare = False
    for number, line in enumerate(block.split(b"\n"), first):
        if not (text := line.strip()):
            continue
        found = _LINE.fullmatch(text)
        if found is None:
            raise misfit(path, f"line {number}", _EXPECTED, text)
        shard, key = found.groups()
        bare |= shard is None
        names.append(_SHARDS + (shard + b"/" if shard else b"") + key + b".jpg")
    return bare


def _refuse_twice(path: Path, names: list[bytes]) -> None:
    """Raise where a name stands twice. Sorted hashes take a tenth of the memory of a set of names."""
    hashes = np.fromiter(map(hash, names), np.int64, len(names))
    hashes.sort()
    if not (hashes[1:] == hashes[:-1]).any():
        return
    seen: set[bytes] = set()
    for name in names:
        if name in seen:
            raise misfit(path, "", "each distractor once", name)
        seen.add(name)


def _looked_up(below: Path, names: list[bytes]) -> list[bytes]:
    """Return names with the folder that each photo lies in; those that no folder has stay as they are."""
    if not below.is_dir():
        return names
    waiting, found = set(names), []
    try:
        with os.scandir(os.fsencode(below)) as entries:
            folders = sorted(entry.name for entry in entries if entry.is_dir())
        for name in folders:
            with os.scandir(os.fsencode(below) + b"/" + name) as entries:
                for entry in entries:
                    flat = _SHARDS + entry.name
                    if flat in waiting:
                        waiting.discard(flat)
                        found.append(_SHARDS + name + b"/" + entry.name)
    except OSError as error:
        raise InputError(f"{below} cannot be read: {error}") from error
    return [*found, *(name for name in names if name in waiting)]
