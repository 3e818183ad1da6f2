"""`study groups`: quality by groups of relevant photos, against groups and precisions that are made by hand."""

import csv
import json
import os
from pathlib import Path

import pytest
from PIL import Image

from imgrank.evaluation.datasets.base import Dataset, Task
from imgrank.results import Hit, Ranking
from imgrank.steps.studies.groups import _measured, cut, restricted

Q = b"q.jpg"


def pairs(values: list[float]) -> dict[tuple[bytes, bytes], float]:
    return {(Q, b"%d" % place): value for place, value in enumerate(values)}


def numbers(values: list[float], count: int) -> list[list[float]]:
    held = pairs(values)
    return [sorted(held[pair] for pair in group.pairs) for group in cut(held, count)]


def test_groups_are_equal() -> None:
    assert numbers([8, 1, 7, 2, 6, 3, 5, 4], 4) == [[1, 2], [3, 4], [5, 6], [7, 8]]
    # Ten are cut at 2.5, 5 and 7.5; of two places that are as near, the lower one.
    assert numbers(list(range(10)), 4) == [[0, 1], [2, 3, 4], [5, 6], [7, 8, 9]]
    (first, second) = cut(pairs([0.1, 0.4, 0.2, 0.3]), 2)
    assert (first.low, first.high, second.low, second.high) == (0.1, 0.2, 0.3, 0.4)


def test_equal_values_stay_together() -> None:
    assert numbers([1, 1, 1, 2, 3, 4, 5, 5], 4) == [[1, 1, 1], [2], [3, 4], [5, 5]]
    assert numbers([1, 1, 1, 1, 1, 2], 4) == [[1, 1, 1, 1, 1], [2]]
    assert numbers([3, 3, 3], 4) == [[3, 3, 3]]


def test_fewer_photos_than_groups_are_groups_of_one() -> None:
    assert numbers([2, 1], 4) == [[1], [2]]
    assert numbers([2], 4) == [[2]]


def test_relevant_photos_of_other_groups_are_taken_out() -> None:
    qrels = {Q: {b"a": 1, b"b": 1, b"c": 2, b"wrong": 0, b"junk": -1}, b"r.jpg": {b"a": 1}}
    other = {Q: {b"c": 1}}
    data = Dataset("t", Path(), "trec", None, (Task("one", qrels), Task("two", other)))
    names = [b"junk", b"a", b"wrong", b"b", b"unknown", b"c"]
    hits = tuple(Hit(Q, rank, rank, name, 1 / rank, 1 / rank) for rank, name in enumerate(names, 1))
    rankings = [Ranking(Q, hits), Ranking(b"r.jpg", ())]

    def measured(*kept: bytes) -> dict[str, tuple[float, int, int]]:
        rows = _measured(rankings, restricted(data, frozenset((Q, name) for name in kept)), ["AP"])
        return {row["task"]: (row["mean"], row["queries"], row["positives"]) for row in rows}

    # Of b alone: wrong, b, unknown. The second query has no photo of the group and is left out, and so is task two.
    assert measured(b"b") == {"one": (1 / 2, 1, 1)}
    # Of a and c: a, wrong, unknown, c in task one; in task two only c is judged, and a and b are wrong.
    assert measured(b"a", b"c") == {
        "one": (pytest.approx((1 / 1 + 2 / 4) / 2), 1, 2),
        "two": (pytest.approx(1 / 6), 1, 1),
    }


@pytest.fixture
def run(imgrank, collection: Path):
    lines = (collection / "qrels.tsv").read_text().splitlines()
    judged = [(line.split("\t")[0], f"photos/{line.split(chr(9))[2]}") for line in lines]
    (collection / "full.tsv").write_text("".join(f"{query}\t{photo}\n" for query, photo in judged))

    def of(*arguments, code: int = 0) -> str:
        options = ["--qrels", "full.tsv", "--queries", "queries", "-o", "out", "--plot-format", "none", "--force"]
        done = imgrank("study", "groups", "db.h5", *options, "--measure", "AP", *arguments, cwd=collection)
        assert done.returncode == code, done.stderr.decode()
        assert b"Traceback" not in done.stderr
        return done.stderr.decode()

    return of


def table(folder: Path) -> list[dict[str, str]]:
    with (folder / "out" / "groups.csv").open() as file:
        return list(csv.DictReader(file))


