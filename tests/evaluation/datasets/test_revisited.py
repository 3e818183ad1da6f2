"""Revisited Oxford and Paris on a small fixture of the published layout, judged by hand."""

import json
import pickle
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import scipy.io

from imgrank.errors import InputError
from imgrank.evaluation.datasets.registry import read_dataset, reader
from imgrank.evaluation.measures import PROTOCOLS
from imgrank.results import Hit, Ranking, encode_hits
from imgrank.steps.evaluate import evaluate

OXFORD: dict[str, Any] = {
    "imlist": ["a", "b", "c", "d", "e"],
    "qimlist": ["all_souls_000013", "magdalen_000058"],
    "gnd": [
        {"bbx": [136.5, 34.1, 648.5, 955.7], "easy": [0], "hard": [1], "junk": [2]},
        {"bbx": [-0.4, 1.5, 10.5, 12.5], "easy": [], "hard": [3], "junk": []},
    ],
}
FIRST = b"jpg/all_souls_000013.jpg#xywh=136,34,512,922"  # halves are rounded to the even, as Pillow does
SECOND = b"jpg/magdalen_000058.jpg#xywh=0,2,10,10"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "roxford5k").mkdir()
    return write(tmp_path / "roxford5k", OXFORD)


def write(folder: Path, content: Any, name: str = "gnd_roxford5k.pkl", protocol: int = 2) -> Path:
    (folder / name).write_bytes(pickle.dumps(content, protocol))
    return folder


def changed(**parts: Any) -> dict[str, Any]:
    return {**OXFORD, **parts}


def ranking(query: bytes, photos: str) -> Ranking:
    hits = [
        Hit(query, rank, rank, b"jpg/%c.jpg" % name, 1 / rank, 1 / rank) for rank, name in enumerate(photos.encode(), 1)
    ]
    return Ranking(query, tuple(hits))


def test_tasks_photos_and_queries(folder: Path) -> None:
    data = read_dataset("roxford5k", folder)
    assert data.database == (b"jpg/a.jpg", b"jpg/b.jpg", b"jpg/c.jpg", b"jpg/d.jpg", b"jpg/e.jpg")
    assert data.strays == {b"jpg/all_souls_000013.jpg", b"jpg/magdalen_000058.jpg"}
    assert data.queries == (FIRST, SECOND)
    assert {task.name: task.qrels for task in data.tasks} == {
        "easy": {FIRST: {b"jpg/a.jpg": 1, b"jpg/b.jpg": -1, b"jpg/c.jpg": -1}, SECOND: {b"jpg/d.jpg": -1}},
        "medium": {FIRST: {b"jpg/a.jpg": 1, b"jpg/b.jpg": 1, b"jpg/c.jpg": -1}, SECOND: {b"jpg/d.jpg": 1}},
        "hard": {FIRST: {b"jpg/a.jpg": -1, b"jpg/b.jpg": 1, b"jpg/c.jpg": -1}, SECOND: {b"jpg/d.jpg": 1}},
    }


def test_values_by_hand(folder: Path, imgrank) -> None:
    data = read_dataset("roxford5k", folder)
    rankings = [ranking(FIRST, "cbdae"), ranking(SECOND, "edabc")]
    means = {}
    for task in data.tasks:
        result = evaluate(rankings, task.qrels, PROTOCOLS[data.protocol].measures)
        means[task.name] = [row["mean"] for row in result.summary().values()]
    # easy: of d a e, a is at 2: (0/1 + 1/2) / 2. The second query has no easy photo and is left out.
    assert means["easy"] == pytest.approx([0.25, 0, 1 / 2, 1 / 2], abs=1e-12)
    # medium: of b d a e, 1 and (1/2 + 2/3) / 2, over two; and of e d ..., (0/1 + 1/2) / 2.
    # P@5 is that at the last right photo: 2/3, 1/2.
    assert means["medium"] == pytest.approx([(19 / 24 + 1 / 4) / 2, 1 / 2, 7 / 12, 7 / 12], abs=1e-12)
    # hard: of b d e, 1; and 1/4 again.
    assert means["hard"] == pytest.approx([5 / 8, 1 / 2, 3 / 4, 3 / 4], abs=1e-12)
    # The same through the command line.
    run = folder / "run.jsonl"
    run.write_bytes(b"".join(encode_hits(one, "jsonl") for one in rankings))
    done = imgrank("eval", "--run", run, "--dataset", "roxford5k", "--data", folder, "--json", cwd=folder)
    assert done.returncode == 0, done.stderr.decode()
    for task, found in json.loads(done.stdout)["tasks"].items():
        assert [row["mean"] for row in found["measures"].values()] == pytest.approx(means[task])


