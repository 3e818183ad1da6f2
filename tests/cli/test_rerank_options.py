"""The options of the second stage, through processes and pipes."""

import json
import math
import os
import stat
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.tiny_mllms import save_tiny_mllm


def records(output: bytes) -> list[dict]:
    return [json.loads(line) for line in output.splitlines()]


def test_top_only_prints_the_first_hits_of_the_whole(imgrank, collection: Path):
    search = ["search", "db.h5", "queries/query-00.jpg", "-k", 20, "--rerank", 20, "--lambda", 0.95]
    whole = imgrank(*search, cwd=collection)
    few = imgrank(*search, "--top-only", 2, cwd=collection)
    assert few.returncode == 0, few.stderr.decode()
    assert records(few.stdout) == records(whole.stdout)[:2]
    assert b"not needed" in few.stderr


@pytest.mark.parametrize(
    "wrong",
    [
        ["--top-only", 3],
        ["--symmetric"],
        ["--rerank", 5, "--time-budget", "soon"],
        ["--rerank", 5, "--time-budget", "0"],
        ["--rerank", 5, "--top-only", 0],
        ["--rerank", 5, "--prompt-layout", "sideways"],
    ],
)
def test_wrong_use_is_a_usage_error(imgrank, collection: Path, wrong: list):
    run = imgrank("search", "db.h5", "queries/query-00.jpg", *wrong, cwd=collection)
    assert run.returncode == 2, run.stderr.decode()
    assert run.stdout == b""


def test_a_model_asked_in_every_way(imgrank, collection: Path):
    save_tiny_mllm(collection / "mllm", "qwen3_vl")
    (collection / "answers.txt").write_text("same: yes\ndifferent: no\n")
    cached = imgrank("cache-tokens", "db.h5", "--mllm", "mllm", "--longer-side", 128, "--keep", 8, cwd=collection)
    assert cached.returncode == 0, cached.stderr.decode()
    search = ["search", "db.h5", "queries/query-00.jpg", "-k", 6, "--rerank", 6, "--score-cache", "scores.sqlite"]
    run = imgrank(
        *search, "--prompt-layout", "instruction-first", "--answers", "answers.txt", "--symmetric", cwd=collection
    )
    assert run.returncode == 0, run.stderr.decode()
    assert all({"probability", "logit", "disagreement"} <= hit.keys() for hit in records(run.stdout))
    assert b"6 of 6 pairs scored" in run.stderr
    assert b"the two orders differ by" in run.stderr
    assert stat.S_IMODE((collection / "scores.sqlite").stat().st_mode) == 0o600
    (collection / "bad.txt").write_text("Which is nicer?")
    refused = imgrank(*search, "--prompt-file", "bad.txt", cwd=collection)
    assert refused.returncode == 2
    assert b"{query}" in refused.stderr
    assert b"{candidate}" in refused.stderr
    # Grades, by both commands.
    run = imgrank(*search, "--answers", "grades", cwd=collection)
    assert run.returncode == 0, run.stderr.decode()
    hits = records(run.stdout)
    assert b"6 of 6 pairs scored" in run.stderr
    assert all(0 < hit["probability"] < 1 and math.isfinite(hit["logit"]) for hit in hits)
    rerank = ["rerank", "db.h5", "--mllm", "mllm", "--answers", "grades", "--score-cache", "scores.sqlite"]
    again = imgrank(*rerank, cwd=collection, input=run.stdout)
    assert again.returncode == 0, again.stderr.decode()
    assert b"0 of 6 pairs scored" in again.stderr
    assert records(again.stdout) == hits
    # Several words are several tokens.
    (collection / "answers.txt").write_text("same: quite certainly\ndifferent: no\n")
    refused = imgrank(*search, "--answers", "answers.txt", cwd=collection)
    assert refused.returncode == 2
    assert b"must be one" in refused.stderr


def test_a_search_that_nobody_reads_ends_though_its_input_stays_open(collection: Path):
    process = subprocess.Popen(
        [sys.executable, "-m", "imgrank", "search", "db.h5", "-", "-k", "3", "--rerank", "3", "--format", "paths"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        cwd=collection,
    )
    try:
        process.stdin.write(b"queries/query-00.jpg\n")
        process.stdin.flush()
        assert process.stdout.readline()  # answered while the input is open
        process.stdout.close()
        process.stdin.write(b"queries/query-01.jpg\n")
        process.stdin.flush()
        deadline = time.monotonic() + 60
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.05)
        assert process.poll() == 0
        assert os.fsdecode(process.stderr.read()).count("Fatal") == 0
    finally:
        process.kill()
        process.wait()
