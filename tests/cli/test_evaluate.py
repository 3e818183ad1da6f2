"""`imgrank eval` and `compare` through the command line."""

import json
from pathlib import Path

import pytest

QUERIES = ["queries/query-00.jpg", "queries/query-01.jpg"]


@pytest.fixture
def run(imgrank, collection: Path):
    def of(*arguments, code: int = 0, cwd: Path = collection, **options) -> bytes:
        done = imgrank(*arguments, cwd=cwd, **options)
        assert done.returncode == code, done.stderr.decode()
        assert b"Traceback" not in done.stderr
        return done.stdout if code == 0 else done.stderr

    return of


def precision_by_hand(lines: bytes, qrels: str) -> list[float]:
    """AP of each query, by a loop over the lines."""
    positives: dict[str, set[str]] = {}
    for line in qrels.splitlines():
        query, _, photo, grade = line.split("\t")
        if int(grade) > 0:
            positives.setdefault(query, set()).add(photo)
    ranked: dict[str, list[str]] = {}
    for hit in map(json.loads, lines.splitlines()):
        ranked.setdefault(Path(hit["query"]).name, []).append(Path(hit["path"]).name)
    values = []
    for query, right in positives.items():
        found, total = 0, 0.0
        for rank, name in enumerate(ranked[query], 1):
            if name in right:
                found += 1
                total += found / rank
        values.append(total / len(right))
    return values


def test_a_run_and_a_bundle_give_the_same_numbers(run, collection: Path) -> None:
    lines = run("search", "db.h5", *QUERIES, "-k", 20, "--rerank", 6)
    (collection / "run.jsonl").write_bytes(lines)
    expected = precision_by_hand(lines, (collection / "qrels.tsv").read_text())
    table = run("eval", "--run", "run.jsonl", "--qrels", "qrels.tsv", "--measure", "AP", "--per-query").decode()
    rows = [line.split("\t") for line in table.splitlines()]
    assert rows[0] == ["query", "AP"]
    assert [float(row[1]) for row in rows[1:]] == pytest.approx(expected)
    trec = run("search", "db.h5", *QUERIES, "-k", 20, "--rerank", 6, "--format", "trec")
    options = ["--qrels", "qrels.tsv", "--json", "--per-query"]
    of_trec = json.loads(run("eval", "--run", "-", *options, input=trec))
    (collection / "full.tsv").write_text(
        "".join(
            f"{query}\t0\tphotos/{photo}\t{grade}\n"
            for query, _, photo, grade in (
                line.split("\t") for line in (collection / "qrels.tsv").read_text().splitlines()
            )
        )
    )
    search = ["--queries", "queries", "-k", 20, "--rerank", 6, "--save-run", "saved.jsonl"]
    of_bundle = json.loads(run("eval", "db.h5", *search, "--qrels", "full.tsv", "--json", "--per-query"))
    assert of_bundle["per_query"] == of_trec["per_query"]
    assert of_trec["measures"]["AP"]["mean"] == pytest.approx(sum(expected) / len(expected))
    again = json.loads(run("eval", "--run", "saved.jsonl", "--qrels", "full.tsv", "--json", "--per-query"))
    assert again["per_query"] == of_bundle["per_query"]


def test_photos_of_the_bundle_are_not_found_themselves(run, collection: Path) -> None:
    names = sorted(f"photos/{path.name}" for path in (collection / "photos").glob("object-0[01]*"))
    pairs = [(a, b) for a in names for b in names if a != b and a[:16] == b[:16]]
    (collection / "own.tsv").write_text("".join(f"{a}\t{b}\n" for a, b in pairs))
    report = json.loads(run("eval", "db.h5", "--qrels", "own.tsv", "--json", "--measure", "AP", "--measure", "P@1"))
    hits = run("search", "db.h5", *names)
    piped = json.loads(
        run("eval", "--run", "-", "--qrels", "own.tsv", "--json", "--measure", "AP", "--measure", "P@1", input=hits)
    )
    assert report["measures"] == piped["measures"]
    assert report["queries"] == len(names)


