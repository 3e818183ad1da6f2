"""INSTRE on a small fixture of the published layout, judged by hand."""

import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io

from imgrank.boxes import Box
from imgrank.errors import InputError
from imgrank.evaluation.datasets.registry import read_dataset
from imgrank.evaluation.measures import PROTOCOLS
from imgrank.results import Hit, Ranking
from imgrank.steps.evaluate import evaluate

PHOTOS = ["INSTRE-S1/01a_book/001.jpg", "INSTRE-M/01/001.jpg", "INSTRE-S2/01_car/001.jpg", "INSTRE-S1/01b_cup/001.jpg"]
QUERIES = ["INSTRE-S1/01a_book/099.jpg", "INSTRE-S1/01b_cup/099.jpg", "INSTRE-S2/01_car/099.jpg", "INSTRE-M/01/099.jpg"]
RIGHT = [[0, 1], [1, 3], [2], [1]]
CORNERS = [[10, 20, 110, 220], [5, 6, 15, 16], [0, 0, 50, 60], [1.5, 2.5, 99.4, 98.6]]
NAMES = [
    b"INSTRE-S1/01a_book/099.jpg#xywh=10,20,100,200",
    b"INSTRE-S1/01b_cup/099.jpg#xywh=5,6,10,10",
    b"INSTRE-S2/01_car/099.jpg#xywh=0,0,50,60",
    b"INSTRE-M/01/099.jpg#xywh=2,2,97,97",
]


def matlab(folder: Path, fields: tuple[str, str] = ("ok", "bbx"), boxes: list[list[float]] = CORNERS) -> Path:
    """As published: positions from 1, and the positions before the box."""
    rows = np.empty((1, len(QUERIES)), dtype=[(name, object) for name in fields])
    for place, (right, box) in enumerate(zip(RIGHT, boxes, strict=True)):
        rows[0, place] = (np.array([right]) + 1, np.array([box], dtype=np.float64))
    lists = {"imlist": np.array([PHOTOS], dtype=object), "qimlist": np.array([QUERIES], dtype=object)}
    scipy.io.savemat(folder / "gnd_instre.mat", {**lists, "gnd": rows}, do_compression=True)
    return folder


def pickled(folder: Path, **parts: Any) -> Path:
    gnd = [{"ok": right, "bbx": box} for right, box in zip(RIGHT, CORNERS, strict=True)]
    content = {"imlist": PHOTOS, "qimlist": QUERIES, "gnd": gnd, **parts}
    (folder / "gnd_instre.pkl").write_bytes(pickle.dumps(content))
    return folder


@pytest.mark.parametrize("write", [matlab, pickled, lambda folder: matlab(folder, ("first", "second"))])
def test_tasks_photos_and_queries(tmp_path: Path, write: Any) -> None:
    data = read_dataset("instre", write(tmp_path))
    assert data.database == tuple(photo.encode() for photo in PHOTOS)
    assert data.strays == {query.encode() for query in QUERIES}
    qrels = {name: {PHOTOS[place].encode(): 1 for place in right} for name, right in zip(NAMES, RIGHT, strict=True)}
    assert {task.name: task.qrels for task in data.tasks} == {
        "all": qrels,
        "S1": {name: qrels[name] for name in NAMES[:2]},
        "S2": {NAMES[2]: qrels[NAMES[2]]},
        "M": {NAMES[3]: qrels[NAMES[3]]},
    }
    assert data.boxes == {}


def test_values_by_hand(tmp_path: Path) -> None:
    data = read_dataset("instre", matlab(tmp_path))
    assert data.database is not None
    hits = tuple(Hit(NAMES[0], r, r, data.database[p], -float(r), 0) for r, p in enumerate((2, 0, 3, 1), 1))
    result = evaluate([Ranking(NAMES[0], hits)], data.tasks[1].qrels, PROTOCOLS[data.protocol].measures)
    # Right at 2 and 4: trapezoids (0/1 + 1/2) / 2 and (1/3 + 2/4) / 2, over two. The other query of S1 was not asked.
    assert result.values[NAMES[0]][0] == pytest.approx((1 / 4 + 5 / 12) / 2)
    assert result.values[NAMES[1]] == (0, 0)


