"""The Met, in its published JSON files, with judgements worked out by hand."""

import json
from pathlib import Path

import pytest

from imgrank.errors import InputError
from imgrank.evaluation.datasets.registry import read_dataset

DATABASE = [
    {"id": 34, "path": "MET/34/0.jpg"},
    {"id": 34, "path": "MET/34/1.jpg"},
    {"id": 99, "path": "MET/99/0.jpg"},
    {"id": "7", "path": "MET/7/0.jpg"},
]
TEST = [
    {"path": "test_met/a.jpg", "MET_id": 34, "photographer": "someone", "url": "http://x"},
    {"path": "test_other/b.jpg", "category": "Paintings", "url": "http://y"},
    {"path": "test_met/c.jpg", "MET_id": 7},
    {"path": "test_met/d.jpg", "MET_id": 100},
]
VAL = [{"path": "test_met/v.jpg", "MET_id": 99}, {"path": "test_noart/w.jpg"}]


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    truth = tmp_path / "ground_truth"
    truth.mkdir()
    for name, content in {
        "MET_database": DATABASE,
        "mini_MET_database": DATABASE[1:3],
        "testset": TEST,
        "valset": VAL,
    }.items():
        (truth / f"{name}.json").write_text(json.dumps(content))
    return tmp_path


def right(*names: str) -> dict[bytes, int]:
    return {f"images/MET/{name}.jpg".encode(): 1 for name in names}


def test_right_are_the_photos_of_the_exhibit(folder: Path) -> None:
    found = read_dataset("met", folder)
    assert found.protocol == "top100"
    assert found.database == tuple(right("34/0", "34/1", "99/0", "7/0"))
    assert {task.name: task.qrels for task in found.tasks} == {
        "test": {
            b"images/test_met/a.jpg": right("34/0", "34/1"),
            b"images/test_met/c.jpg": right("7/0"),
            b"images/test_met/d.jpg": {},
        },
        "val": {b"images/test_met/v.jpg": right("99/0")},
    }
    # Photos that nobody asks for are no part of the database either.
    assert found.strays == {
        *(b"images/test_met/%b.jpg" % name for name in (b"a", b"c", b"d", b"v")),
        b"images/test_other/b.jpg",
        b"images/test_noart/w.jpg",
    }


def test_the_small_database(folder: Path) -> None:
    found = read_dataset("met-mini", folder)
    assert found.database == tuple(right("34/1", "99/0"))
    assert found.tasks[0].qrels[b"images/test_met/a.jpg"] == right("34/1")
    assert found.tasks[0].qrels[b"images/test_met/c.jpg"] == {}


@pytest.mark.parametrize(
    ("file", "content", "message"),
    [
        ("MET_database", TEST, r"MET_database\.json, entry 1: expected.*looks like a list of queries of The Met"),
        ("MET_database", [*DATABASE, DATABASE[0]], "entry 5: expected each photo once"),
        ("MET_database", [{"id": 34}], "entry 1: expected a path"),
        ("MET_database", [{"id": 34, "path": "/etc/x.jpg"}], "entry 1: expected a path"),
        (
            "MET_database",
            [{"id": 34, "path": "\ud800.jpg"}, {"id": True, "path": "a.jpg"}],
            "entry 2: expected a whole",
        ),
        ("MET_database", [{"id": 3.5, "path": "a.jpg"}], "entry 1: expected a whole number as 'id'"),
        ("MET_database", [{"id": "9" * 40, "path": "a.jpg"}], "entry 1: expected a whole number"),
        ("MET_database", [7], "entry 1"),
        ("MET_database", [], "at least one entry"),
        ("MET_database", {"gnd": []}, "looks like JSON"),
        ("testset", DATABASE, r"testset\.json, entry 1: expected.*looks like a database of The Met"),
        ("testset", [TEST[0], TEST[0]], "entry 2: expected each query once"),
        ("testset", [TEST[1]], "queries of exhibits that the database has"),
    ],
)
def test_damaged_files_are_named(folder: Path, file: str, content: object, message: str) -> None:
    (folder / f"ground_truth/{file}.json").write_text(json.dumps(content))
    with pytest.raises(InputError, match=message):
        read_dataset("met", folder)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (
            b'[{"path": "test_met/a.jpg",\n "MET_id": }]',
            "line 2: expected a list of queries of The Met.*Expecting value",
        ),
        (b'[{"path": "\xff"}]', "expected a list of queries of The Met"),
        (b"[" * 200_000, "expected a list of queries of The Met"),
        (b"[" + b"9" * 5000 + b"]", "expected a list of queries of The Met"),
        (b"\x80\x04\x95", "looks like a Python pickle"),
        (b"id,images\n", "looks like a table of Google Landmarks v2"),
    ],
)
def test_what_is_no_json_is_named(folder: Path, content: bytes, message: str) -> None:
    (folder / "ground_truth/testset.json").write_bytes(content)
    with pytest.raises(InputError, match=rf"testset\.json.*{message}"):
        read_dataset("met", folder)


def test_a_missing_file_is_named(folder: Path) -> None:
    (folder / "ground_truth/mini_MET_database.json").unlink()
    with pytest.raises(InputError, match=r"mini_MET_database\.json: there is no such file"):
        read_dataset("met-mini", folder)
