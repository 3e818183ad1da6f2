"""`add`, `remove`, `relocate` through the command line."""

import json
import shutil
from pathlib import Path

import pytest

from imgrank.bundle import file
from imgrank.records import STATUS_NAMES


def names(bundle: Path, status: str = "ok") -> list[str]:
    with file.read(bundle) as opened:
        statuses = opened.images.statuses()
        return [path.decode() for path, code in zip(opened.images.paths(), statuses, strict=True)
                if STATUS_NAMES[code] == status]  # fmt: skip


def found(imgrank, collection: Path, *options: object) -> list[bytes]:
    run = imgrank("search", "db.h5", "queries/query-00.jpg", "-k", 50, "--format", "paths", *options, cwd=collection)
    assert run.returncode == 0, run.stderr
    return run.stdout.splitlines()


def test_add_extends_the_graph_and_does_not_look_for_gone_photos(imgrank, collection: Path):
    shutil.copy(collection / "queries" / "query-00.jpg", collection / "photos" / "new.jpg")
    (collection / "photos" / "object-00-view-0.jpg").unlink()
    run = imgrank("add", "db.h5", "photos", cwd=collection)
    assert run.returncode == 0, run.stderr
    assert b"1 photos embedded, 19 known already" in run.stderr
    assert b"graph extended: 21 photos" in run.stderr
    assert found(imgrank, collection)[0] == b"photos/new.jpg"
    assert len(names(collection / "db.h5")) == 21


def test_add_needs_a_bundle(imgrank, collection: Path):
    run = imgrank("add", "other.h5", "photos", cwd=collection)
    assert run.returncode == 4
    assert b"imgrank index" in run.stderr
    assert not (collection / "other.h5").exists()


@pytest.mark.parametrize(
    ("asked", "count"),
    [
        (["photos/object-00-view-0.jpg"], 1),
        (["photos/object-0[01]-*"], 6),
        (["./photos/object-00-view-0.jpg", "photos/object-00-view-1.jpg"], 2),
        (["photos"], 20),
        (["*view-2.jpg"], 5),
    ],
)
def test_removed_photos_are_not_found(imgrank, collection: Path, asked: list[str], count: int):
    said = imgrank("remove", "db.h5", *asked, "--dry-run", cwd=collection)
    assert len(said.stdout.splitlines()) == count
    assert len(names(collection / "db.h5")) == 20
    run = imgrank("remove", "db.h5", *asked, cwd=collection)
    assert run.returncode == 0, run.stderr
    assert run.stdout == b""
    gone = names(collection / "db.h5", "removed")
    assert [line.decode() for line in said.stdout.splitlines()] == gone
    for options in ([], ["--exact"]):
        left = found(imgrank, collection, *options)
        assert len(left) == 20 - count
        assert not {path.encode() for path in gone} & set(left)


def test_hits_of_a_search_can_be_removed(imgrank, collection: Path):
    hits = imgrank("search", "db.h5", "queries/query-00.jpg", "-k", 3, cwd=collection).stdout
    run = imgrank("remove", "db.h5", "--ids-from", "-", input=hits, cwd=collection)
    assert run.returncode == 0, run.stderr
    paths = {json.loads(line)["path"].encode() for line in hits.splitlines()}
    assert not paths & set(found(imgrank, collection))
    assert imgrank("remove", "db.h5", "--ids-from", "-", input=b"5\n\n6\n", cwd=collection).returncode in (0, 5)


@pytest.mark.parametrize(
    ("asked", "listed", "code", "reason"),
    [
        (["photos/no.jpg"], b"", 5, b"has no photo or folder called photos/no.jpg"),
        (["photos/object-00-view-0.jpg", "no-*"], b"", 5, b"fits no-*"),
        (["--ids-from", "-"], b"99\n", 5, b"no photo with id 99"),
        (["--ids-from", "-"], b"3\nthree\n", 5, b"line 2"),
        (["--ids-from", "-"], b'{"rank": 1}\n', 5, b"is no id"),
        ([], b"", 2, b"say which photos"),
    ],
)
def test_what_names_no_photo_removes_nothing(imgrank, collection: Path, asked, listed, code, reason):
    before = (collection / "db.h5").read_bytes()
    run = imgrank("remove", "db.h5", *asked, input=listed, cwd=collection)
    assert run.returncode == code
    assert reason in run.stderr
    assert b"Traceback" not in run.stderr
    assert (collection / "db.h5").read_bytes() == before


def test_photos_that_are_gone_are_removed_by_looking(imgrank, collection: Path):
    (collection / "photos" / "object-00-view-0.jpg").unlink()
    assert imgrank("remove", "db.h5", "--missing", cwd=collection).returncode == 0
    assert names(collection / "db.h5", "removed") == ["photos/object-00-view-0.jpg"]


def test_a_disk_that_is_not_there_removes_nothing(imgrank, collection: Path):
    (collection / "photos").rename(collection / "unplugged")
    run = imgrank("remove", "db.h5", "--missing", cwd=collection)
    assert run.returncode == 5
    assert b"imgrank relocate db.h5" in run.stderr
    assert names(collection / "db.h5", "removed") == []


def test_a_removed_photo_comes_back_with_its_row(imgrank, collection: Path):
    imgrank("remove", "db.h5", "photos/object-00-view-0.jpg", cwd=collection)
    run = imgrank("index", "photos", "-o", "db.h5", cwd=collection)
    assert b"0 photos embedded, 20 known already" in run.stderr
    assert len(names(collection / "db.h5")) == 20
    assert names(collection / "db.h5", "removed") == []


def test_a_graph_of_mostly_removed_photos_is_built_again(imgrank, collection: Path):
    imgrank("remove", "db.h5", "photos/object-0*", cwd=collection)
    run = imgrank("index", "db.h5", cwd=collection)
    assert b"graph built: 5 photos" in run.stderr
    assert len(found(imgrank, collection)) == 5


def test_a_bundle_follows_its_photos(imgrank, collection: Path, tmp_path: Path):
    before = imgrank("search", "db.h5", "queries", "--rerank", 5, "--format", "trec", cwd=collection).stdout
    (tmp_path / "archive").mkdir()
    (collection / "photos").rename(tmp_path / "archive" / "photos")
    wrong = imgrank("relocate", "db.h5", "--root", tmp_path, cwd=collection)
    assert wrong.returncode == 5
    assert b"not one photo" in wrong.stderr
    run = imgrank("relocate", "db.h5", "--root", tmp_path / "archive", cwd=collection)
    assert run.returncode == 0, run.stderr
    assert b"20 photos are there, 0 are not" in run.stderr
    cached = imgrank("cache-tokens", "db.h5", "--cache", "local", "--overwrite", cwd=collection)
    assert cached.returncode == 0, cached.stderr
    assert b"20 photos computed" in cached.stderr
    after = imgrank("search", "db.h5", "queries", "--rerank", 5, "--format", "paths", cwd=collection).stdout
    assert len(after.splitlines()) == len(before.splitlines())
    assert str(tmp_path / "archive" / "photos").encode() in after
