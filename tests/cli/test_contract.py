"""The contract with the shell: what goes to stdout, what to stderr, and with which code a command ends."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from functools import partial
from pathlib import Path

import pytest
from PIL import Image

from tests.terminal import in_terminal


@pytest.fixture(scope="module")
def imgrank(imgrank):
    """The command as users start it; other tests fork it."""
    return partial(imgrank, new_interpreter=True)


QUERIES = ["queries/query-00.jpg", "queries/query-01.jpg"]


def records(output: bytes) -> list[dict]:
    return [json.loads(line) for line in output.splitlines()]


def test_help_is_fast_and_loads_no_model_library() -> None:
    code = (
        "import sys, imgrank.cli as c\n"
        "try:\n    c.cli.main(['--help'])\nexcept SystemExit:\n    pass\n"
        "print(*{'torch', 'transformers', 'h5py', 'hnswlib', 'cv2', 'numpy', 'rich', 'tqdm'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == ""


@pytest.mark.parametrize(
    "command",
    [
        "embed",
        "index",
        "cache-tokens",
        "search",
        "rerank",
        "fuse",
        "group",
        "dedup",
        "info",
        "demo",
        "import",
        "export",
    ],
)
def test_every_command_has_help_with_an_example(imgrank, command: str) -> None:
    run = imgrank(command, "--help")
    assert run.returncode == 0
    assert b"Example:\n      imgrank " in run.stdout or b"| imgrank" in run.stdout
    assert run.stderr == b""


def test_a_misspelt_command_names_the_nearest(imgrank) -> None:
    run = imgrank("serch")
    assert run.returncode == 2
    assert b"Did you mean search" in run.stderr
    assert run.stdout == b""


def test_search_writes_one_json_record_for_each_hit(imgrank, collection: Path) -> None:
    run = imgrank("search", "db.h5", *QUERIES, "-k", 3, cwd=collection)
    assert run.returncode == 0, run.stderr.decode()
    hits = records(run.stdout)
    assert [(hit["query"], hit["rank"]) for hit in hits] == [(q, r) for q in QUERIES for r in (1, 2, 3)]
    for hit in hits:
        assert list(hit) == ["schema_version", "query", "rank", "id", "path", "score", "similarity"]
        assert (collection / hit["path"]).is_file()
        assert hit["score"] == hit["similarity"]
    assert b"" == run.stderr


def test_search_finds_the_photos_of_the_object(imgrank, collection: Path) -> None:
    run = imgrank("search", "db.h5", "queries", "-k", 1, "--rerank", 10, cwd=collection)
    best = {(Path(hit["query"]).name, Path(hit["path"]).name) for hit in records(run.stdout)}
    qrels = {tuple(line.split("\t")[::2]) for line in (collection / "qrels.tsv").read_text().splitlines()}
    assert len(best) == 2
    assert best <= qrels


def test_reranked_records_say_by_what(imgrank, collection: Path) -> None:
    run = imgrank("search", "db.h5", "queries/query-00.jpg", "-k", 8, "--rerank", 3, "--lambda", 0.25, cwd=collection)
    hits = records(run.stdout)
    assert [hit.get("scorer") for hit in hits] == ["geometric"] * 3 + [None] * 5
    assert [hit["score"] for hit in hits] == sorted((hit["score"] for hit in hits), reverse=True)
    for hit in hits[3:]:
        assert hit["score"] == pytest.approx(0.25 * hit["similarity"], rel=1e-6)
    assert b"geometric" in run.stderr  # says what re-ranked


@pytest.mark.parametrize("scorer", ["geometric", "maxsim"])
def test_search_piped_into_rerank_equals_search_with_rerank(imgrank, collection: Path, scorer: str) -> None:
    common = ["--scorer", scorer, "-q"]
    at_once = imgrank("search", "db.h5", "queries", "-k", 15, "--rerank", 7, *common, cwd=collection)
    shortlist = imgrank("search", "db.h5", "queries", "-k", 15, cwd=collection)
    piped = imgrank("rerank", "db.h5", "--top", 7, *common, cwd=collection, input=shortlist.stdout)
    assert piped.returncode == 0, piped.stderr.decode()
    assert piped.stdout == at_once.stdout
    assert at_once.stdout != shortlist.stdout


def test_a_trec_run_can_be_reranked(imgrank, collection: Path) -> None:
    run = imgrank("search", "../db.h5", "query-00.jpg", "-k", 9, "--format", "trec", cwd=collection / "queries")
    assert len(run.stdout.splitlines()[0].split()) == 6
    options = ["--top", 9, "--queries-root", "queries", "--format", "trec"]
    # Documents are named by paths below the root of the photos, as a run of another program would.
    named = run.stdout.replace(os.fsencode(collection) + b"/", b"")
    piped = imgrank("rerank", "db.h5", *options, cwd=collection, input=named)
    assert piped.returncode == 0, piped.stderr.decode()
    assert len(piped.stdout.splitlines()) == 9


def test_formats(imgrank, collection: Path) -> None:
    def search(form: str, *more: object) -> bytes:
        return imgrank(
            "search", "db.h5", "queries/query-00.jpg", "-k", 2, "--format", form, *more, cwd=collection
        ).stdout

    paths = search("paths").decode().splitlines()
    assert [(collection / path).is_file() for path in paths] == [True, True]
    assert search("paths", "-0").decode() == "".join(path + "\0" for path in paths)
    header, first, _ = search("tsv").decode().splitlines()
    assert dict(zip(header.split("\t"), first.split("\t"), strict=True))["path"] == paths[0]
    assert b"similarity" in search("table")


def test_a_stream_is_answered_line_by_line(collection: Path) -> None:
    command = [sys.executable, "-m", "imgrank", "search", "db.h5", "-", "-k", "1"]
    with subprocess.Popen(command, cwd=collection, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        for query in QUERIES:
            child.stdin.write(query.encode() + b"\n")
            child.stdin.flush()
            assert json.loads(child.stdout.readline())["query"] == query  # would hang if it waited for more
        child.stdin.close()
    assert child.returncode == 0


def test_a_closed_pipe_is_not_an_error(collection: Path) -> None:
    script = f"{sys.executable} -m imgrank search db.h5 queries photos -k 20 | head -n 1; echo ${{PIPESTATUS[0]}}"
    run = subprocess.run(["bash", "-c", script], cwd=collection, capture_output=True, check=True)
    assert run.stdout.splitlines()[-1] == b"0"
    assert run.stderr == b""


def test_exit_status_tells_that_nothing_was_found(imgrank, tmp_path: Path) -> None:
    Image.new("RGB", (40, 40)).save(tmp_path / "a.jpg")
    (tmp_path / "notes.txt").write_text("x")
    assert imgrank("index", "a.jpg", "-o", "db.h5", cwd=tmp_path).returncode == 0
    shutil.copy(tmp_path / "a.jpg", tmp_path / "q.jpg")
    (tmp_path / "a.jpg").write_bytes(b"changed to no image")
    assert imgrank("index", "a.jpg", "-o", "db.h5", cwd=tmp_path).returncode == 7
    assert imgrank("search", "db.h5", "q.jpg", cwd=tmp_path).returncode == 0
    assert imgrank("search", "db.h5", "q.jpg", "--exit-status", cwd=tmp_path).returncode == 6


@pytest.mark.parametrize("columns", [60, 200])
def test_a_terminal_gets_a_table_that_fits(collection: Path, columns: int) -> None:
    shown = in_terminal(["search", "db.h5", "queries/query-00.jpg", "-k", 3], collection, columns, NO_COLOR="1")
    lines = [line.rstrip() for line in shown.splitlines() if line.strip()]
    assert lines[0].strip() == "queries/query-00.jpg"
    assert lines[1].split() == ["rank", "score", "similarity", "path"]
    assert all(len(line) <= columns for line in lines)
    assert "\x1b[3" not in shown  # no colours
    assert "photos/object-00-view-" in shown


def test_an_interrupted_command_says_so_and_exits_130(collection: Path) -> None:
    # A background job starts with the signal ignored, and would pass that on.
    code = (
        "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.executable, sys.argv[1:])"
    )
    command = [sys.executable, "-c", code, sys.executable, "-m", "imgrank", "search", "db.h5", "-"]
    with subprocess.Popen(
        command, cwd=collection, stdin=subprocess.PIPE, stderr=subprocess.PIPE, stdout=subprocess.PIPE
    ) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(b"queries/query-00.jpg\n")
        child.stdin.flush()
        child.stdout.readline()
        time.sleep(0.1)
        child.send_signal(signal.SIGINT)
        _, errors = child.communicate(timeout=30)
    assert child.returncode == 130
    assert b"interrupted" in errors
    assert b"Traceback" not in errors


def test_search_with_the_builtin_encoder_loads_no_torch(collection: Path) -> None:
    code = (
        "import sys, imgrank.cli as c\n"
        "try:\n    c.cli.main(['search', 'db.h5', 'queries/query-00.jpg', '-k', '1', '--rerank', '5', '-q'])\n"
        "except SystemExit:\n    pass\n"
        "print(*{'torch', 'transformers', 'rich', 'tqdm'} & set(sys.modules))"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=collection, capture_output=True, text=True, check=True)
    assert run.stdout.splitlines()[-1] == ""


def test_info(imgrank, collection: Path) -> None:
    run = imgrank("info", "db.h5", "--json", cwd=collection)
    facts = json.loads(run.stdout)
    assert facts["images"] == {"ok": 20}
    by_name = {group["group"]: group for group in facts["groups"]}
    assert by_name["/images"]["arrays"]["id"] == {"shape": [20], "dtype": "uint64"}
    assert by_name["/descriptors"]["model"] == "builtin"
    assert by_name["/graph"]["stale"] is False
    assert by_name["/tokens/local"]["images_not_cached"] == 0
    text = imgrank("info", "db.h5", cwd=collection).stdout.decode()
    assert "/tokens/local" in text
    assert "photos: 20 ok" in text


def test_paths_come_from_standard_input_or_a_file(imgrank, collection: Path) -> None:
    for path in sorted((collection / "photos").iterdir())[6:]:
        path.unlink()
    names = sorted(str(path.relative_to(collection)) for path in (collection / "photos").iterdir())
    assert len(names) == 6
    (collection / "list").write_bytes("\0".join(names).encode() + b"\0")
    piped = imgrank("embed", "-", "-o", "one.h5", cwd=collection, input="\n".join(names).encode())
    listed = imgrank("embed", "--files-from", "list", "-0", "-o", "two.h5", cwd=collection)
    folder = imgrank("embed", "photos", "-o", "three.h5", cwd=collection)
    assert (piped.returncode, listed.returncode, folder.returncode) == (0, 0, 0), piped.stderr + listed.stderr
    found = [imgrank("search", f"{n}.h5", *QUERIES, "--exact", cwd=collection).stdout for n in ("one", "two", "three")]
    assert found[0] == found[1] == found[2] != b""


def test_exact_search_works_without_hnswlib(collection: Path) -> None:
    code = "import sys\nsys.modules['hnswlib'] = None\nimport imgrank.cli as c\nc.cli.main(sys.argv[1:])"

    def run(*arguments: str) -> subprocess.CompletedProcess[bytes]:
        return subprocess.run(
            [sys.executable, "-c", code, *arguments], cwd=collection, capture_output=True, check=False
        )

    exact = run("search", "db.h5", *QUERIES, "--exact", "--rerank", "5")
    assert exact.returncode == 0, exact.stderr
    assert len(records(exact.stdout)) == 40
    for arguments in (["search", "db.h5", *QUERIES], ["index", "photos", "-o", "new.h5"]):
        refused = run(*arguments)
        assert refused.returncode == 3
        assert b"--exact" in refused.stderr
    assert run("search", "new.h5", *QUERIES, "--exact").returncode == 0  # the photos were embedded all the same
