"""INSTRE: 250 objects, with queries that are boxes, by the protocol of Iscen et al.

Queries are 5 photos of each object, and the database is the rest. INSTRE-S1 and INSTRE-S2 have one object in a photo;
INSTRE-M has two of S1, so that photos of M are right for queries of S1.

Source:
    Wang and Jiang, "INSTRE: a new benchmark for instance-level object retrieval and recognition", TOMM 2015; Iscen et
    al., "Efficient diffusion on region manifolds", CVPR 2017, arXiv:1611.05113, whose `gnd_instre.mat` is read as
    facebookresearch/vissl (`InstreDataset`) and aosokin/os2d (`build_instre_dataset`) read it.
"""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from imgrank.boxes import Box
from imgrank.errors import InputError
from imgrank.evaluation.datasets.base import Dataset, Reader, Task
from imgrank.evaluation.datasets.ground_truth import GroundTruth, read_ground_truth
from imgrank.evaluation.datasets.listing import read_lines
from imgrank.evaluation.qrels import Qrels

_LAYOUT = (
    "gnd_instre.mat (or gnd_instre.pkl)",
    "INSTRE-S1/CLASS/NNN.jpg, INSTRE-S2/CLASS/NNN.jpg and INSTRE-M/CLASS/NNN.jpg",
    "for the boxes of photos: NNN.txt beside each",
)
_PARTS = {"S1": b"INSTRE-S1", "S2": b"INSTRE-S2", "M": b"INSTRE-M"}


def _read(folder: Path, distractors: str | None) -> Dataset:
    truth = _named(read_ground_truth(folder, "gnd_instre", "INSTRE", _LAYOUT))
    for name in (*truth.photos, *truth.queries):
        if _part(name) not in _PARTS.values():
            shown = name.decode(errors="replace")
            raise truth.wrong(f"photo {shown} is in none of {', '.join(part.decode() for part in _PARTS.values())}")
    known = set(truth.photos)
    qrels: Qrels = {}
    boxes: dict[tuple[bytes, bytes], Box] = {}
    reader = _BoxFiles(folder)
    for place, (name, query_box) in enumerate(zip(truth.queries, _query_boxes(truth), strict=True)):
        query = query_box.of(name)
        if name in known or query in qrels:
            raise truth.wrong(f"query {name.decode(errors='replace')} is in the database, or twice among the queries")
        right = [truth.photos[position] for position in truth.positions(place, "ok")]
        qrels[query] = dict.fromkeys(right, 1)
        if len(qrels[query]) != len(right):
            raise truth.wrong(f"query {place + 1} judges a photo twice")
        boxes |= {(query, photo): box for photo in right if (box := reader.box(name, photo)) is not None}
    tasks = [Task("all", qrels)]
    for part, folder_name in _PARTS.items():
        chosen = {query: judged for query, judged in qrels.items() if _part(query) == folder_name}
        if chosen:
            tasks.append(Task(part, chosen))
    return Dataset(
        title="INSTRE",
        folder=folder,
        protocol="instre",
        database=truth.photos,
        tasks=tuple(tasks),
        boxes=boxes,
        strays=frozenset(truth.queries),
    )


def _named(truth: GroundTruth) -> GroundTruth:
    """Call the fields of MATLAB's records `ok` and `bbx`; published loaders go by their order."""
    if truth.first == 0 or all({"ok", "bbx"} <= set(judged) for judged in truth.judged):
        return truth
    judged = tuple(dict(zip(("ok", "bbx"), fields.values(), strict=False)) for fields in truth.judged)
    return replace(truth, judged=judged)


def _query_boxes(truth: GroundTruth) -> list[Box]:
    """Return the boxes of the queries.

    Published loaders disagree whether the numbers are two corners (os2d, AMES) or a corner and a size. They are taken
    for two corners if all queries have an upper left and a lower right one then, as a list of sizes does not by chance.
    """
    numbers = [truth.numbers(place, "bbx") for place in range(len(truth.queries))]
    if not all(x1 > x0 and y1 > y0 for x0, y0, x1, y1 in numbers):
        numbers = [(x, y, x + width, y + height) for x, y, width, height in numbers]
    return [truth.box(place, corners) for place, corners in enumerate(numbers)]


def _part(name: bytes) -> bytes:
    return name.split(b"/")[0]


class _BoxFiles:
    """The boxes that lie beside the photos: lines `left top width height`, one for each object."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.known: dict[bytes, list[Box]] = {}

    def box(self, query: bytes, photo: bytes) -> Box | None:
        """Return where the object of a query is in a photo; None where that is not said."""
        boxes = self.lines(photo)
        if _part(photo) != _PARTS["M"]:
            return boxes[0] if len(boxes) == 1 else None
        if len(boxes) != 2:
            return None
        if _part(query) == _PARTS["M"]:
            return _around(boxes)  # the query shows both objects
        # Classes of S1 are called 01a_..., 01b_...; a photo of M has the boxes of a and b in this order.
        letter = query.split(b"/")[1][2:3]
        return {b"a": boxes[0], b"b": boxes[1]}.get(letter)

    def lines(self, photo: bytes) -> list[Box]:
        if photo not in self.known:
            self.known[photo] = self.read(photo)
        return self.known[photo]

    def read(self, photo: bytes) -> list[Box]:
        path = (self.folder / os.fsdecode(photo)).with_suffix(".txt")
        if not path.is_file():
            return []
        boxes = []
        for line in read_lines(path):
            try:
                x, y, width, height = map(int, line.split())
                boxes.append(Box(max(x, 0), max(y, 0), max(width, 1), max(height, 1)))
            except ValueError as error:
                shown = line[:60].decode(errors="replace")
                raise InputError(f"{path}: expected `left top width height`, found {shown!r}") from error
        return boxes


def _around(boxes: Sequence[Box]) -> Box:
    x, y = min(box.x for box in boxes), min(box.y for box in boxes)
    right, bottom = max(box.x + box.width for box in boxes), max(box.y + box.height for box in boxes)
    return Box(x, y, right - x, bottom - y)


READER = Reader(
    title="INSTRE",
    source="Iscen et al., arXiv:1611.05113; facebookresearch/vissl, InstreDataset; aosokin/os2d, build_instre_dataset",
    layout=_LAYOUT,
    read=_read,
)
