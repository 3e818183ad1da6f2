"""`--log-file`: what goes to standard error, as lines with a time."""

import re
import signal
import subprocess
import sys
from pathlib import Path

import pytest

LINE = re.compile(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d[+-]\d{4} \d+ (.*)")


def messages(log: Path) -> list[str]:
    found = []
    for line in log.read_text().splitlines():
        match = LINE.fullmatch(line)
        assert match is not None, line
        found.append(match[1])
    return found


def few_photos(collection: Path) -> None:
    for photo in sorted((collection / "photos").iterdir())[2:]:
        photo.unlink()


def test_the_log_has_what_standard_error_has_and_more_when_quiet(imgrank, collection: Path) -> None:
    few_photos(collection)
    (collection / "photos" / "bad.jpg").write_text("no photo")
    done = imgrank("index", "photos", "-o", "new.h5", "--log-file", "log", cwd=collection)
    assert done.returncode == 7
    said = [line.removeprefix("imgrank: ") for line in done.stderr.decode().splitlines()]
    assert messages(collection / "log") == ["started: imgrank index photos -o new.h5 --log-file log", *said]
    assert [line for line in said if line.startswith("skipped (not-an-image) photos/bad.jpg")]
    assert "next: imgrank search" in said[-1]
    quiet = imgrank("index", "photos", "-o", "new.h5", "--log-file", "log", "-q", cwd=collection)
    assert [line.split()[1] for line in quiet.stderr.decode().splitlines()] == ["skipped"]
    appended = messages(collection / "log")[len(said) + 1 :]
    assert [line.split()[0] for line in appended] == ["started:", "skipped", "0", "graph", "new.h5:"]


def test_errors_are_logged_with_the_words_of_standard_error(imgrank, tmp_path: Path) -> None:
    for arguments in (["search", "nothere.h5", "q.jpg"], ["add", "nothere.h5", "nowhere"], ["index", "q.jpg"]):
        (tmp_path / "q.jpg").touch()
        done = imgrank(*arguments, "--log-file", "log", cwd=tmp_path)
        assert done.returncode != 0
        said = done.stderr.decode().splitlines()[-1]
        assert messages(tmp_path / "log")[-1].lower() == said.removeprefix("imgrank: ").lower()


def test_the_variable_serves_every_command(imgrank, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("IMGRANK_LOG_FILE", "log")
    for command in (["compact"], ["export", "tokens", "-o", "x.safetensors"], ["cache-tokens"], ["rerank"], ["check"]):
        name, *rest = command
        arguments = [name, "nothere.h5", *rest] if name != "export" else [name, rest[0], "nothere.h5", *rest[1:]]
        assert imgrank(*arguments, cwd=tmp_path).returncode == 4
    found = messages(tmp_path / "log")
    assert [line.split()[0] for line in found] == ["started:", "error:"] * 5


@pytest.mark.parametrize("path", ["nowhere/log", "photos"])
def test_a_log_that_cannot_be_written_stops_the_command_before_its_work(imgrank, collection: Path, path: str) -> None:
    done = imgrank("index", "photos", "-o", "new.h5", "--log-file", path, cwd=collection)
    assert done.returncode == 2
    assert b"--log-file" in done.stderr
    assert path.encode() in done.stderr
    assert not (collection / "new.h5").exists()


def test_an_interruption_is_logged(collection: Path) -> None:
    code = (
        "import os, signal, sys; signal.signal(signal.SIGINT, signal.SIG_DFL); os.execv(sys.executable, sys.argv[1:])"
    )
    command = [sys.executable, "-c", code, sys.executable, "-m", "imgrank", "search", "db.h5", "-", "--log-file", "log"]
    with subprocess.Popen(command, cwd=collection, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=-1) as child:
        assert child.stdin is not None
        assert child.stdout is not None
        child.stdin.write(b"queries/query-00.jpg\n")
        child.stdin.flush()
        child.stdout.readline()
        child.send_signal(signal.SIGINT)
        child.communicate(timeout=30)
    assert child.returncode == 130
    assert messages(collection / "log")[-1].startswith("interrupted")


def test_a_name_cannot_forge_a_line(imgrank, collection: Path) -> None:
    few_photos(collection)
    (collection / "photos" / "x\n2026-01-01T00:00:00+0000 1 forged\udcff.jpg").write_text("no photo")
    imgrank("embed", "photos", "-o", "new.h5", "--log-file", "log", cwd=collection)
    found = messages(collection / "log")
    assert not [line for line in found if line.startswith("forged")]
    assert [line for line in found if r"x\n2026-01-01T00:00:00+0000 1 forged\xff.jpg" in line]