def published(order: np.ndarray, right: list[int], junk: list[int]) -> float:
    """AP of one query: positions of right photos, each moved up by the junk before it, then trapezoids."""
    positions = [place for place, photo in enumerate(order) if photo in right]
    ranks = [place - sum(order[before] in junk for before in range(place)) for place in positions]
    area = 0.0
    for found, rank in enumerate(ranks):
        left = 1.0 if rank == 0 else found / rank
        area += (left + (found + 1) / (rank + 1)) / 2 * (1 / len(right))
    return area


def test_any_ranking_gives_what_the_published_evaluation_gives(tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    labels = rng.integers(0, 5, (12, 80))  # of 12 queries: easy, hard, junk, and twice nothing
    lists = [
        {name: np.flatnonzero(row == kind) for kind, name in enumerate(("easy", "hard", "junk"))} for row in labels
    ]
    content = {
        "imlist": [f"oxford_{number}" for number in range(80)],
        "qimlist": [f"query_{number}" for number in range(12)],
        "gnd": [{"bbx": np.array([0.0, 0, 9, 9]), **lists_of} for lists_of in lists],
    }
    data = read_dataset("roxford5k", write(tmp_path, content, protocol=4))
    orders = [rng.permutation(80) for _ in lists]
    assert data.database is not None
    rankings = [
        Ranking(query, tuple(Hit(query, r, r, data.database[p], -float(r), 0) for r, p in enumerate(order.tolist(), 1)))
        for query, order in zip(data.queries, orders, strict=True)
    ]
    rules = {
        "easy": (["easy"], ["junk", "hard"]),
        "medium": (["easy", "hard"], ["junk"]),
        "hard": (["hard"], ["junk", "easy"]),
    }
    for task in data.tasks:
        found = evaluate(rankings, task.qrels, ["revisited-AP"]).column("revisited-AP")
        right, junk = rules[task.name]
        expected = [
            published(order, [p for key in right for p in of[key]], [p for key in junk for p in of[key]])
            for order, of in zip(orders, lists, strict=True)
        ]
        np.testing.assert_allclose(found, expected, rtol=0, atol=1e-9)


def test_a_million_distractors_lie_beside(folder: Path) -> None:
    with pytest.raises(InputError, match=r"revisitop1m\.txt: there is no such file"):
        read_dataset("roxford5k", folder, "1m")
    beside = folder.parent / "revisitop1m"
    beside.mkdir()
    (beside / "revisitop1m.txt").write_text("0d3/x.jpg\n0d4/y.jpg\n")
    data = read_dataset("roxford5k", folder, "1m")
    assert data.database is not None
    assert data.database[5:] == (b"../revisitop1m/jpg/0d3/x.jpg", b"../revisitop1m/jpg/0d4/y.jpg")
    assert data.tasks[0].qrels == read_dataset("roxford5k", folder).tasks[0].qrels
    for text, message in (
        ("", "is empty"),
        ("x.jpg\nx.jpg\n", "twice"),
        ("../x.jpg\n", "no name"),
        ("x.tar.gz", "no name"),
    ):
        (beside / "revisitop1m.txt").write_text(text)
        with pytest.raises(InputError, match=message):
            read_dataset("roxford5k", folder, "1m")


@pytest.mark.parametrize("protocol", range(6))
def test_paris_and_every_protocol(tmp_path: Path, protocol: int) -> None:
    content = changed(imlist=[f"paris_defense_00000{number}" for number in range(5)], qimlist=["paris_x", "paris_y"])
    data = read_dataset("rparis6k", write(tmp_path, content, "gnd_rparis6k.pkl", protocol))
    assert data.title == "RParis6k"
    assert data.queries[0] == b"jpg/paris_x.jpg#xywh=136,34,512,922"
    assert data.tasks[2].qrels[data.queries[1]] == {b"jpg/paris_defense_000003.jpg": 1}


def test_the_matlab_file_and_one_of_python_2_say_the_same(folder: Path, tmp_path: Path) -> None:
    expected = read_dataset("roxford5k", folder)
    old = {
        key.encode(): [value.encode() for value in values]
        if key != "gnd"
        else [{k.encode(): v for k, v in row.items()} for row in values]
        for key, values in OXFORD.items()
    }
    rows = np.empty((1, 2), dtype=[(name, object) for name in ("bbx", "easy", "hard", "junk")])
    for place, row in enumerate(OXFORD["gnd"]):
        lists = (np.array([row[key]], dtype=np.float64).reshape(1, -1) + 1 for key in ("easy", "hard", "junk"))
        rows[0, place] = (np.array([row["bbx"]]), *lists)
    names = {key: np.array([OXFORD[key]], dtype=object) for key in ("imlist", "qimlist")}
    (tmp_path / "matlab").mkdir()
    scipy.io.savemat(tmp_path / "matlab" / "gnd_roxford5k.mat", {**names, "gnd": rows})
    for found in (read_dataset("roxford5k", write(folder, old)), read_dataset("roxford5k", tmp_path / "matlab")):
        assert found.database == expected.database
        assert [task.qrels for task in found.tasks] == [task.qrels for task in expected.tasks]


BAD = {
    "no dict": ["imlist"],
    "no queries": {"imlist": [], "gnd": []},
    "of INSTRE": changed(gnd=[{"bbx": [0, 0, 1, 1], "ok": [1]}] * 2),
    "a query less": changed(gnd=OXFORD["gnd"][:1]),
    "nothing": changed(gnd=[], qimlist=[]),
    "beyond": changed(gnd=[{**OXFORD["gnd"][0], "easy": [5]}, OXFORD["gnd"][1]]),
    "negative": changed(gnd=[{**OXFORD["gnd"][0], "easy": [-1]}, OXFORD["gnd"][1]]),
    "fraction": changed(gnd=[{**OXFORD["gnd"][0], "easy": [0.5]}, OXFORD["gnd"][1]]),
    "words": changed(gnd=[{**OXFORD["gnd"][0], "easy": ["a"]}, OXFORD["gnd"][1]]),
    "twice": changed(gnd=[{**OXFORD["gnd"][0], "easy": [1]}, OXFORD["gnd"][1]]),
    "ragged": changed(gnd=[{**OXFORD["gnd"][0], "easy": [[1], [1, 2]]}, OXFORD["gnd"][1]]),
    "three numbers": changed(gnd=[{**OXFORD["gnd"][0], "bbx": [1, 2, 3]}, OXFORD["gnd"][1]]),
    "not a number": changed(gnd=[{**OXFORD["gnd"][0], "bbx": [1, 2, 3, float("nan")]}, OXFORD["gnd"][1]]),
    "empty box": changed(gnd=[{**OXFORD["gnd"][0], "bbx": [5, 5, 5, 9]}, OXFORD["gnd"][1]]),
    "photo twice": changed(imlist=["a", "a", "c", "d", "e"]),
    "query twice": changed(qimlist=["q", "q"], gnd=[OXFORD["gnd"][0]] * 2),
    "outside": changed(imlist=["../../etc/passwd", "b", "c", "d", "e"]),
    "absolute": changed(qimlist=["/etc/passwd", "b"]),
    "number as a name": changed(imlist=[1, 2, 3, 4, 5]),
    "no list": changed(imlist=7),
    "of Paris": changed(imlist=["paris_a", "paris_b", "paris_c", "paris_d", "paris_e"]),
}


@pytest.mark.parametrize("content", BAD.values(), ids=BAD)
def test_other_and_damaged_files_are_named(tmp_path: Path, content: Any) -> None:
    with pytest.raises(InputError, match=r"gnd_roxford5k\.pkl is no ground truth of ROxford5k, or is damaged: "):
        read_dataset("roxford5k", write(tmp_path, content))


def test_oxford_given_as_paris_and_the_other_way_round(tmp_path: Path, folder: Path) -> None:
    (folder / "gnd_rparis6k.pkl").write_bytes((folder / "gnd_roxford5k.pkl").read_bytes())
    with pytest.raises(InputError, match="none of its photos is called paris_"):
        read_dataset("rparis6k", folder)
    with pytest.raises(InputError, match="that is --dataset rparis6k"):
        read_dataset("roxford5k", write(folder, BAD["of Paris"]))


class Harmful:
    def __reduce__(self):
        return print, ("ran",)


def test_missing_truncated_and_harmful_files(folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(InputError, match=r"gnd_roxford5k\.pkl: there is no such file; ROxford5k needs gnd_roxford5k"):
        read_dataset("roxford5k", tmp_path)
    with pytest.raises(InputError, match="there is no such folder"):
        read_dataset("roxford5k", tmp_path / "none")
    whole = (folder / "gnd_roxford5k.pkl").read_bytes()
    (folder / "gnd_roxford5k.pkl").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="is damaged, or no pickle, at byte"):
        read_dataset("roxford5k", folder)
    with pytest.raises(InputError, match=r"gnd_roxford5k\.pkl: it names (__builtin__|builtins)\.print"):
        read_dataset("roxford5k", write(folder, changed(gnd=Harmful())))
    assert capsys.readouterr().out == ""


def test_readers_say_what_they_follow() -> None:
    for name in ("roxford5k", "rparis6k", "instre", "gldv2", "holidays", "ukbench"):
        assert "et al." in reader(name).source or "and" in reader(name).source
        assert reader(name).layout
