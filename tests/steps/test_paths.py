"""Roots, stored paths and printed paths."""

import os
from pathlib import Path

import pytest

from imgrank.errors import InputError
from imgrank.steps.paths import RelativePaths, choose_root, is_below, openable


def make(folder: Path, *names: str) -> None:
    for name in names:
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_bytes(b"")


def test_photos_below_the_bundle_are_kept_relative_to_it(tmp_path: Path) -> None:
    make(tmp_path, "photos/a.jpg")
    assert choose_root(tmp_path / "db.h5", [os.fsencode(tmp_path / "photos")], None) == b"."


def test_photos_elsewhere_are_kept_relative_to_their_own_folder(tmp_path: Path) -> None:
    make(tmp_path, "photos/a/1.jpg", "photos/b/2.jpg", "index/x")
    given = [os.fsencode(tmp_path / "photos" / name) for name in ("a", "b/2.jpg")]
    assert choose_root(tmp_path / "index" / "db.h5", given, None) == os.fsencode(tmp_path / "photos")


def test_a_chosen_root_is_relative_when_it_lies_below_the_bundle(tmp_path: Path) -> None:
    make(tmp_path, "photos/a.jpg", "index/x")
    given = [os.fsencode(tmp_path / "photos")]
    assert choose_root(tmp_path / "db.h5", given, tmp_path / "photos") == b"photos"
    assert choose_root(tmp_path / "index" / "db.h5", given, tmp_path) == os.fsencode(tmp_path)


def test_stored_paths_resolve_folders_but_not_the_photo(tmp_path: Path) -> None:
    make(tmp_path, "real/a.jpg")
    (tmp_path / "link").symlink_to("real")
    (tmp_path / "real" / "b.jpg").symlink_to("a.jpg")
    relative = RelativePaths(os.fsencode(tmp_path), tmp_path / "db.h5")
    assert relative(os.fsencode(tmp_path / "link" / "a.jpg")) == b"real/a.jpg"
    assert relative(os.fsencode(tmp_path / "real" / "b.jpg")) == b"real/b.jpg"
    assert relative(os.fsencode(tmp_path / "real" / ".." / "real" / "a.jpg")) == b"real/a.jpg"


def test_a_photo_outside_the_root_is_refused(tmp_path: Path) -> None:
    make(tmp_path, "in/a.jpg", "out/b.jpg")
    (tmp_path / "in" / "way-out").symlink_to("../out")
    relative = RelativePaths(os.fsencode(tmp_path / "in"), tmp_path / "db.h5")
    for path in ("out/b.jpg", "in/../out/b.jpg", "in/way-out/b.jpg"):
        with pytest.raises(InputError, match="--root"):
            relative(os.fsencode(tmp_path / path))


def test_a_folder_whose_name_begins_alike_is_outside() -> None:
    assert not is_below(b"/photos-old", b"/photos")
    assert is_below(b"/photos/a", b"/photos")
    assert is_below(b"/photos", b"/photos")


def test_printed_paths_open_from_here(tmp_path: Path, monkeypatch) -> None:
    make(tmp_path, "here/photos/a.jpg", "there/b.jpg")
    monkeypatch.chdir(tmp_path / "here")
    here, there = (os.fsencode(tmp_path / name) for name in ("here", "there"))
    assert openable([b"a.jpg", b"x/b.jpg"], here + b"/photos") == [b"photos/a.jpg", b"photos/x/b.jpg"]
    assert openable([b"b.jpg"], there) == [there + b"/b.jpg"]
    assert openable([b"here/c.jpg", b"there/c.jpg", b"hereafter/c.jpg"], os.fsencode(tmp_path)) == [
        b"c.jpg",
        there + b"/c.jpg",
        here + b"after/c.jpg",
    ]
    assert openable([b"d.jpg"], here + b"/../here/photos/") == [b"photos/d.jpg"]
    assert openable([b"usr/e.jpg"], b"/") == [b"/usr/e.jpg"]