def test_two_runs(run, collection: Path) -> None:
    for name, more in {"a": [], "b": ["--rerank", 20]}.items():
        (collection / f"{name}.jsonl").write_bytes(run("search", "db.h5", *QUERIES, *more))
    report = json.loads(run("compare", "a.jsonl", "b.jsonl", "--qrels", "qrels.tsv", "--json"))
    for row in report["measures"]:
        assert row["difference"] == pytest.approx(row["second"] - row["first"])
        assert row["low"] <= row["difference"] <= row["high"]
        assert 0 < row["p"] <= 1
    shown = run("compare", "a.jsonl", "a.jsonl", "--qrels", "qrels.tsv").decode()
    assert "p 1.0000" in shown
    assert "query-0" not in shown  # nothing moved


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (["--qrels", "qrels.tsv"], 2, "one of them"),
        (["db.h5", "--run", "-", "--qrels", "qrels.tsv"], 2, "one of them"),
        (["--run", "-", "--qrels", "qrels.tsv", "--measure", "MAP"], 2, "there are AP"),
        (["--run", "-", "--qrels", "qrels.tsv"], 5, "no ranking"),
        (["db.h5", "--qrels", "qrels.tsv", "--save-run", "db.h5"], 2, ".jsonl"),
        (["db.h5", "--qrels", "qrels.tsv", "--save-run", "nowhere/run.jsonl"], 2, "folder does not exist"),
        (["db.h5", "--qrels", "foreign.tsv"], 5, "none of the judged photos"),
        (["db.h5", "--qrels", "foreign.tsv", "--queries", "queries"], 5, "none of the judged photos"),
        (["--run", "-", "--qrels", "empty.tsv"], 5, "no relevance judgements"),
    ],
)
def test_what_cannot_be_measured_is_said(run, collection: Path, arguments, code, said) -> None:
    (collection / "foreign.tsv").write_text("a.jpg\tb.jpg\n")
    (collection / "empty.tsv").write_text("\n")
    assert said in run("eval", *arguments, code=code).decode()


def test_what_is_left_out_is_said(imgrank, collection: Path) -> None:
    hits = imgrank("search", "db.h5", QUERIES[0], cwd=collection).stdout
    (collection / "some.tsv").write_text(
        "query-00.jpg\t0\tobject-00-view-0.jpg\t1\nquery-01.jpg\t0\tobject-01-view-0.jpg\t1\nnone.jpg\t0\tx.jpg\t0\n"
    )
    run = imgrank("eval", "--run", "-", "--qrels", "some.tsv", "--measure", "AP", cwd=collection, input=hits)
    assert run.returncode == 0
    said = run.stderr.decode()
    assert "1 judged queries have no ranking and count as 0: query-01.jpg" in said
    assert "1 judged queries have no relevant photo and are left out: none.jpg" in said
    assert "by what follows the last /" in said
    assert run.stdout.split()[:2] == [b"AP", b"0.5000"]
    twice = imgrank("eval", "--run", "-", "--qrels", "some.tsv", cwd=collection, input=hits + hits.splitlines()[0])
    assert (twice.returncode, twice.stdout) == (5, b"")
    assert b"same photo twice" in twice.stderr


def test_a_saved_run_names_all_photos_in_the_way_of_the_judgements(run, collection: Path) -> None:
    names = sorted(path.name for path in (collection / "photos").glob("object-0[01]*"))
    for file, folder in (("stored.tsv", "photos/"), ("opens.tsv", "./photos/")):
        (collection / file).write_text(f"{folder}{names[0]}\t{folder}{names[1]}\n")
        run("eval", "db.h5", "--qrels", file, "--save-run", "saved.jsonl")
        hits = [json.loads(line) for line in (collection / "saved.jsonl").read_text().splitlines()]
        others = {hit["path"] for hit in hits} - {f"{folder}{names[1]}"}
        assert len(others) > 10
        assert all(path.startswith("photos/") for path in others)
    far = collection / "far"
    far.mkdir()
    # From elsewhere, a stored path does not open; the judgements have them, so the whole run does.
    hits_of = run("eval", "../db.h5", "--qrels", "../stored.tsv", "--save-run", "saved.jsonl", cwd=far)
    assert hits_of
    assert all(
        json.loads(line)["path"].startswith("photos/") for line in (far / "saved.jsonl").read_text().splitlines()
    )


def test_a_photo_that_is_called_as_a_query_of_another_folder_counts(run, collection: Path) -> None:
    query = collection / "queries" / "query-00.jpg"
    photos = sorted(path.name for path in (collection / "photos").glob("*.jpg"))
    (collection / "alike").mkdir()
    (collection / "alike" / "photos").mkdir()
    (collection / "alike" / "photos" / photos[0]).write_bytes(query.read_bytes())
    (collection / "alike.tsv").write_text(f"photos/{photos[0]}\tphotos/{photos[1]}\n")
    run("eval", "db.h5", "--qrels", "alike.tsv", "--queries", "alike", "-k", 100, "--save-run", "alike.jsonl")
    lines = (collection / "alike.jsonl").read_text().splitlines()
    paths = [json.loads(line)["path"] for line in lines]
    assert {Path(path).name for path in paths} == set(photos)
    assert f"photos/{photos[0]}" not in paths  # else it would be taken for the query, and out of the ranking
