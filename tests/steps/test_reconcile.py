"""An index follows its folder: photos that moved, were touched, came back, changed, or are gone."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest

from imgrank.bundle import file
from imgrank.records import STATUS_NAMES

NAMES = [f"object-00-view-{view}.jpg" for view in range(3)]


def rows(bundle: Path) -> dict[bytes, tuple[int, str]]:
    """Path -> (id, status) of each row that was not removed."""
    with file.read(bundle) as opened:
        statuses = [STATUS_NAMES[code] for code in opened.images.statuses()]
        for row in range(len(opened.images)):
            opened.images.record(row)  # its checksum
        found = zip(opened.images.paths(), opened.images.ids().tolist(), statuses, strict=True)
        return {path: (number, status) for path, number, status in found if status != "removed"}


@pytest.fixture
def index(imgrank, collection: Path):
    def run(*paths: str) -> bytes:
        done = imgrank("index", *(paths or ["photos"]), "-o", "db.h5", "--threads", 1, cwd=collection)
        assert done.returncode == 0, done.stderr
        return done.stderr

    return run


def test_a_renamed_photo_keeps_its_row(imgrank, collection: Path, index):
    photos, bundle = collection / "photos", collection / "db.h5"
    before = rows(bundle)
    (photos / "deeper").mkdir()
    (photos / NAMES[0]).rename(photos / "deeper" / "a longer name \udcff.jpg")
    said = index()
    assert b"0 photos embedded, 20 known already (1 under another name)" in said
    assert b"graph up to date" in said
    after = rows(bundle)
    old, new = b"photos/object-00-view-0.jpg", b"photos/deeper/a longer name \xff.jpg"
    assert after == {**{path: row for path, row in before.items() if path != old}, new: before[old]}
    hits = imgrank("search", "db.h5", "queries", "--rerank", 5, "--format", "paths", cwd=collection).stdout
    assert b"view-1" in hits
    assert b"object-00-view-0" not in hits


def test_a_moved_folder_is_not_computed_again(collection: Path, index):
    shutil.move(collection / "photos", collection / "elsewhere")
    assert b"0 photos embedded, 20 known already (20 under another name)" in index("elsewhere")
    assert all(path.startswith(b"elsewhere/") for path in rows(collection / "db.h5"))


def test_a_touched_photo_is_known_by_its_content(collection: Path, index):
    target = collection / "photos" / NAMES[1]
    content = target.read_bytes()
    target.unlink()
    target.write_bytes(content)
    os.utime(target, ns=(1, 123_456_789))
    assert b"0 photos embedded, 20 known already, 0 skipped" in index()
    with file.read(collection / "db.h5") as opened:
        row = opened.images.paths().index(b"photos/" + NAMES[1].encode())
        assert opened.images.record(row).mtime_ns == 123_456_789


def test_a_photo_that_is_gone_is_hidden_and_comes_back_without_work(imgrank, collection: Path, index):
    bundle, target = collection / "db.h5", collection / "photos" / NAMES[0]
    before, content = rows(bundle), target.read_bytes()
    target.unlink()
    assert b"1 photos are gone from the disk" in index()
    name = b"photos/" + NAMES[0].encode()
    assert rows(bundle)[name] == (before[name][0], "missing")
    search = ["search", "db.h5", "queries", "-k", 20, "--format", "paths"]
    assert name not in imgrank(*search, cwd=collection).stdout
    assert name not in imgrank(*search, "--exact", cwd=collection).stdout
    target.write_bytes(content)
    assert b"0 photos embedded, 20 known already, 0 skipped" in index()
    assert rows(bundle) == before
    assert name in imgrank(*search, cwd=collection).stdout


def test_a_photo_outside_the_given_folder_is_left_alone(collection: Path, index):
    (collection / "more").mkdir()
    shutil.copy(collection / "queries" / "query-00.jpg", collection / "more" / "new.jpg")
    (collection / "photos" / NAMES[0]).unlink()
    assert b"1 photos embedded" in index("more")
    assert rows(collection / "db.h5")[b"photos/" + NAMES[0].encode()][1] == "ok"


def test_a_photo_moved_over_another_takes_its_name(collection: Path, index):
    bundle, photos = collection / "db.h5", collection / "photos"
    before = rows(bundle)
    (photos / NAMES[0]).rename(photos / NAMES[1])
    assert b"0 photos embedded, 19 known already (1 under another name)" in index()
    first, second = (b"photos/" + name.encode() for name in NAMES[:2])
    assert rows(bundle)[second] == before[first]
    assert first not in rows(bundle)


def test_a_copy_is_another_photo(collection: Path, index):
    shutil.copy(collection / "photos" / NAMES[0], collection / "photos" / "copy.jpg")
    assert b"1 photos embedded, 20 known already, 0 skipped" in index()


def test_changed_content_of_the_same_size_is_computed_again(collection: Path, index):
    photos = sorted((collection / "photos").iterdir(), key=lambda path: path.stat().st_size)
    other, target = photos[0], photos[-1]
    size = target.stat().st_size
    target.unlink()
    target.write_bytes(other.read_bytes().ljust(size, b"\0"))  # what follows the end of a JPEG is not looked at
    assert b"1 photos embedded, 19 known already, 0 skipped" in index()
    assert rows(collection / "db.h5")[b"photos/" + os.fsencode(target.name)][0] == 20


def test_a_reader_that_opened_before_keeps_what_it_saw(collection: Path, index):
    with file.read(collection / "db.h5") as opened:
        before = [opened.images.record(row) for row in range(20)]
        vectors = opened.descriptors.read()
        for number in range(3):
            (collection / "photos" / NAMES[number]).rename(collection / "photos" / f"renamed-{number}.jpg")
            index()
        assert [opened.images.record(row) for row in range(20)] == before
        np.testing.assert_array_equal(opened.descriptors.read(), vectors)
