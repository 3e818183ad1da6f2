"""The Met: visitors' photos of exhibits as queries, the museum's own 397,121 photos of 224,408 exhibits as database.

Ypsilantis et al., "The Met Dataset: Instance-level Recognition for Artworks", NeurIPS Datasets and Benchmarks 2021,
arXiv:2202.01747. The layout is that of `code/utils/datasets.py` of the repository nikosips/met.

The paper's task is to name the exhibit. Here it is to find it: right for a query are the photos of its exhibit. The
precision of the first photo is then the paper's accuracy (ACC) of the nearest neighbour. Its GAP, which also asks how
well queries of other things are told apart, is no measure of retrieval, so queries of no exhibit are left out.
"""

from __future__ import annotations

from collections import defaultdict
from pathlib import Path
from typing import Any

from imgrank.evaluation.datasets.base import Dataset, Reader, Task
from imgrank.evaluation.datasets.textfiles import is_name, misfit, read_records
from imgrank.evaluation.qrels import Qrels

DATABASE, MINI = "MET_database.json", "mini_MET_database.json"
QUERIES = {"test": "testset.json", "val": "valset.json"}
_PHOTOS = 'a database of The Met (MET_database.json): [{"id": 34, "path": "MET/34/0.jpg"}, ...]'
_ASKED = 'a list of queries of The Met (testset.json, valset.json): [{"MET_id": 34, "path": "test_met/x.jpg"}, ...]'


def read(folder: Path, distractors: str | None) -> Dataset:
    """Read The Met; see `Reader.read`. It has no lists of distractors."""
    del distractors
    return _read(folder, DATABASE, "The Met")


def read_mini(folder: Path, distractors: str | None) -> Dataset:
    """Read The Met with its small database; see `Reader.read`. It has no lists of distractors."""
    del distractors
    return _read(folder, MINI, "The Met, mini")


def _read(folder: Path, database: str, title: str) -> Dataset:
    path = folder / "ground_truth" / database
    photos: dict[bytes, None] = {}
    exhibits = defaultdict(list)
    for number, entry in enumerate(read_records(path, _PHOTOS), 1):
        name, exhibit = _name(path, number, entry, _PHOTOS), _exhibit(path, number, entry, "id", _PHOTOS)
        if name in photos or exhibit is None:
            raise misfit(path, f"entry {number}", f"each photo once, with an id, in {_PHOTOS}", name)
        photos[name] = None
        exhibits[exhibit].append(name)
    tasks, strays = [], set()
    for task, file in QUERIES.items():
        qrels, asked = _queries(folder / "ground_truth" / file, exhibits)
        tasks.append(Task(task, qrels))
        strays |= asked
    return Dataset(title, folder, "top100", tuple(photos), tuple(tasks), strays=frozenset(strays))


def _queries(path: Path, exhibits: dict[int, list[bytes]]) -> tuple[Qrels, set[bytes]]:
    """Return judgements, and the photos of all queries, those of no exhibit included."""
    qrels: Qrels = {}
    asked: set[bytes] = set()
    for number, entry in enumerate(read_records(path, _ASKED), 1):
        name, exhibit = _name(path, number, entry, _ASKED), _exhibit(path, number, entry, "MET_id", _ASKED)
        if name in asked or "id" in entry:
            raise misfit(path, f"entry {number}", f"each query once in {_ASKED}", name)
        asked.add(name)
        if exhibit is not None:
            qrels[name] = dict.fromkeys(exhibits.get(exhibit, ()), 1)
    if not any(qrels.values()):
        raise misfit(path, "", f"queries of exhibits that the database has, in {_ASKED}")
    return qrels, asked


def _name(path: Path, number: int, entry: dict[str, Any], expected: str) -> bytes:
    text = entry.get("path")
    if not isinstance(text, str) or not is_name(name := text.encode(errors="surrogatepass")):
        raise misfit(path, f"entry {number}", f"a path in {expected}", str(entry).encode(errors="replace"))
    return b"images/" + name


def _exhibit(path: Path, number: int, entry: dict[str, Any], key: str, expected: str) -> int | None:
    """Return the number of an exhibit; None where the entry has none."""
    value = entry.get(key)
    if value is None:
        return None
    if isinstance(value, bool) or not (str(value).isdecimal() and len(str(value)) < 19):
        raise misfit(
            path, f"entry {number}", f"a whole number as {key!r} in {expected}", str(value).encode(errors="replace")
        )
    return int(value)


_SOURCE = "Ypsilantis et al., arXiv:2202.01747; nikosips/met, code/utils/datasets.py"
_LAYOUT = ("ground_truth/testset.json and ground_truth/valset.json", "images/MET/ID/*.jpg", "images/test_met/*.jpg")
READER = Reader("The Met", _SOURCE, (f"ground_truth/{DATABASE}", *_LAYOUT), read)
READER_MINI = Reader("The Met, mini", _SOURCE, (f"ground_truth/{MINI}", *_LAYOUT), read_mini)