def test_groups_by_a_file_equal_rankings_that_are_cut_by_hand(run, imgrank, collection: Path) -> None:
    # The views of each object, from the first to the last, get harder.
    views = sorted((collection / "photos").glob("object-0[01]*"))
    (collection / "v.tsv").write_text("".join(f"photos/{path.name}\t{path.stem[-1]}\n" for path in views))
    run("--by", "hardness", "--values", "v.tsv", "--groups", 3, "--method", "none", "--method", "geometric")
    for method, more in {"none": [], "geometric": ["--rerank", 50, "--scorer", "geometric"]}.items():
        rows = [row for row in table(collection) if row["method"] == method]
        assert [(row["group"], row["from"], row["to"], row["positives"], row["queries"]) for row in rows] == [
            ("all", "0.0", "2.0", "6", "2"),
            *((str(group), f"{group - 1}.0", f"{group - 1}.0", "2", "2") for group in (1, 2, 3)),
        ]
        precisions: dict[str, list[float]] = {"0": [], "1": [], "2": []}
        plain = []
        queries = ["queries/query-00.jpg", "queries/query-01.jpg"]
        hits = [
            json.loads(line)
            for line in imgrank("search", "db.h5", *queries, "-k", 50, *more, cwd=collection).stdout.splitlines()
        ]
        for number, query in enumerate(queries):
            found = [Path(hit["path"]).stem for hit in hits if hit["query"] == query]
            wrong = [not name.startswith(f"object-0{number}-") for name in found]
            right = [place for place, other in enumerate(wrong) if not other]
            plain.append(sum((number + 1) / (place + 1) for number, place in enumerate(right)) / 3)
            for view, values in precisions.items():  # one is right, the others of its object are out
                place = found.index(f"object-0{number}-view-{view}")
                values.append(1 / (1 + sum(wrong[:place])))
        assert [float(row["mean"]) for row in rows[1:]] == pytest.approx([sum(p) / 2 for p in precisions.values()])
        assert float(rows[0]["mean"]) == pytest.approx(sum(plain) / 2)


def test_scale_by_boxes_and_by_matches(run, collection: Path) -> None:
    views = sorted((collection / "photos").glob("object-00*"))
    lines, shares = [], []
    for number, path in enumerate(views, 1):
        with Image.open(path) as photo:
            width, height = photo.size
        lines.append(f"photos/{path.name}\t0\t0\t{width // 4 * number}\t{height}\n")
        shares.append(width // 4 * number / width)
    (collection / "b.tsv").write_text("".join(lines))
    run("--boxes", "b.tsv", "--groups", 3, "--method", "none")
    assert [float(row["from"]) for row in table(collection)[1:]] == pytest.approx(shares)
    report = json.loads((collection / "out" / "groups.json").read_text())
    assert report["settings"]["sizes"] == [1, 1, 1]
    assert report["notes"] == ["3 of 6 relevant photos have no scale from boxes and are in no group."]

    said = run("--by", "clutter", "--method", "none", "--groups", 2)
    report = json.loads((collection / "out" / "groups.json").read_text())
    assert report["settings"]["values_from"] == "matches of local features"
    assert "favours" in report["notes"][0]
    assert report["notes"][0] in said
    assert all(0 <= bound <= 1 for bounds in report["settings"]["bounds"] for bound in bounds)
    assert report["rows"][0]["group"] == "all"


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--by", "colour"], 2, "but scale, clutter"),
        (["--by", "clutter", "--boxes", "b.tsv"], 2, "--by scale"),
        (["--boxes", "b.tsv"], 5, "line 1: the box 0,0,9999,10 reaches out of photos/object-00-view-0.jpg"),
        (["--values", "bad.tsv"], 5, "none of its 1 lines is of a relevant photo"),
    ],
)
def test_what_gives_no_groups_is_said(run, collection: Path, arguments, code, said) -> None:
    (collection / "b.tsv").write_text("photos/object-00-view-0.jpg\t0\t0\t9999\t10\n")
    (collection / "bad.tsv").write_text("object-00-view-0.jpg\t1\n")
    assert said in run(*arguments, "--method", "none", code=code)
    assert not os.path.lexists(collection / "out" / "groups.csv")
