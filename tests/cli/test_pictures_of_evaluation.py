"""`compare --html` and `study qualitative` through the command line."""

import csv
import json
import re
import shutil
from pathlib import Path

import pytest

from tests.pages import Parsed

QUERIES = ["queries/query-00.jpg", "queries/query-01.jpg"]
HOSTILE = "<img src=x onerror=alert(1)>.jpg"


def record(query: str, rank: int, path: str) -> str:
    fields = {"schema_version": 1, "query": query, "rank": rank, "id": rank, "path": path}
    return json.dumps({**fields, "score": 1 / rank, "similarity": 0.5}) + "\n"


def alts(page: Path) -> list[str]:
    return [image["alt"] for image in Parsed(page.read_text()).all("img")]


@pytest.fixture
def runs(collection: Path) -> Path:
    """Two hand-made runs of three queries: `a` is right at once for one of them, `b` for the other two."""
    photos = [f"photos/object-0{n}-view-0.jpg" for n in range(5)]
    shutil.copy(collection / photos[0], collection / HOSTILE)
    (collection / "empty.jpg").touch()
    part = f"{QUERIES[1]}#xywh=10,10,80,80"
    shown = {
        "a.jsonl": {QUERIES[0]: [photos[4], "empty.jpg", photos[0]], part: [photos[1]], HOSTILE: [photos[2], HOSTILE]},
        "b.jsonl": {QUERIES[0]: [photos[0], photos[4]], part: [photos[3], "gone.jpg", photos[1]], HOSTILE: [HOSTILE]},
    }
    for name, queries in shown.items():
        lines = [record(query, n, path) for query, paths in queries.items() for n, path in enumerate(paths, 1)]
        (collection / name).write_text("".join(lines))
    judged = [(QUERIES[0], photos[0], 1), (QUERIES[0], photos[4], -1), (part, photos[1], 1), (HOSTILE, HOSTILE, 1)]
    judged += [(HOSTILE, "not found.jpg", 2)]
    (collection / "judged.tsv").write_text("".join(f"{q}\t0\t{photo}\t{grade}\n" for q, photo, grade in judged))
    return collection


def test_queries_that_moved_stand_on_the_page_with_their_photos(imgrank, runs: Path) -> None:
    options = ["--qrels", "judged.tsv", "--measure", "AP"]
    plain = imgrank("compare", "a.jsonl", "b.jsonl", *options, cwd=runs)
    run = imgrank("compare", "a.jsonl", "b.jsonl", *options, "--html", "moved.html", cwd=runs)
    assert run.returncode == 0, run.stderr.decode()
    assert run.stdout == plain.stdout
    assert b"moved.html: 2 pictures cannot be shown: " in run.stderr
    assert b"1 missing" in run.stderr
    # The part: 1 -> 1/3. The first: 1/2 -> 1, since junk is out. The hostile name: (1/2) / 2 -> 1 / 2.
    parsed = Parsed((runs / "moved.html").read_text())
    assert (parsed.open, parsed.wrong) == ([], [])
    text = "".join(parsed.texts)
    moves = ["AP 1.0000 → 0.3333 -0.6667", "AP 0.5000 → 1.0000 +0.5000", "AP 0.2500 → 0.5000 +0.2500"]
    assert [text.index(move) for move in moves] == sorted(text.index(move) for move in moves)
    part = f"{QUERIES[1]}#xywh=10,10,80,80"
    assert [image["alt"] for image in parsed.all("img")] == [
        *(f"Query: {QUERIES[1]}", f"Query: {part}"),
        "Rank 1, right: photos/object-01-view-0.jpg",
        *("Rank 1, wrong: photos/object-03-view-0.jpg", "Rank 3, right: photos/object-01-view-0.jpg"),
        *(f"Query: {QUERIES[0]}", "Not ranked, junk: photos/object-04-view-0.jpg"),
        "Rank 2, right: photos/object-00-view-0.jpg",
        *("Rank 1, right: photos/object-00-view-0.jpg", "Not ranked, junk: photos/object-04-view-0.jpg"),
        *(f"Query: {HOSTILE}", "Rank 1, wrong: photos/object-02-view-0.jpg", f"Rank 2, right: {HOSTILE}"),
        f"Rank 1, right: {HOSTILE}",
    ]
    assert re.search(r"no picture \(missing\)[^(]*gone\.jpg", text)
    assert re.search(r"no picture \(not-an-image\)[^(]*empty\.jpg", text)
    assert "right at rank 2; 1 not found" in text


def test_few_queries_and_photos_where_that_is_asked_for(imgrank, runs: Path) -> None:
    options = ["--qrels", "judged.tsv", "--measure", "AP", "--html", "moved.html", "--top", 2, "--photos", 1, "--json"]
    run = imgrank("compare", "a.jsonl", "b.jsonl", *options, cwd=runs)
    assert run.returncode == 0
    json.loads(run.stdout)
    assert len(alts(runs / "moved.html")) == 2 + 2 + 1 + 2
    same = imgrank("compare", "a.jsonl", "a.jsonl", *options, cwd=runs)
    assert same.returncode == 0
    assert "No query moved." in (runs / "moved.html").read_text()


