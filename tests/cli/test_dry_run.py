"""`--dry-run` of embed, index and add: what they would do is what they then do, and nothing changes before."""

import os
import re
import shutil
from pathlib import Path

import pytest

UNITS = {"B": 1, "KiB": 2**10, "MiB": 2**20}


def told(output: bytes) -> dict[str, str]:
    lines = [line.split(None, 1) for line in output.decode().splitlines()]
    return {name: value for name, value in lines}


def bytes_told(facts: dict[str, str]) -> float:
    number, unit = re.match(r"about ([\d.]+) (\w+) more", facts["bytes"]).groups()
    return float(number) * UNITS[unit]


def snapshot(folder: Path) -> dict[str, tuple[int, bytes]]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {str(path): (path.stat().st_mtime_ns, path.read_bytes()) for path in files}


@pytest.mark.parametrize("command", ["embed", "index"])
def test_a_new_bundle_gets_as_large_as_was_told(imgrank, collection: Path, command: str) -> None:
    (collection / "photos" / "bad.jpg").write_text("no photo")
    for photo in sorted((collection / "photos").glob("object-0[1-4]*")) if command == "embed" else []:
        photo.unlink()
    count = len(list((collection / "photos").iterdir()))
    os.mkfifo(collection / "photos" / "fifo.jpg")  # opening it would wait for a writer
    before = snapshot(collection / "queries") | {"there": sorted(map(str, collection.iterdir()))}
    done = imgrank(command, "photos", collection / "photos/fifo.jpg", "-o", "new.h5", "--dry-run", cwd=collection)
    assert done.returncode == 0, done.stderr.decode()
    facts = told(done.stdout)
    assert facts["photos"] == f"{count + 1} new, 0 changed (2 of them not looking readable), 0 known already"
    measured = min(8, count - 1)
    assert re.fullmatch(rf"about [\d.]+ s, as {measured} of them took(; the graph takes more)?", facts["time"])
    assert before == snapshot(collection / "queries") | {"there": sorted(map(str, collection.iterdir()))}
    assert imgrank(command, "photos", "-o", "new.h5", cwd=collection).returncode == 7
    assert (collection / "new.h5").stat().st_size == pytest.approx(bytes_told(facts), rel=0.2)


def test_a_bundle_that_is_there_is_compared_and_stays_as_it_is(imgrank, collection: Path) -> None:
    photos = collection / "photos"
    (photos / "object-00-view-0.jpg").unlink()
    (photos / "object-00-view-1.jpg").unlink()
    shutil.copy(photos / "object-01-view-0.jpg", photos / "object-00-view-1.jpg")  # changed
    (photos / "object-02-view-0.jpg").rename(photos / "renamed.jpg")
    shutil.copy(collection / "queries/query-00.jpg", photos)
    before = snapshot(collection)
    facts = told(imgrank("index", "photos", "-o", "db.h5", "-n", cwd=collection).stdout)
    assert facts["photos"] == "1 new, 1 changed, 18 known already (1 under another name), 1 gone"
    added = told(imgrank("add", "db.h5", "photos", "-n", cwd=collection).stdout)
    assert added["photos"] == "1 new, 1 changed, 18 known already (1 under another name)"
    assert snapshot(collection) == before
    done = imgrank("index", "photos", "-o", "db.h5", cwd=collection)
    assert b"2 photos embedded, 18 known already (1 under another name), 0 skipped" in done.stderr
    grown = (collection / "db.h5").stat().st_size - len(before[str(collection / "db.h5")][1])
    # HDF5's own structure, and names that are written anew, are not told.
    assert grown == pytest.approx(bytes_told(facts), abs=192 * 1024)
    again = told(imgrank("index", "photos", "-o", "db.h5", "-n", cwd=collection).stdout)
    assert again["photos"] == "0 new, 0 changed, 20 known already"
    assert (again["bytes"].split(" more")[0], again["time"]) == ("about 0 B", "about 0.0 s; the graph takes more")


def test_what_the_work_would_refuse_the_dry_run_refuses(imgrank, collection: Path) -> None:
    (collection / "empty").mkdir()
    for arguments, code in (
        (["index", "empty", "-o", "new.h5"], 5),
        (["index", "photos", "-o", "db.h5", "--encoder", "facebook/dinov2-base"], 4),
        (["add", "nothere.h5", "photos"], 4),
        (["index", "db.h5"], 2),
    ):
        done = imgrank(*arguments, "--dry-run", cwd=collection)
        assert (done.returncode, done.stdout) == (code, b""), done.stderr
    assert not (collection / "new.h5").exists()


def test_the_last_line_says_what_came_to_the_bundle(imgrank, collection: Path) -> None:
    size = (collection / "db.h5").stat().st_size
    done = imgrank("add", "db.h5", "queries", cwd=collection).stderr.decode().splitlines()[-1]
    more = (collection / "db.h5").stat().st_size - size
    match = re.fullmatch(r"imgrank: db.h5: [\d.]+ MiB \(([\d.]+) (\w+) more\), [\d.]+ s; next: imgrank search .*", done)
    assert match is not None
    assert float(match[1]) * UNITS[match[2]] == pytest.approx(more, rel=0.1)
    again = imgrank("add", "db.h5", "queries", cwd=collection).stderr.decode().splitlines()[-1]
    assert "(no more than before)" in again
