"""Queries and selections through processes and pipes."""

import json
import os
from pathlib import Path

import pytest

QUERIES = ["queries/query-00.jpg", "queries/query-01.jpg"]
PART = "queries/query-00.jpg#xywh=10,20,150,160"


@pytest.mark.parametrize("query", [["--box", "10,20,150,160", QUERIES[0]], [*QUERIES, "--fuse", "max"], ["--id", 5]])
def test_the_second_stage_in_a_pipe_gives_the_same_bits(imgrank, collection: Path, query: list) -> None:
    at_once = imgrank("search", "db.h5", *query, "-q", "-k", 9, "--rerank", 6, cwd=collection)
    assert at_once.returncode == 0, at_once.stderr.decode()
    if query[0] == "--id":
        # The photo itself is not needed: its local features are in the bundle.
        (collection / json.loads(at_once.stdout.splitlines()[0])["query"]).unlink()
    hits = imgrank("search", "db.h5", *query, "-q", "-k", 9, cwd=collection).stdout
    piped = imgrank("rerank", "db.h5", "--top", 6, "-q", cwd=collection, input=hits)
    assert piped.stdout == at_once.stdout, piped.stderr.decode()


def test_parts_come_in_lists_and_streams(imgrank, collection: Path) -> None:
    def search(*arguments: object, **options) -> list[str]:
        run = imgrank("search", "db.h5", *arguments, "-k", 1, "--format", "tsv", cwd=collection, **options)
        assert run.returncode == 0, run.stderr.decode()
        return [line.split("\t")[0] for line in run.stdout.decode().splitlines()[1:]]

    assert search(PART, QUERIES[0], PART) == [PART, QUERIES[0], PART]
    assert search("-", input=f"{PART}\n{QUERIES[1]}\n".encode()) == [PART, QUERIES[1]]
    (collection / "list").write_text(f"{PART}\n")
    assert search("--files-from", "list") == [PART]


def test_rank_fusion_cannot_be_done_again(imgrank, collection: Path) -> None:
    hits = imgrank("search", "db.h5", *QUERIES, "--fuse", "rrf", "-q", cwd=collection).stdout
    run = imgrank("rerank", "db.h5", cwd=collection, input=hits)
    assert (run.returncode, run.stdout) == (5, b"")
    assert b"--fuse rrf --rerank K" in run.stderr


def test_nothing_above_a_threshold_is_exit_6(imgrank, collection: Path) -> None:
    run = imgrank("search", "db.h5", QUERIES[0], "--min-score", 2, "--exit-status", "-q", cwd=collection)
    assert (run.returncode, run.stdout, run.stderr) == (6, b"", b"")
    hits = imgrank("search", "db.h5", QUERIES[0], "-q", "-k", 4, cwd=collection).stdout
    run = imgrank("rerank", "db.h5", "--min-score", 2, "--exit-status", "-q", cwd=collection, input=hits)
    assert (run.returncode, run.stdout, run.stderr) == (6, b"", b"")


def test_probabilities_are_asked_of_a_scorer_that_has_some(imgrank, collection: Path) -> None:
    search = ["search", "db.h5", QUERIES[0], "--rerank", 3, "-q"]
    kept = imgrank(*search, "--scorer", "mllm", "--mllm", "builtin", "--min-probability", 0, cwd=collection)
    assert kept.returncode == 0, kept.stderr.decode()
    # Hits that nobody looked at have no probability.
    assert len(kept.stdout.splitlines()) == 3
    refused = imgrank(*search, "--min-probability", 0.5, cwd=collection)
    assert (refused.returncode, refused.stdout) == (2, b"")
    assert b"--min-score" in refused.stderr


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        ([*QUERIES, "--box", "1,2,3,4"], 2, "#xywh="),
        (["-", "--box", "1,2,3,4"], 2, "#xywh="),
        ([QUERIES[0], "--box", "1,2,3"], 2, "10,20,300,400"),
        ([QUERIES[0], "--box", "9999,2,3,4"], 5, "lies beside the photo"),
        (["queries/none.jpg#xywh=1,2,3,4"], 5, "no such file"),
        (["--id", "99"], 5, "no photo with id 99"),
        ([*QUERIES, "--fuse", "max", "--rerank", "5", "--top-only", "2"], 2, "--top-only"),
        ([], 5, "no photos given"),
    ],
)
def test_what_cannot_be_searched_is_said(imgrank, collection: Path, arguments, code, said) -> None:
    run = imgrank("search", "db.h5", *arguments, cwd=collection)
    assert (run.returncode, run.stdout) == (code, b"")
    assert said in run.stderr.decode()
    assert b"Traceback" not in run.stderr


def test_patterns_that_fit_nothing_are_said(imgrank, collection: Path) -> None:
    run = imgrank("search", "db.h5", QUERIES[0], "--filter", "potos/*", "--exit-status", cwd=collection)
    assert (run.returncode, run.stdout) == (6, b"")
    assert b"leave no photo to search" in run.stderr


def test_copies_and_patterns(imgrank, collection: Path) -> None:
    options = ["--collapse-at", 0.2, "--exclude", "photos/dist*", "--exclude-self", "-k", 15]
    run = imgrank("search", "db.h5", "photos/object-00-view-0.jpg", *options, cwd=collection)
    assert run.returncode == 0, run.stderr.decode()
    hits = [json.loads(line) for line in run.stdout.splitlines()]
    shown = [path for hit in hits for path in (hit["path"], *hit.get("collapsed", []))]
    objects = sorted(os.fsdecode(path) for path in (collection / "photos").iterdir() if path.name.startswith("object"))
    assert sorted(shown) == [f"photos/{Path(path).name}" for path in objects[1:]]
    assert any("collapsed" in hit for hit in hits)