def test_names_below_a_root_and_names_that_fit_by_their_last_part(imgrank, collection: Path) -> None:
    for name, best, folder in (("a.trec", 1, ""), ("b.trec", 0, "photos/")):
        photos = [f"{folder}object-0{n}-view-0.jpg" for n in (best, 2, 3)]
        query = "queries/query-00.jpg" if folder else "query-00.jpg"
        lines = (f"{query} Q0 {photo} {n} {1 / n} x\n" for n, photo in enumerate(photos, 1))
        (collection / name).write_text("".join(lines))
    command = ["compare", "a.trec", "b.trec", "--qrels", "qrels.tsv", "--measure", "AP", "--html", "moved.html"]
    run = imgrank(*command, "--root", "photos", "--root", "queries", cwd=collection)
    assert run.returncode == 0
    assert b"pictures" not in run.stderr
    assert len(alts(collection / "moved.html")) == 1 + 3 + 3
    run = imgrank(*command, cwd=collection)
    assert b"4 pictures cannot be shown: 4 missing; give --root" in run.stderr
    assert alts(collection / "moved.html")[-1] == "Rank 3, wrong: photos/object-03-view-0.jpg"


def test_what_cannot_be_shown_is_said_before_a_page_is_written(imgrank, runs: Path) -> None:
    (runs / "foreign.tsv").write_text("x.jpg\ty.jpg\n")
    (runs / "moved.html").write_text("old")
    compare = ["compare", "a.jsonl", "b.jsonl"]
    for arguments, code, said in [
        ([*compare, "--qrels", "foreign.tsv", "--html", "moved.html"], 5, b"are they of the same data set?"),
        ([*compare, "--qrels", "judged.tsv", "--html", "moved.txt"], 2, b"must end in .html"),
        ([*compare, "--qrels", "judged.tsv", "--root", "photos"], 2, b"give --html FILE"),
    ]:
        run = imgrank(*arguments, cwd=runs)
        assert (run.returncode, run.stdout) == (code, b""), arguments
        assert said in run.stderr
    assert (runs / "moved.html").read_text() == "old"


@pytest.fixture
def judged(collection: Path) -> Path:
    lines = [line.split("\t") for line in (collection / "qrels.tsv").read_text().splitlines()]
    rows = (f"{query}\t0\tphotos/{photo}\t{grade}\n" for query, _, photo, grade in lines)
    (collection / "full.tsv").write_text("".join(rows))
    return collection


def test_pairs_of_two_methods_as_table_and_page(imgrank, judged: Path) -> None:
    study = ["study", "qualitative", "db.h5", "--qrels", "full.tsv", "--queries", "queries", "-o", "out"]
    methods = ["--method", "none", "--method", "geometric lambda=0"]
    run = imgrank(*study, *methods, "--pairs", 3, "--rerank", 20, cwd=judged)
    assert run.returncode == 0, run.stderr.decode()
    assert run.stdout.split() == [b"out/qualitative.csv", b"out/qualitative.json", b"out/qualitative.html"]
    with (judged / "out" / "qualitative.csv").open(newline="") as file:
        rows = list(csv.DictReader(file))
    right = [row for row in rows if int(row["relevance"]) > 0]
    assert len(right) == len((judged / "full.tsv").read_text().splitlines())
    lists = []
    for some in (right, [row for row in rows if int(row["relevance"]) <= 0]):
        for sign in (1, -1):
            moved = [row for row in some if sign * float(row["gain"]) > 0]
            lists.append(sorted((abs(float(row["gain"])) for row in moved), reverse=True)[:3])
    page = judged / "out" / "qualitative.html"
    parsed = Parsed(page.read_text())
    changes = [abs(float(text)) for text in parsed.texts if re.fullmatch(r"[+-]\d\.\d{3}", text)]
    assert changes == pytest.approx([gain for some in lists for gain in some], abs=6e-4)
    assert len(lists[2]) == 3
    assert len(alts(page)) == 2 * len(changes)
    facts = json.loads((judged / "out" / "qualitative.json").read_text())
    assert facts["settings"]["pairs"] == 3
    assert [method["method"] for method in facts["settings"]["methods"]] == ["none", "geometric lambda=0"]
    again = imgrank(*study, *methods, cwd=judged)
    assert (again.returncode, again.stdout) == (2, b"")
    assert b"--force" in again.stderr


def test_photos_that_are_gone_are_counted(imgrank, judged: Path) -> None:
    shutil.rmtree(judged / "photos")
    study = ["study", "qualitative", "db.h5", "--qrels", "full.tsv", "--queries", "queries", "-o", "out"]
    run = imgrank(*study, "--method", "none", "--method", "geometric lambda=0", "--pairs", 2, cwd=judged)
    assert run.returncode == 0, run.stderr.decode()
    page = (judged / "out" / "qualitative.html").read_text()
    gone = page.count("no picture (missing)")
    assert gone > 0
    assert f"{gone} pictures of the page cannot be shown: {gone} missing".encode() in run.stderr


@pytest.mark.parametrize(
    ("more", "code", "said"),
    [
        (["--method", "none"], 2, b"give --method twice"),
        (["--method", "none", "--method", "none"], 2, b"two methods are called"),
        (["--pairs", "0"], 2, b"--pairs"),
    ],
)
def test_methods_that_cannot_be_compared_are_refused(imgrank, judged: Path, more, code, said) -> None:
    study = ["study", "qualitative", "db.h5", "--qrels", "full.tsv", "--queries", "queries", "-o", "out"]
    run = imgrank(*study, *more, cwd=judged)
    assert (run.returncode, run.stdout) == (code, b"")
    assert said in run.stderr
