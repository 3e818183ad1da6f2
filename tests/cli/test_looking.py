"""`--html`, `--open`, `--montage` and `--preview` through the command line."""

import os
import re
import shutil
from pathlib import Path

import pytest
from PIL import Image

from tests.terminal import in_terminal

QUERIES = ["queries/query-00.jpg", "queries/query-01.jpg"]
SEARCH = ["search", "db.h5", *QUERIES, "-k", 3]


def facts(page: Path) -> list[dict[str, str]]:
    """What the page says of each hit."""
    items = re.findall(r"<li value=.*?</li>", page.read_text(), re.S)
    return [
        {
            **dict(re.findall(r"<dt>(.*?)</dt><dd>(.*?)</dd>", item)),
            "score": re.search(r'class="score">(.*?)<', item)[1],
            "name": re.search(r'class="name">(.*?)<', item)[1],
        }
        for item in items
    ]


def test_a_page_of_a_search_leaves_the_output_as_it_is(imgrank, collection: Path) -> None:
    plain = imgrank(*SEARCH, cwd=collection)
    run = imgrank(*SEARCH, "--html", "hits.html", cwd=collection)
    assert (run.returncode, run.stdout, run.stderr) == (0, plain.stdout, b"")
    page = collection / "hits.html"
    found = facts(page)
    assert [one["name"] for one in found] == [
        os.fsdecode(path) for path in imgrank(*SEARCH, "--format", "paths", cwd=collection).stdout.splitlines()
    ]
    assert page.read_text().count("data:image/jpeg;base64,") == 8
    assert "rank before" not in found[0]
    assert sorted(path.name for path in collection.iterdir() if path.name.startswith("hits")) == ["hits.html"]


def test_pages_of_rerank_and_of_search_say_the_same(imgrank, collection: Path) -> None:
    at_once = imgrank(*SEARCH, "--rerank", 12, "--html", "a.html", cwd=collection)
    hits = imgrank("search", "db.h5", *QUERIES, "-k", 12, cwd=collection).stdout
    (collection / "elsewhere").mkdir()
    run = imgrank(
        *("rerank", "../db.h5", "--queries-root", "..", "--html", "b.html"), cwd=collection / "elsewhere", input=hits
    )
    assert run.returncode == 0, run.stderr
    first, second = facts(collection / "a.html"), facts(collection / "elsewhere" / "b.html")
    assert at_once.returncode == 0
    for one in (0, 1):  # query
        for place in range(3):
            assert first[3 * one + place] == second[12 * one + place]
    before = [int(one["rank before"]) for one in second[:12]]
    assert sorted(before) == list(range(1, 13))
    assert before != sorted(before)
    assert "no picture" not in (collection / "elsewhere" / "b.html").read_text()


def test_a_page_needs_no_photos_where_the_bundle_keeps_thumbnails(imgrank, collection: Path) -> None:
    assert imgrank("index", "db.h5", "--thumbnails", 64, cwd=collection).returncode == 0
    shutil.rmtree(collection / "photos")
    run = imgrank(*SEARCH, "--html", "hits.html", cwd=collection)
    assert run.returncode == 0, run.stderr
    assert "no picture" not in (collection / "hits.html").read_text()


def test_a_file_that_cannot_be_written_is_told_before_the_work(imgrank, collection: Path) -> None:
    shutil.copy(collection / "db.h5", collection / "copy.html")
    (collection / "folder.html").mkdir()
    for option, name, reason in [
        ("--html", "hits.txt", b"must end in .html"),
        ("--html", "no/such/hits.html", b"its folder does not exist"),
        ("--html", "copy.html", b"an HDF5 file, perhaps a bundle"),
        ("--html", "folder.html", b"is not a file"),
        ("--montage", "hits.gif", b"must end in .png or .jpg or .jpeg or .webp"),
    ]:
        run = imgrank(*SEARCH, option, name, cwd=collection)
        assert (run.returncode, run.stdout) == (2, b""), name
        assert reason in run.stderr


def test_a_search_that_fails_leaves_the_old_page(imgrank, collection: Path) -> None:
    (collection / "hits.html").write_text("old")
    (collection / "bad.jpg").write_text("no photo")
    run = imgrank(*SEARCH, "bad.jpg", "--strict", "--html", "hits.html", "--open", cwd=collection)
    assert run.returncode == 5
    assert (collection / "hits.html").read_text() == "old"
    assert not list(collection.glob("*.new"))
    run = imgrank(*SEARCH, "bad.jpg", "--html", "hits.html", cwd=collection)
    assert run.returncode == 7
    assert len(facts(collection / "hits.html")) == 6


