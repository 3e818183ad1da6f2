"""`imgrank explain` as a process."""

import json
import os
import shutil
from pathlib import Path

import pytest

QUERY = "queries/query-00.jpg"


def test_numbers_are_those_of_search(imgrank, collection: Path) -> None:
    options = ["--scorer", "maxsim", "--lambda", 0.3, "-q"]
    search = imgrank("search", "db.h5", QUERY, "--exact", "--rerank", 4, "-k", 4, *options, cwd=collection)
    assert search.returncode == 0, search.stderr.decode()
    record = json.loads(search.stdout.splitlines()[1])
    run = imgrank("explain", "db.h5", QUERY, record["path"], "--top", 4, *options, "-o", "why.png", cwd=collection)
    assert run.returncode == 0, run.stderr.decode()
    assert run.stderr == b""
    (line,) = run.stdout.splitlines()
    found = json.loads(line)
    assert {key: found[key] for key in record} == record
    assert found["pair"]["score"] == record["score"]
    assert (collection / "why.png").stat().st_size > 1000


def test_a_name_that_is_html_and_a_name_that_is_no_text(imgrank, collection: Path) -> None:
    query = os.fsencode(collection) + b"/<img src=x>\xff\n.jpg"
    shutil.copy(collection / QUERY, os.fsdecode(query))
    run = imgrank("explain", "db.h5", query, 2, "-q", "-o", "why.html", cwd=collection)
    assert run.returncode == 0, run.stderr.decode()
    assert os.fsencode(json.loads(run.stdout)["query"]) == query
    page = (collection / "why.html").read_text()
    assert page.count("<img ") == 1
    assert "&lt;img src=x&gt;\\xff\\n.jpg" in page


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([QUERY, "photos/object-00-view-99.jpg"], 5, "did you mean photos/object-00-view-"),
        ([QUERY, "999"], 5, "no photo with id 999"),
        (["999", "1"], 5, "no photo with id 999"),
        (["1", "1"], 5, "is the query itself"),
        (["queries/none.jpg", "1"], 5, "no such file"),
        ([QUERY + "#xywh=9999,0,5,5", "1"], 5, "lies beside the photo"),
        ([QUERY, "1", "-o", "why.jpg"], 2, ".png or .html"),
        ([QUERY, "1", "-o", "db.h5"], 2, ".png or .html"),
        ([QUERY, "1", "--layers", "2-3"], 2, "--by attention"),
        ([QUERY, "1", "--by", "attention", "--layers", "x"], 2, "such as 3-8"),
        ([QUERY, "1", "--by", "attention"], 2, "--scorer mllm"),
        ([QUERY, "1", "--top-only", "3"], 2, "--top-only"),
        ([QUERY], 2, "HIT"),
    ],
)
def test_what_cannot_be_explained_is_said(imgrank, collection: Path, arguments, code, said) -> None:
    run = imgrank("explain", "db.h5", *arguments, "-q", cwd=collection)
    assert (run.returncode, run.stdout) == (code, b"")
    assert said in run.stderr.decode()
    assert b"Traceback" not in run.stderr


def test_a_person_sees_a_table(collection: Path, capsys, monkeypatch) -> None:
    from imgrank.cli.explain import _print_table

    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setenv("COLUMNS", "60")
    _print_table([("score", "0.5000"), ("path", "[red]x" + "y" * 100)], ["gone"])
    lines = capsys.readouterr().out.splitlines()
    assert lines[0].split() == ["score", "0.5000"]
    assert "[red]" in lines[1]  # no markup
    assert lines[-1].split() == ["note", "gone"]
