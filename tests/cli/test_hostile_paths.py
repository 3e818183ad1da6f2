"""Paths that are no photo files: nothing hangs, each is named once with its reason, and the photos beside them count.

A command that waits (for a pipe, a device, an endless link) is ended by the time limit of the `imgrank` fixture.
"""

import contextlib
import os
import socket
from collections.abc import Iterator
from pathlib import Path

import pytest
from PIL import Image

from imgrank.bundle import file
from imgrank.images.scan import display
from imgrank.progress import Advance, Silent
from imgrank.records import STATUS_NAMES
from imgrank.steps.embed import embed


def photo(path: Path | bytes, shade: int = 100) -> None:
    with open(path, "wb") as stream:
        Image.new("RGB", (64, 48), (shade, 60, 20)).save(stream, "PNG")


def statuses(bundle: Path) -> dict[bytes, str]:
    with file.read(bundle) as opened:
        codes = opened.images.statuses().tolist()
        return dict(zip(opened.images.paths(), (STATUS_NAMES[code] for code in codes), strict=True))


@pytest.fixture
def hostile(tmp_path: Path) -> Iterator[tuple[Path, dict[bytes, str]]]:
    """A folder of paths that are no photos, by status, and two photos with the longest names that there are."""
    folder = tmp_path / "photos"
    folder.mkdir()
    os.mkfifo(folder / "pipe.jpg")
    (folder / "zero.png").symlink_to("/dev/zero")
    (folder / "loop.jpg").symlink_to("loop.jpg")
    (folder / "here.gif").symlink_to("here.gif/below.gif")
    (folder / "gone.tif").symlink_to("no such file")
    (folder / "empty.webp").touch()
    (folder / "folder.jpg").mkdir()
    photo(folder / "folder.jpg" / ("a" * 251 + ".png"))
    photo(os.fsencode(folder) + b"/" + b"\xe9\n" * 125 + b".png", 200)
    # The address of a socket is short, so it is bound from within the folder.
    before = Path.cwd()
    with socket.socket(socket.AF_UNIX) as bound:
        os.chdir(folder)
        try:
            bound.bind("socket.jpg")
        finally:
            os.chdir(before)
        expected = {b"photos/" + name: "unreadable" for name in (b"pipe.jpg", b"zero.png", b"loop.jpg", b"socket.jpg")}
        expected |= {b"photos/here.gif": "unreadable", b"photos/gone.tif": "missing"}
        yield tmp_path, expected | {b"photos/empty.webp": "not-an-image"}


def test_a_folder_of_hostile_paths(imgrank, hostile: tuple[Path, dict[bytes, str]]) -> None:
    folder, expected = hostile
    run = imgrank("index", "photos", "-o", "db.h5", cwd=folder)
    lines = run.stderr.decode().splitlines()
    assert run.returncode == 7, lines
    named = sorted(line.split(": ")[1] for line in lines if line.startswith("imgrank: skipped ("))
    assert named == sorted(f"skipped ({code}) {display(path)}" for path, code in expected.items())
    assert any("2 photos embedded, 0 known already, 7 skipped" in line for line in lines)
    found = statuses(folder / "db.h5")
    assert {path: code for path, code in found.items() if code != "ok"} == expected
    assert sorted(map(len, found))[-2:] == [len("photos/") + 254, len("photos/folder.jpg/") + 255]


def test_hostile_paths_as_queries(imgrank, hostile: tuple[Path, dict[bytes, str]]) -> None:
    folder, expected = hostile
    assert imgrank("index", "photos/folder.jpg", "-o", "db.h5", cwd=folder).returncode == 0
    bad = [path for path in expected if path != b"photos/gone.tif"]  # a missing argument is an error, tested elsewhere
    good = b"photos/" + b"\xe9\n" * 125 + b".png"
    for extra in ([], ["--rerank", 2]):
        run = imgrank("search", "db.h5", *bad, "/dev/zero", good, "-k", 1, *extra, cwd=folder)
        message = run.stderr.decode()
        assert run.returncode == 7, message
        assert len(run.stdout.splitlines()) == 1
        for path in [*bad, b"/dev/zero"]:
            assert message.count(f") {display(path)}: ") == 1


def test_devices_and_pipes_given_to_index(imgrank, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    run = imgrank("index", "pipe", "/dev/zero", "-o", "db.h5", "--root", "/", cwd=tmp_path)
    message = run.stderr.decode()
    assert "is a named pipe, not a photo file" in message
    assert "is a device, not a photo file" in message
    assert "Traceback" not in message


@pytest.mark.skipif(os.geteuid() == 0, reason="root may read everything")
def test_a_file_without_permission(imgrank, tmp_path: Path) -> None:
    photo(tmp_path / "good.png")
    photo(tmp_path / "locked.png", 200)
    (tmp_path / "locked.png").chmod(0)
    run = imgrank("index", ".", "-o", "db.h5", cwd=tmp_path)
    assert run.returncode == 7
    assert "skipped (unreadable) ./locked.png: cannot be read: Permission denied" in run.stderr.decode()


class Meanwhile(Silent):
    """Does something to the files after they were found and before they are read."""

    def __init__(self, act) -> None:
        self.act, self.errors = act, []

    @contextlib.contextmanager
    def bar(self, total: int | None, description: str, unit: str) -> Iterator[Advance]:
        self.act()
        yield lambda count: None

    def skipped(self, error) -> None:
        self.errors.append((Path(error.path).name, error.code))


def test_files_that_vanish_or_shrink_between_scan_and_read(tmp_path: Path) -> None:
    for number in range(6):
        photo(tmp_path / f"{number}.png", 40 * number)

    def act() -> None:
        (tmp_path / "1.png").unlink()
        os.truncate(tmp_path / "2.png", 60)
        os.truncate(tmp_path / "3.png", 0)
        (tmp_path / "4.png").unlink()
        os.mkfifo(tmp_path / "4.png")

    reporter = Meanwhile(act)
    summary = embed(tmp_path / "db.h5", [os.fsencode(tmp_path)], reporter=reporter)
    expected = {"1.png": "missing", "2.png": "truncated", "3.png": "not-an-image", "4.png": "unreadable"}
    assert dict(reporter.errors) == expected
    assert len(reporter.errors) == summary.skipped_count == 4
    assert summary.embedded == 2
    found = statuses(tmp_path / "db.h5")
    assert found == {os.fsencode(f"{n}.png"): expected.get(f"{n}.png", "ok") for n in range(6)}
