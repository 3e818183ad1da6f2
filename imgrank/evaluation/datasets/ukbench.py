"""UKBench: 10,200 photos of 2,550 objects, four of each; every photo is a query and is itself right.

Source:
    Nistér and Stewénius, "Scalable recognition with a vocabulary tree", CVPR 2006, and the page of the data set: the
    measure counts how many of the four photos of an object are among the first four, the query being one of them.
"""

from __future__ import annotations

import re
from pathlib import Path

from imgrank.errors import InputError
from imgrank.evaluation.datasets.base import Dataset, Reader, Task
from imgrank.evaluation.datasets.listing import walk
from imgrank.evaluation.qrels import Qrels

_LAYOUT = ("full/ukbench00000.jpg, ...",)
_NAME = re.compile(rb"full/ukbench(\d{5})\.jpg\Z")
_GROUP = 4  # photos of one object


def _read(folder: Path, distractors: str | None) -> Dataset:
    if not (folder / "full").is_dir():
        raise InputError(f"{folder / 'full'}: there is no such folder; UKBench needs {'; '.join(_LAYOUT)}")
    photos = walk(folder, "full")
    numbers: set[int] = set()
    for photo in photos:
        found = _NAME.match(photo)
        if found is None:
            shown = photo.decode(errors="replace")
            raise InputError(f"{folder}: {shown} is not called as the photos of UKBench are, full/ukbench00000.jpg")
        numbers.add(int(found[1]))
    if not numbers:
        raise InputError(f"{folder / 'full'} has no photos")
    qrels: Qrels = {}
    for number in sorted(numbers):
        first = number - number % _GROUP
        group = range(first, first + _GROUP)
        missing = [other for other in group if other not in numbers]
        if missing:
            raise InputError(
                f"{folder}: {_photo(missing[0]).decode()} is missing, one of the four photos of an object; a part of "
                "UKBench must have all four"
            )
        qrels[_photo(number)] = dict.fromkeys(map(_photo, group), 1)
    return Dataset(title="UKBench", folder=folder, protocol="ukbench", database=tuple(photos), tasks=(Task("", qrels),))


def _photo(number: int) -> bytes:
    return b"full/ukbench%05d.jpg" % number


READER = Reader(
    title="UKBench",
    source="Nistér and Stewénius, CVPR 2006; the measure of the data set's page, vis.uky.edu/~stewe/ukbench",
    layout=_LAYOUT,
    read=_read,
)
