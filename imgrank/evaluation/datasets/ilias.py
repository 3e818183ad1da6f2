"""ILIAS: 1,000 objects, 1,232 query photos, 4,715 photos that show them, among up to 100 million of YFCC100M.

Kordopatis-Zilos et al., "ILIAS: Instance-Level Image retrieval At Scale", CVPR 2025, arXiv:2502.11748. The layout is
that of `download/download_ilias.sh` and `download/README.md`, the judgements those of `evaluation/src/dataset.py`, of
the repository ilias-vrg/ilias: what is right for a query are the positives of the object whose folder it lies in. Boxes
are read as its `feature_extraction` reads them: where an object has several, the one around all.

Queries are whole photos, as the published extraction takes them by default; their boxes are in `Dataset.boxes`.
Queries by text are not read.
"""

from __future__ import annotations

import math
import os
import re
from collections import defaultdict
from pathlib import Path

from imgrank.boxes import Box
from imgrank.errors import InputError
from imgrank.evaluation.datasets.base import Dataset, Reader, Task
from imgrank.evaluation.datasets.ilias_distractors import DISTRACTORS, read_distractors
from imgrank.evaluation.datasets.textfiles import is_name, misfit, read_lines
from imgrank.evaluation.qrels import Qrels

_CORE = b"ilias_core/"
_PHOTO = re.compile(rb"(?P<object>[^/,\s]+)/(?P<kind>query|pos)/(?!T\d+\.txt)[^/,\s]+")
_QUERY = "a query of ILIAS, `OBJECT/query/Q000_00.jpg,...`"
_POSITIVE = "a positive of ILIAS, `OBJECT/pos/P000_00.jpg,SCALE,CLUTTER`"


def read(folder: Path, distractors: str | None) -> Dataset:
    """Read ILIAS; see `Reader.read`."""
    queries = _queries(folder / "image_ids/image_query_ids.txt")
    positives, values = _positives(folder / "image_ids/positive_ids.txt")
    by_object = defaultdict(list)
    for name in positives:
        by_object[_object(name)].append(name)
    qrels: Qrels = {}
    for query in queries:
        if _object(query) not in by_object:
            raise InputError(
                f"{folder}/image_ids/positive_ids.txt has no positive of the object of {os.fsdecode(query)}; "
                "is the file whole?"
            )
        qrels[query] = dict.fromkeys(by_object[_object(query)], 1)
    others = read_distractors(folder, distractors) if distractors else []
    return Dataset(
        "ILIAS",
        folder,
        "ilias",
        (*positives, *others),
        (Task("", qrels),),
        _boxes(folder, qrels),
        {
            name: {(query, photo): numbers[photo] for query, judged in qrels.items() for photo in judged}
            for name, numbers in values.items()
        },
        frozenset(queries),
    )


def _object(name: bytes) -> bytes:
    return name.split(b"/")[1]


def _photo(path: Path, number: int, text: bytes, kind: bytes, expected: str) -> bytes:
    """Return the name of a photo from its id."""
    found = _PHOTO.fullmatch(text)
    if found is None or found["kind"] != kind or not is_name(text):
        raise misfit(path, f"line {number}", expected, text)
    return _CORE + (text if text.endswith(b".jpg") else text + b".jpg")


def _queries(path: Path) -> list[bytes]:
    names: dict[bytes, None] = {}
    for number, text in read_lines(path, _QUERY):
        name = _photo(path, number, text.split(b",")[0].strip(), b"query", _QUERY)
        if name in names:
            raise misfit(path, f"line {number}", "each query once", text)
        names[name] = None
    if not names:
        raise misfit(path, "", f"lines of {_QUERY}")
    return list(names)


def _positives(path: Path) -> tuple[list[bytes], dict[str, dict[bytes, float]]]:
    """Return names, and of each its scale (area of the object, of the photo's) and clutter (a number of things)."""
    scales: dict[bytes, float] = {}
    clutter: dict[bytes, float] = {}
    for number, text in read_lines(path, _POSITIVE):
        cells = [cell.strip() for cell in text.split(b",")]
        name = _photo(path, number, cells[0], b"pos", _POSITIVE)
        try:
            scale, things = float(cells[1]), int(cells[2])
        except (ValueError, IndexError) as error:
            raise misfit(path, f"line {number}", _POSITIVE, text) from error
        if len(cells) != 3 or not math.isfinite(scale) or scale < 0 or things < 0:
            raise misfit(path, f"line {number}", _POSITIVE, text)
        if name in scales:
            raise misfit(path, f"line {number}", "each positive once", text)
        scales[name], clutter[name] = scale, float(things)
    if not scales:
        raise misfit(path, "", f"lines of {_POSITIVE}")
    return list(scales), {"scale": scales, "clutter": clutter}


def _boxes(folder: Path, qrels: Qrels) -> dict[tuple[bytes, bytes], Box]:
    """Read where objects are, as far as their files lie beside the photos."""
    if not (folder / os.fsdecode(_CORE)).is_dir():
        return {}
    names = {*qrels, *(photo for judged in qrels.values() for photo in judged)}
    found = {name: box for name in names if (box := _box(folder / os.fsdecode(name))) is not None}
    pairs = ((query, photo) for query, judged in qrels.items() for photo in (query, *judged))
    return {(query, photo): found[photo] for query, photo in pairs if photo in found}


def _box(photo: Path) -> Box | None:
    """Return the box around all boxes of a photo; None where there is no file of them."""
    path = photo.with_name(f"{photo.stem}_bbox.txt")
    expected = "a box of ILIAS, `X Y WIDTH HEIGHT` in pixels"
    if not path.is_file():
        return None
    corners = []
    for number, text in read_lines(path, expected):
        try:
            x, y, width, height = map(float, text.replace(b",", b" ").split())
            left, top = max(math.floor(x), 0), max(math.floor(y), 0)
            corners.append((left, top, math.ceil(x + width), math.ceil(y + height)))
        except (ValueError, OverflowError) as error:  # not four numbers, or one that is not finite
            raise misfit(path, f"line {number}", expected, text) from error
        if width <= 0 or height <= 0 or corners[-1][2] <= left or corners[-1][3] <= top:
            raise misfit(path, f"line {number}", f"{expected}, with an area", text)
    if not corners:
        raise misfit(path, "", f"lines of {expected}")
    left, top = (min(corner[place] for corner in corners) for place in (0, 1))
    right, bottom = (max(corner[place] for corner in corners) for place in (2, 3))
    return Box(left, top, right - left, bottom - top)


READER = Reader(
    "ILIAS",
    "Kordopatis-Zilos et al., arXiv:2502.11748; ilias-vrg/ilias, evaluation/src/dataset.py",
    (
        "image_ids/image_query_ids.txt and image_ids/positive_ids.txt",
        "ilias_core/OBJECT/query/*.jpg and ilias_core/OBJECT/pos/*.jpg, with boxes in *_bbox.txt",
        "for distractors: image_ids/mini_ilias_yfcc100m_ids.txt or image_ids/distractor_ids.txt.gz, and the shards "
        "unpacked to yfcc100m/SHARD/*.jpg (or yfcc100m/*.jpg)",
    ),
    read,
    tuple(DISTRACTORS),
)
