"""INRIA Holidays: 1,491 photos in 500 groups; the first photo of each is the query, and is in the database.

Source:
    Jégou, Douze and Schmid, "Hamming embedding and weak geometric consistency for large scale image search", ECCV 2008;
    `holidays_map.py` of the evaluation package on the page of the data set.
"""

from __future__ import annotations

import re
from pathlib import Path

from imgrank.errors import InputError
from imgrank.evaluation.datasets.base import Dataset, Reader, Task
from imgrank.evaluation.datasets.listing import first_file, read_lines, walk
from imgrank.evaluation.qrels import Qrels

_LISTS = ("holidays_images.dat", "eval_holidays/holidays_images.dat")
_LAYOUT = (
    "jpg/100000.jpg, ...",
    f"{' or '.join(_LISTS)}; without it, jpg/ is listed",
)
_NAME = re.compile(rb"jpg/(\d{4})(\d\d)\.jpg\Z")


def _read(folder: Path, distractors: str | None) -> Dataset:
    listed = first_file(folder, _LISTS)
    if listed is None and not (folder / "jpg").is_dir():
        raise InputError(f"{folder / 'jpg'}: there is no such folder; INRIA Holidays needs {'; '.join(_LAYOUT)}")
    source = listed or folder / "jpg"
    photos = walk(folder, "jpg") if listed is None else [b"jpg/" + line for line in read_lines(listed)]
    if not photos or len(set(photos)) != len(photos):
        raise InputError(f"{source} {'names a photo twice' if photos else 'has no photos'}")
    groups: dict[bytes, list[bytes]] = {}
    for photo in photos:
        found = _NAME.match(photo)
        if found is None:
            shown = photo.decode(errors="replace")
            raise InputError(f"{source}: {shown} is not called as the photos of INRIA Holidays are, jpg/100000.jpg")
        groups.setdefault(found[1], []).append(photo)
    qrels: Qrels = {}
    for group, members in groups.items():
        query = b"jpg/" + group + b"00.jpg"
        right = dict.fromkeys((photo for photo in members if photo != query), 1)
        if query not in members or not right:
            raise InputError(
                f"{source}: the group of {query.decode()} has {'no other photo' if query in members else 'no query'}; "
                "is the data set complete?"
            )
        qrels[query] = right
    return Dataset(
        title="INRIA Holidays", folder=folder, protocol="holidays", database=tuple(photos), tasks=(Task("", qrels),)
    )


READER = Reader(
    title="INRIA Holidays",
    source="Jégou et al., ECCV 2008; holidays_map.py of its evaluation package",
    layout=_LAYOUT,
    read=_read,
)
