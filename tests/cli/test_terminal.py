"""What a person sees, in a real pseudo-terminal of a given width; and what becomes of pipes that are closed."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

from imgrank.cli.options import IMAGES_SKIPPED
from tests.terminal import in_terminal

ESCAPE = "\x1b"


@pytest.fixture(scope="module")
def deep(drawn, tmp_path_factory: pytest.TempPathFactory, imgrank) -> Path:
    """A bundle of two photos whose paths are longer than a narrow terminal is wide; read only."""
    folder = tmp_path_factory.mktemp("deep")
    below = folder / "a folder with a long name" / "and another one that is below it"
    below.mkdir(parents=True)
    for photo in drawn.images[-2:]:
        (below / photo.name).write_bytes(photo.read_bytes())
    assert imgrank("index", ".", "-o", "db.h5", "-q", cwd=folder).returncode == 0
    return folder


def photos(folder: Path) -> list[Path]:
    return sorted(path.relative_to(folder) for path in folder.rglob("*.jpg"))


@pytest.mark.parametrize("columns", [60, 200])
@pytest.mark.parametrize("rerank", [[], ["--rerank", "2"]])
def test_the_table_of_long_paths(deep: Path, columns: int, rerank: list[str]) -> None:
    query = str(photos(deep)[0])
    shown = in_terminal(["search", "db.h5", query, "-q", *rerank], deep, columns, NO_COLOR="1")
    assert ESCAPE not in shown
    lines = shown.splitlines()
    assert max(map(len, lines)) <= columns
    header, *rows = [line.rstrip() for line in lines if line.split()[:1] == ["rank"] or re.match(r" +\d ", line)]
    names = ["rank", "score", "similarity", *(["scorer"] if rerank else []), *(["path"] if columns == 200 else [])]
    assert header.split() == names
    for rank, row in enumerate(rows, 1):
        assert re.match(rf" +{rank} +[01]\.\d{{4}} +[01]\.\d{{4}}", row)  # each number whole, in a column of its own
    # Each path can be read from left to right: whole on its line, or folded at the edge alone.
    folded = "".join(line.removeprefix("    ") for line in lines)
    assert all(str(path) in (folded if columns == 60 else shown) for path in photos(deep))
    if columns == 60:
        assert [line for line in lines if len(line) == columns and line.startswith("    a folder")]


def test_colours_are_for_terminals_that_want_them(deep: Path) -> None:
    query = str(photos(deep)[0])
    assert f"{ESCAPE}[1mrank" in in_terminal(["search", "db.h5", query], deep, 200)
    assert ESCAPE not in in_terminal(["search", "db.h5", query], deep, 200, TERM="dumb")


def test_a_bar_shows_rate_time_and_skipped_photos_and_results_stay_clean(collection: Path, tmp_path: Path) -> None:
    (collection / "photos" / "bad.jpg").write_text("no photo")
    command = ["embed", "photos/bad.jpg", *(f"photos/object-00-view-{n}.jpg" for n in range(3)), "-o", "new.h5"]
    shown = in_terminal(command, collection, 80, code=IMAGES_SKIPPED)
    bar = [part for part in re.split(r"[\r\n]", shown) if part.startswith("embed:") and "%" in part][-1]
    assert re.search(r"\d+/4 \[\d\d:\d\d<\S+, +\S+ photo/s|\d+/4 \[\d\d:\d\d<\S+, +\S+s/ photo", bar), bar
    assert "1 skipped" in bar
    assert [
        line for line in shown.splitlines() if line.startswith("imgrank: skipped (not-an-image)")
    ]  # on a line alone
    assert "next: imgrank index new.h5" in shown
    (collection / "new.h5").unlink()
    assert "embed:" not in in_terminal([*command, "-q"], collection, 80, code=IMAGES_SKIPPED)


def test_bars_on_a_terminal_and_records_in_a_pipe(collection: Path) -> None:
    (collection / "photos" / "bad.jpg").write_text("no photo")
    with (collection / "out").open("wb") as out:
        shown = in_terminal(["split", "db.h5", "--shards", "2"], collection, 80, output=out.fileno())
    assert (collection / "out").read_text() == "db-01-of-02.h5\ndb-02-of-02.h5\n"
    assert "db-01-of-02.h5\r" not in shown
    assert "2 bundles" in shown


PRINTING = {  # commands that print records, each more than one
    "search": "search db.h5 queries -k 20",
    "search-trec": "search db.h5 queries -k 20 --format trec",
    "rerank": "rerank db.h5 < run",
    "models": "models",
    "config": "config --all --json",
    "info": "info db.h5",
    "check": "check db.h5 --json",
    "remove": "remove db.h5 photos --dry-run",
    "split": "split db.h5 --shards 4",
    "completion": "completion bash",
    "dry-run": "index photos -o db.h5 --dry-run",
    "help": "search --help",
}


@pytest.mark.parametrize("reader", ["head -n 1", "true"])
def test_a_reader_may_close_its_pipe(imgrank, collection: Path, reader: str) -> None:
    (collection / "run").write_bytes(imgrank("search", "db.h5", "queries", "-k", 5, cwd=collection).stdout)
    # All at once, since each takes most of its time to start. Its streams are apart, and its own code is kept.
    line = "({{ {python} -m imgrank {command}; echo $? > {name}.code; }} 2> {name}.err | {reader} > {name}.out) &\n"
    filled = [line.format(python=sys.executable, reader=reader, name=n, command=c) for n, c in PRINTING.items()]
    script = "".join(filled)
    subprocess.run(["bash", "-c", script + "wait"], cwd=collection, check=True, timeout=120)
    for name in PRINTING:
        errors = (collection / f"{name}.err").read_text()
        assert (collection / f"{name}.code").read_text().strip() == "0", f"{name}: {errors}"
        assert "Traceback" not in errors, f"{name}: {errors}"
        assert "rror:" not in errors, f"{name}: {errors}"
        assert reader == "true" or len((collection / f"{name}.out").read_text().splitlines()) == 1


def test_results_are_on_stdout_and_everything_else_on_stderr(imgrank, collection: Path) -> None:
    for arguments, lines in (
        (["remove", "db.h5", "photos/object-00*", "--dry-run"], 3),
        (["split", "db.h5", "--shards", "2"], 2),
        (["index", "photos", "-o", "db.h5"], 0),
        (["compact", "db.h5"], 0),
        (["export", "descriptors", "db.h5", "-o", "d.npy"], 0),
    ):
        done = imgrank(*arguments, cwd=collection)
        assert len(done.stdout.splitlines()) == lines, arguments
        assert b"imgrank: " not in done.stdout
        assert done.stderr.startswith(b"imgrank: ")
        assert b"\r" not in done.stderr  # no bars where there is no terminal
        assert b"\x1b" not in done.stderr


def test_a_command_needs_no_streams_at_all(collection: Path) -> None:
    for command in ("search db.h5 queries -k 1 <&- >&- 2>&-", "add db.h5 queries <&- 2>&-", "check db.h5 2>&-"):
        script = f"{sys.executable} -m imgrank {command}"
        assert subprocess.run(["bash", "-c", script], cwd=collection, check=False, timeout=60).returncode == 0, command