def test_open_gives_the_page_to_the_browser(imgrank, collection: Path) -> None:
    browser = collection / "browser"
    browser.write_text('#!/bin/sh\necho "$1" > browser.txt\n')
    browser.chmod(0o755)
    bare = {key: value for key, value in os.environ.items() if key not in ("DISPLAY", "WAYLAND_DISPLAY", "BROWSER")}
    run = imgrank(*SEARCH, "--html", "hits.html", "--open", cwd=collection, env={**bare, "BROWSER": f"{browser} %s"})
    assert run.returncode == 0
    assert b"hits.html: opened in the browser" in run.stderr
    assert (collection / "browser.txt").read_text().strip() == (collection / "hits.html").as_uri()
    here = {**bare, "TMPDIR": os.fspath(collection)}
    run = imgrank(*SEARCH, "--open", cwd=collection, env=here)
    assert run.returncode == 0
    place = re.search(rb"imgrank: (.*): no browser here could open it", run.stderr)[1]
    assert len(facts(Path(os.fsdecode(place)))) == 6
    run = imgrank("search", "db.h5", "db.h5", "--strict", "--open", cwd=collection, env=here)
    assert run.returncode == 5
    assert len(list(collection.glob("imgrank-*"))) == 1  # a search that fails leaves no folder


@pytest.mark.parametrize("name", ["hits.png", "hits.JPG", "hits.webp"])
def test_a_montage_shows_queries_and_hits(imgrank, collection: Path, name: str) -> None:
    run = imgrank(*SEARCH, "--montage", name, cwd=collection)
    assert (run.returncode, run.stderr) == (0, b"")
    with Image.open(collection / name) as picture:
        assert picture.format == {"png": "PNG", "jpg": "JPEG", "webp": "WEBP"}[name[-4:].lstrip(".").lower()]
        assert picture.size == (4 * 170 + 30, 2 * 192 + 10)


def test_a_montage_says_what_it_leaves_out(imgrank, collection: Path) -> None:
    run = imgrank(*SEARCH[:-1], 14, "--montage", "hits.png", cwd=collection)
    assert run.returncode == 0
    assert b"shows the first 12 hits of a query" in run.stderr
    with Image.open(collection / "hits.png") as picture:
        assert picture.size == (13 * 170 + 30, 2 * 192 + 10)


def test_a_preview_of_half_blocks(imgrank, collection: Path) -> None:
    pytest.importorskip("textual_image")
    shown = in_terminal([*SEARCH, "--preview"], collection, 100, COLORTERM="truecolor", NO_COLOR="1")
    assert shown.count("▀") > 2 * 4 * 60  # queries, pictures, cells of each
    assert re.search(r"\x1b\[38;2;\d+;\d+;\d+;48;2;\d+;\d+;\d+m", shown)  # in colour, since it was asked for
    lines = shown.splitlines()
    assert sum(line.startswith("query  ") for line in lines) == 2
    assert max(len(line) for line in lines if "▀" not in line) <= 120


def test_a_preview_asks_the_terminal_and_not_the_hits_that_are_piped_in(imgrank, collection: Path) -> None:
    pytest.importorskip("textual_image")
    hits = collection / "hits.jsonl"
    hits.write_bytes(imgrank(*SEARCH, cwd=collection).stdout)
    says = b"\x1b[?62;4;22c"  # 4: sixel
    with hits.open("rb") as given:
        shown = in_terminal(["rerank", "db.h5", "--preview"], collection, 100, given=given.fileno(), answer=says)
    assert shown.count("\x1bP") == 8  # each picture is a device control string
    assert "▀" not in shown


def test_a_preview_needs_a_terminal_and_its_extra(imgrank, collection: Path) -> None:
    run = imgrank(*SEARCH, "--preview", cwd=collection)
    assert (run.returncode, run.stdout) == (2, b"")
    assert b"--html FILE or --montage FILE" in run.stderr


def test_without_the_extra_it_is_named(monkeypatch) -> None:
    from imgrank.cli import preview
    from imgrank.errors import MissingExtraError

    monkeypatch.setattr("sys.stdout.isatty", lambda: True, raising=False)
    monkeypatch.setattr(preview.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(MissingExtraError, match=r"imgrank\[preview\]"):
        preview.Preview()
