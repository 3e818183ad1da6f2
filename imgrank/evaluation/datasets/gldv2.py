"""Google Landmarks v2, retrieval: 1,129 queries with right photos among 761,757.

Source:
    Weyand et al., "Google Landmarks Dataset v2", CVPR 2020, arXiv:2004.01804; the layout of
    github.com/cvdfoundation/google-landmark, the solution as tensorflow/models reads it
    (`research/delf/delf/python/datasets/google_landmarks_dataset/dataset_file_io.py`).
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path

from imgrank.errors import InputError
from imgrank.evaluation.datasets.base import Dataset, Reader, Task
from imgrank.evaluation.datasets.listing import first_file, read_lines, walk
from imgrank.evaluation.qrels import Qrels

_SOLUTION = "retrieval_solution_v2.1.csv"
_LISTS = ("index.csv", "index_image_to_landmark.csv")
_PLACES = ("", "ground_truth/", "metadata/", "test/", "index/")
_LAYOUT = (
    f"{_SOLUTION}, here or in {', '.join(place for place in _PLACES if place)}",
    f"{' or '.join(_LISTS)} in the same places; without one, index/ is walked",
    "index/a/b/c/abc0123456789def.jpg, and test/ the same way",
)
_ID = re.compile(rb"[0-9A-Za-z]{16}\Z")
_TASKS = {b"Public": "public", b"Private": "private"}


def _read(folder: Path, distractors: str | None) -> Dataset:
    solution = first_file(folder, [place + _SOLUTION for place in _PLACES])
    if solution is None:
        raise InputError(f"{folder / _SOLUTION}: there is no such file; Google Landmarks v2 needs {'; '.join(_LAYOUT)}")
    qrels: dict[str, Qrels] = {task: {} for task in _TASKS.values()}
    queries: set[bytes] = set()
    for number, (query, images, usage) in _rows(solution, (b"id", b"images", b"Usage")):
        name = _photo(solution, number, b"test", query)
        if name in queries:
            raise InputError(f"{solution}, line {number}: query {query.decode()} is there twice")
        queries.add(name)
        if usage == b"Ignored":
            continue
        if usage not in _TASKS:
            raise InputError(
                f"{solution}, line {number}: Usage {usage[:40].decode(errors='replace')!r} is none of Public, "
                "Private and Ignored"
            )
        right = dict.fromkeys((_photo(solution, number, b"index", image) for image in images.split()), 1)
        if not right:
            raise InputError(f"{solution}, line {number}: no photo is right for query {query.decode()}")
        qrels[_TASKS[usage]][name] = right
    if not any(qrels.values()):
        raise InputError(f"{solution} has no query of Public or Private usage")
    positives = {photo for task in qrels.values() for judged in task.values() for photo in judged}
    return Dataset(
        title="Google Landmarks v2, retrieval",
        folder=folder,
        protocol="gldv2",
        database=_database(folder, positives),
        tasks=tuple(Task(task, judged) for task, judged in qrels.items() if judged),
        strays=frozenset(queries),
    )


def _database(folder: Path, positives: set[bytes]) -> tuple[bytes, ...]:
    """Return the photos of the index, by the list that is published, else by the folder."""
    path = first_file(folder, [place + name for name in _LISTS for place in _PLACES])
    if path is None:
        if not (folder / "index").is_dir():
            raise InputError(
                f"{folder / 'index'}: there is no such folder; Google Landmarks v2 needs {'; '.join(_LAYOUT)}"
            )
        # A right photo that is missing on disk stays part of the data set: an evaluation has to say so.
        return tuple(sorted(positives.union(walk(folder, "index"))))
    header = (b"id",) if path.name == _LISTS[0] else (b"id", b"landmark_id")
    photos = [_photo(path, number, b"index", cells[0]) for number, cells in _rows(path, header)]
    known = set(photos)
    if len(known) != len(photos):
        raise InputError(f"{path} names a photo twice")
    unknown = sorted(positives - known)
    if unknown:
        raise InputError(
            f"{path} lacks {len(unknown)} of the {len(positives)} right photos, such as {unknown[0].decode()}; is it "
            "of the same version as the solution?"
        )
    return tuple(photos)


def _rows(path: Path, header: tuple[bytes, ...]) -> Iterator[tuple[int, list[bytes]]]:
    """Yield line numbers and cells. Python's csv is not used: it refuses the long lists of photos."""
    for number, line in enumerate(read_lines(path), 1):
        cells = [cell.strip().strip(b'"') for cell in line.split(b",")]
        if number == 1 and cells != list(header):
            raise InputError(
                f"{path} begins with {line[:60].decode(errors='replace')!r} instead of {b','.join(header).decode()}"
            )
        if len(cells) != len(header):
            raise InputError(f"{path}, line {number}: {len(cells)} columns instead of {len(header)}")
        if number > 1:
            yield number, cells


def _photo(path: Path, number: int, split: bytes, name: bytes) -> bytes:
    if _ID.match(name) is None:
        raise InputError(f"{path}, line {number}: {name[:40].decode(errors='replace')!r} is no id of 16 characters")
    return b"/".join((split, name[:1], name[1:2], name[2:3], name + b".jpg"))


READER = Reader(
    title="Google Landmarks v2, retrieval",
    source="Weyand et al., arXiv:2004.01804; github.com/cvdfoundation/google-landmark; tensorflow/models, ReadSolution",
    layout=_LAYOUT,
    read=_read,
)
