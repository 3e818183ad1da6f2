"""`--with`: several bundles through processes and pipes."""

import json
import os
import shutil
from pathlib import Path

import h5py
import pytest

from imgrank.bundle import probe


def records(output: bytes) -> list[dict]:
    return [json.loads(line) for line in output.splitlines()]


HALVES = ("a.h5", "b.h5")


@pytest.fixture(scope="module")
def _indexed_halves(imgrank, _indexed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("halves") / "collection"
    shutil.copytree(_indexed.parent, folder, copy_function=os.link)
    names = sorted(f"photos/{path.name}" for path in (folder / "photos").iterdir())
    for bundle, some in zip(HALVES, (names[::2], names[1::2]), strict=True):
        run = imgrank("index", "-", "-o", bundle, "-q", cwd=folder, input="\n".join(some).encode())
        assert run.returncode == 0, run.stderr.decode()
    return folder


@pytest.fixture
def halves(_indexed_halves: Path, collection: Path) -> Path:
    """The collection with `a.h5` and `b.h5` of half of its photos each."""
    for bundle in HALVES:
        shutil.copy2(_indexed_halves / bundle, collection)
        probe.remember(collection / bundle)
    return collection


SEARCH = ["search", "a.h5", "queries", "--with", "b.h5", "-q", "-k", 15]


def test_records_name_their_bundle_and_survive_the_pipe(imgrank, halves: Path) -> None:
    at_once = imgrank(*SEARCH, "--rerank", 7, cwd=halves)
    assert at_once.returncode == 0, at_once.stderr.decode()
    hits = records(at_once.stdout)
    whole = records(imgrank("search", "db.h5", "queries", "-q", "-k", 15, "--rerank", 7, cwd=halves).stdout)
    for hit, same in zip(hits, whole, strict=True):
        assert list(hit)[-1] == "bundle"
        assert hit.pop("bundle") in ("a.h5", "b.h5")
        assert {**hit, "id": 0} == {**same, "id": 0}
    shortlist = imgrank(*SEARCH, cwd=halves).stdout
    piped = imgrank("rerank", "a.h5", "--with", "b.h5", "--top", 7, "-q", cwd=halves, input=shortlist)
    assert piped.stdout == at_once.stdout
    # Spelt in another way, from another folder: the same files.
    (halves / "below").mkdir()
    other = ["rerank", "../b.h5", "--with", halves / "a.h5", "--top", 7, "-q", "--queries-root", ".."]
    named = shortlist.replace(b'"a.h5"', b'"../a.h5"').replace(b'"b.h5"', os.fsencode(f'"{halves}/b.h5"'))
    moved = imgrank(*other, "--format", "tsv", cwd=halves / "below", input=named)
    assert moved.returncode == 0, moved.stderr.decode()
    rows = [line.split(b"\t") for line in moved.stdout.splitlines()]
    assert rows[0][-1] == b"bundle"
    assert {row[-1] for row in rows[1:]} == {b"../b.h5", os.fsencode(halves / "a.h5")}
    refused = imgrank("rerank", "a.h5", cwd=halves, input=shortlist)
    assert (refused.returncode, refused.stdout) == (5, b"")
    assert b"add it: --with b.h5" in refused.stderr


def test_formats(imgrank, halves: Path) -> None:
    def search(form: str) -> bytes:
        run = imgrank(*SEARCH, "--format", form, cwd=halves)
        assert run.returncode == 0, run.stderr.decode()
        return run.stdout

    paths = search("paths").decode().splitlines()
    assert len(paths) == 30
    header, *lines = [line.split("\t") for line in search("tsv").decode().splitlines()]
    rows = [dict(zip(header, line, strict=True)) for line in lines]
    assert [row["path"] for row in rows] == paths
    assert {row["bundle"] for row in rows} == {"a.h5", "b.h5"}
    run = search("trec")
    assert [line.split()[2].decode() for line in run.splitlines()] == paths
    assert b"bundle" in search("table")
    # Without --with, nothing says bundle.
    alone = imgrank("search", "a.h5", "queries", "--format", "tsv", cwd=halves).stdout
    assert b"bundle" not in alone
    ranked = imgrank("rerank", "a.h5", "--with", "b.h5", "--top", 15, "-q", cwd=halves, input=run)
    assert ranked.returncode == 0, ranked.stderr.decode()
    for hit in records(ranked.stdout):  # named by path, found in its bundle
        assert {"path": hit["path"], "bundle": hit["bundle"]} in [
            {key: row[key] for key in ("path", "bundle")} for row in rows
        ]


def test_what_cannot_be_searched_together(imgrank, halves: Path) -> None:
    def refuses(code: int, *words: str, more: tuple = ()) -> None:
        run = imgrank(*SEARCH, *more, cwd=halves)
        message = run.stderr.decode()
        assert (run.returncode, run.stdout) == (code, b""), message
        assert "Traceback" not in message
        for word in words:
            assert word in message

    os.link(halves / "a.h5", halves / "again.h5")
    refuses(2, "a.h5 and again.h5 are the same bundle; name it once", more=("--with", "again.h5"))
    refuses(4, "none.h5: no such file", more=("--with", "none.h5"))
    refuses(2, "--root is given 1 times for 2 bundles", more=("--root", "."))
    shutil.copy(halves / "b.h5", halves / "c.h5")
    with h5py.File(halves / "c.h5", "r+") as root:
        root["graph"].attrs["input-digest"] = "0" * 32
    refuses(4, "run `imgrank index c.h5` again", more=("--with", "c.h5"))
    with h5py.File(halves / "c.h5", "r+") as root:
        root["descriptors"].attrs["model-revision"] = "another"
    refuses(4, "c.h5: holds descriptors of builtin (another", "but a.h5", more=("--with", "c.h5"))


def test_hits_of_another_bundle_remove_nothing(imgrank, halves: Path) -> None:
    hits = imgrank(*SEARCH, cwd=halves).stdout
    run = imgrank("remove", "a.h5", "--ids-from", "-", cwd=halves, input=hits)
    assert (run.returncode, run.stdout) == (5, b"")
    assert b"is of 'b.h5'" in run.stderr
    own = b"".join(line + b"\n" for line in hits.splitlines()[:5] if b'"a.h5"' in line)
    assert imgrank("remove", "./a.h5", "--ids-from", "-", cwd=halves, input=own).returncode == 0