def test_boxes_may_have_a_size_instead_of_a_second_corner(tmp_path: Path) -> None:
    sizes = [[10, 20, 100, 200], [50, 60, 10, 10], [0, 0, 50, 60], [2, 2, 97, 97]]  # of the second, no two corners
    data = read_dataset("instre", matlab(tmp_path, boxes=sizes))
    assert data.queries == (NAMES[0], b"INSTRE-S1/01b_cup/099.jpg#xywh=50,60,10,10", *NAMES[2:])


def test_boxes_of_right_photos_lie_beside_them(tmp_path: Path) -> None:
    for name, text in (
        ("INSTRE-S1/01a_book/001", "1 2 30 40\n"),
        ("INSTRE-M/01/001", "5 6 70 80\r\n100 50 10 90 \r\n"),
        ("INSTRE-S2/01_car/001", "1 1 5 5\n2 2 5 5\n"),  # two boxes, of which none is said to be the object's
    ):
        path = tmp_path / f"{name}.txt"
        path.parent.mkdir(parents=True)
        path.write_text(text)
    data = read_dataset("instre", matlab(tmp_path))
    both = PHOTOS[1].encode()
    assert data.boxes == {
        (NAMES[0], PHOTOS[0].encode()): Box(1, 2, 30, 40),
        (NAMES[0], both): Box(5, 6, 70, 80),  # a query of class a: the first line
        (NAMES[1], both): Box(100, 50, 10, 90),  # of class b: the second
        (NAMES[3], both): Box(5, 6, 105, 134),  # of M: what is around both
    }
    (tmp_path / "INSTRE-M/01/001.txt").write_text("5 6 seven 80\n")
    with pytest.raises(InputError, match=r"001\.txt: expected"):
        read_dataset("instre", tmp_path)


@pytest.mark.parametrize(
    ("parts", "message"),
    [
        ({"qimlist": PHOTOS[:1] + QUERIES[1:]}, "in the database"),
        ({"imlist": ["all_souls_000013", *PHOTOS[1:]]}, "is in none of INSTRE-S1"),
        ({"gnd": [{"easy": [0], "bbx": [0, 0, 1, 1]}] * 4}, "has no 'ok'"),
        ({"gnd": [{"ok": [0, 0], "bbx": [0, 0, 1, 1]}] * 4}, "judges a photo twice"),
        ({"gnd": [{"ok": [4], "bbx": [0, 0, 1, 1]}] * 4}, "photo 4, but there are 4"),
    ],
)
def test_other_and_damaged_files_are_named(tmp_path: Path, parts: dict[str, Any], message: str) -> None:
    with pytest.raises(InputError, match=message):
        read_dataset("instre", pickled(tmp_path, **parts))


def test_positions_of_matlab_start_at_1(tmp_path: Path) -> None:
    lists = {"imlist": np.array([PHOTOS], dtype=object), "qimlist": np.array([QUERIES[:1]], dtype=object)}
    for place, message in ((0, "photo 0,"), (5, "photo 5,")):
        rows = np.empty((1, 1), dtype=[("ok", object), ("bbx", object)])
        rows[0, 0] = (np.array([[place]]), np.array([[0.0, 0, 5, 5]]))
        scipy.io.savemat(tmp_path / "gnd_instre.mat", {**lists, "gnd": rows})
        with pytest.raises(InputError, match=message):
            read_dataset("instre", tmp_path)


def test_a_missing_file(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"gnd_instre\.pkl: there is no such file; INSTRE needs gnd_instre\.mat"):
        read_dataset("instre", tmp_path)
