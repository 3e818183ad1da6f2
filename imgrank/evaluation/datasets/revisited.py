"""Revisited Oxford and Paris: landmarks, with queries that are parts of photos and three difficulties.

Source:
    Radenović et al., "Revisiting Oxford and Paris", CVPR 2018, arXiv:1803.11285, and the code beside it
    (github.com/filipradenovic/revisitop: `python/dataset.py`, `python/example_evaluate.py`).
"""

from __future__ import annotations

from functools import partial
from pathlib import Path

from imgrank.errors import InputError
from imgrank.evaluation.datasets.base import Dataset, Reader, Task
from imgrank.evaluation.datasets.ground_truth import GroundTruth, read_ground_truth
from imgrank.evaluation.datasets.listing import read_lines
from imgrank.evaluation.qrels import Qrels

_TASKS = {  # task -> (right, junk)
    "easy": (("easy",), ("junk", "hard")),
    "medium": (("easy", "hard"), ("junk",)),
    "hard": (("hard",), ("junk", "easy")),
}
_DISTRACTORS = "../revisitop1m"
_TITLES = {"roxford5k": "ROxford5k", "rparis6k": "RParis6k"}
_PARIS = b"paris_"  # all photos of Paris are called so, and none of Oxford


def _read(name: str, folder: Path, distractors: str | None) -> Dataset:
    title = _TITLES[name]
    truth = read_ground_truth(folder, f"gnd_{name}", title, _layout(name))
    _check_city(truth, name)
    photos = tuple(map(_photo, truth.photos))
    if distractors is not None:
        photos += _million(folder, title)
    queries = []
    for place, query in enumerate(truth.queries):
        queries.append(truth.box(place, truth.numbers(place, "bbx")).of(_photo(query)))
    if len(set(queries)) != len(queries):
        raise truth.wrong("two queries are the same part of a photo")
    return Dataset(
        title=f"{title} + 1M" if distractors else title,
        folder=folder,
        protocol="revisited",
        database=photos,
        tasks=tuple(Task(task, _qrels(truth, queries, *kinds)) for task, kinds in _TASKS.items()),
        strays=frozenset(map(_photo, truth.queries)) - frozenset(photos),
    )


def _qrels(truth: GroundTruth, queries: list[bytes], right: tuple[str, ...], junk: tuple[str, ...]) -> Qrels:
    qrels: Qrels = {}
    for place, query in enumerate(queries):
        judged: dict[bytes, int] = {}
        for keys, relevance in ((right, 1), (junk, -1)):
            for key in keys:
                for position in truth.positions(place, key):
                    photo = _photo(truth.photos[position])
                    if photo in judged:
                        raise truth.wrong(f"query {place + 1} judges photo {photo.decode(errors='replace')} twice")
                    judged[photo] = relevance
        qrels[query] = judged
    return qrels


def _photo(name: bytes) -> bytes:
    return b"jpg/" + name + (b"" if name.endswith(b".jpg") else b".jpg")


def _check_city(truth: GroundTruth, name: str) -> None:
    paris = sum(photo.startswith(_PARIS) for photo in (*truth.photos, *truth.queries))
    if name == "roxford5k" and paris:
        raise truth.wrong("its photos are of Paris; that is --dataset rparis6k")
    if name == "rparis6k" and not paris:
        raise truth.wrong("none of its photos is called paris_...")


def _million(folder: Path, title: str) -> tuple[bytes, ...]:
    path = folder / _DISTRACTORS / "revisitop1m.txt"
    if not path.is_file():
        raise InputError(
            f"{path}: there is no such file; the distractors of {title} are {_DISTRACTORS}/revisitop1m.txt and "
            f"{_DISTRACTORS}/jpg/"
        )
    names = read_lines(path)
    for name in names:
        if name.startswith(b"/") or b".." in name.split(b"/") or not name.lower().endswith((b".jpg", b".jpeg")):
            raise InputError(f"{path} has the line {name[:60].decode(errors='replace')!r}, which is no name of a photo")
    if len(set(names)) != len(names) or not names:
        raise InputError(f"{path} {'names a photo twice' if names else 'is empty'}")
    return tuple(b"../revisitop1m/jpg/" + name for name in names)


def _layout(name: str) -> tuple[str, ...]:
    return (
        f"gnd_{name}.pkl (or gnd_{name}.mat)",
        "jpg/NAME.jpg, photos and queries",
        f"for --distractors 1m: {_DISTRACTORS}/revisitop1m.txt and {_DISTRACTORS}/jpg/",
    )


def _reader(name: str) -> Reader:
    return Reader(
        title=_TITLES[name],
        source="Radenović et al., arXiv:1803.11285; github.com/filipradenovic/revisitop, python/dataset.py",
        layout=_layout(name),
        read=partial(_read, name),
        distractors=("1m",),
    )


OXFORD = _reader("roxford5k")
PARIS = _reader("rparis6k")
