"""`group`, `dedup` and `fuse` through processes and pipes."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image, ImageEnhance

ORIGINAL = "object-00-view-0"


def records(output: bytes) -> list[dict]:
    return [json.loads(line) for line in output.splitlines()]


def names(group: dict) -> set[str]:
    return {Path(photo["path"]).stem for photo in group["photos"]}


@pytest.fixture(scope="module")
def _copied(imgrank, _indexed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The drawn collection with six copies of one photo in it."""
    folder = tmp_path_factory.mktemp("copied")
    shutil.copytree(_indexed.parent / "photos", folder / "photos")
    shutil.copy2(_indexed, folder / "db.h5")
    path = folder / "photos" / f"{ORIGINAL}.jpg"
    image = Image.open(path)
    width, height = image.size
    copies = folder / "photos" / "copies"
    copies.mkdir()
    image.resize((width // 2, height // 2), Image.Resampling.LANCZOS).save(copies / "half.jpg")
    image.save(copies / "saved.jpg", quality=30)
    image.crop((0, 0, int(0.95 * width), int(0.95 * height))).save(copies / "cropped.jpg")
    ImageEnhance.Brightness(image).enhance(1.15).save(copies / "bright.jpg")
    image.resize((2 * width, 2 * height), Image.Resampling.LANCZOS).save(copies / "double.jpg")
    shutil.copy(path, os.fsencode(copies) + b"/same\n\xff.jpg")
    run = imgrank("index", "photos", "-o", "db.h5", "--threads", 1, "-q", cwd=folder)
    assert run.returncode == 0, run.stderr.decode()
    return folder


@pytest.fixture
def copied(_copied: Path, tmp_path: Path) -> Path:
    shutil.copytree(_copied, tmp_path / "copied", copy_function=shutil.copy2)
    return tmp_path / "copied"


def test_group_finds_the_drawn_objects(imgrank, collection: Path) -> None:
    run = imgrank("group", "db.h5", "--edges", "-q", cwd=collection)
    assert run.returncode == 0, run.stderr.decode()
    groups = records(run.stdout)
    assert groups
    assert [group["group"] for group in groups] == list(range(1, len(groups) + 1))
    assert [group["size"] for group in groups] == sorted((len(group["photos"]) for group in groups), reverse=True)
    for group in groups:
        assert list(group) == ["schema_version", "group", "size", "photos", "edges"]
        assert {name[:9] for name in names(group)} == {next(iter(names(group)))[:9]}, "of one object"
        assert all((collection / photo["path"]).is_file() for photo in group["photos"])
        for edge in group["edges"]:
            first, second = edge["photos"]
            assert 0 <= first < second < group["size"]
            assert edge["score"] >= 0.4
    assert len({next(iter(names(group)))[:9] for group in groups} - {"distracto"}) >= 4  # of five objects


def test_group_without_the_photos_and_without_a_scorer(imgrank, collection: Path) -> None:
    before = imgrank("group", "db.h5", "-q", cwd=collection).stdout
    shutil.rmtree(collection / "photos")
    assert imgrank("group", "db.h5", "-q", cwd=collection).stdout == before
    refused = imgrank("group", "db.h5", "--scorer", "none", cwd=collection)
    assert (refused.returncode, refused.stdout) == (2, b"")
    assert b"give --min-similarity" in refused.stderr
    assert imgrank("group", "db.h5", "--scorer", "none", "--min-score", 1, cwd=collection).returncode == 2
    everything = ["--scorer", "none", "--min-similarity", -1, "--neighbours", 30]
    (whole,) = records(imgrank("group", "db.h5", *everything, cwd=collection).stdout)
    assert whole["size"] == 20
    run = imgrank("group", "db.h5", "--min-score", 1, "--exit-status", "-q", cwd=collection)
    assert (run.returncode, run.stdout) == (6, b"")


def test_group_of_two_bundles_is_that_of_one(imgrank, collection: Path) -> None:
    paths = sorted(f"photos/{path.name}" for path in (collection / "photos").iterdir())
    for bundle, some in (("a.h5", paths[::2]), ("b.h5", paths[1::2])):
        assert imgrank("index", "-", "-o", bundle, "-q", cwd=collection, input="\n".join(some).encode()).returncode == 0
    options = ["-q", "--exact", "--linkage", "single"]
    apart = records(imgrank("group", "a.h5", "--with", "b.h5", *options, cwd=collection).stdout)
    whole = records(imgrank("group", "db.h5", *options, cwd=collection).stdout)
    assert sorted(map(sorted, map(names, apart))) == sorted(map(sorted, map(names, whole)))
    assert {photo["bundle"] for group in apart for photo in group["photos"]} == {"a.h5", "b.h5"}
    header = imgrank("group", "a.h5", "--with", "b.h5", *options, "--format", "tsv", cwd=collection).stdout.split(b"\n")
    assert header[0].split(b"\t") == [b"group", b"size", b"id", b"path", b"bundle"]


def test_dedup_finds_the_copies_and_keeps_the_largest(imgrank, copied: Path) -> None:
    run = imgrank("dedup", "db.h5", "--edges", cwd=copied)
    assert run.returncode == 0, run.stderr.decode()
    (group,) = records(run.stdout)
    expected = {ORIGINAL, "half", "saved", "cropped", "bright", "double", "same\n\udcff"}
    assert names(group) == expected
    assert Path(group["photos"][0]["path"]).stem == "double"
    leads = {edge["photos"][1] for edge in group["edges"] if edge["photos"][0] == 0}
    scored = [edge for edge in group["edges"] if "score" in edge]
    assert len(scored) == len(group["edges"]) - 1  # files of the same content are not looked at
    assert all(edge["score"] >= 0.65 for edge in scored)
    assert len(leads) >= 5  # each is a copy of the first, but for a file of the same content as one that is
    assert b"6 photos" in run.stderr
    (same,) = records(imgrank("dedup", "db.h5", "--by", "content", "-q", cwd=copied).stdout)
    assert names(same) == {ORIGINAL, "same\n\udcff"}


def test_duplicates_compose_with_remove_and_rm(imgrank, copied: Path) -> None:
    listed = imgrank("dedup", "db.h5", "--duplicates-only", "-q", cwd=copied)
    found = records(listed.stdout)
    assert [list(record) for record in found] == [["schema_version", "group", "id", "path", "duplicate_of"]] * 6
    paths = imgrank("dedup", "db.h5", "--duplicates-only", "--format", "paths", "-0", "-q", cwd=copied).stdout
    assert paths.endswith(b"\0")
    assert paths.split(b"\0")[:-1] == [os.fsencode(record["path"]) for record in found]
    removed = imgrank("remove", "db.h5", "--ids-from", "-", "-q", cwd=copied, input=listed.stdout)
    assert removed.returncode == 0, removed.stderr.decode()
    again = imgrank("dedup", "db.h5", "--exit-status", cwd=copied)
    assert (again.returncode, again.stdout) == (6, b"")
    assert imgrank("dedup", "db.h5", cwd=copied).returncode == 0
    before = set(os.listdir(os.fsencode(copied / "photos/copies")))
    subprocess.run(["xargs", "-0", "rm", "--"], input=paths, cwd=copied, check=True)
    left = set(os.listdir(os.fsencode(copied / "photos/copies")))
    assert left == {b"double.jpg"} < before
    assert not (copied / "photos" / f"{ORIGINAL}.jpg").exists()


def test_formats_of_groups(imgrank, copied: Path) -> None:
    def dedup(*more: object) -> bytes:
        run = imgrank("dedup", "db.h5", "-q", *more, cwd=copied)
        assert run.returncode == 0, run.stderr.decode()
        return run.stdout

    header, *rows = [line.split(b"\t") for line in dedup("--format", "tsv").splitlines()]
    assert header == [b"group", b"size", b"id", b"path"]
    assert [row[:2] for row in rows] == [[b"1", b"7"]] * 7
    assert rb"photos/copies/same\n" + b"\xff.jpg" in [row[3] for row in rows]
    header, *rows = [line.split(b"\t") for line in dedup("--format", "tsv", "--duplicates-only").splitlines()]
    assert header[-1] == b"duplicate_of"
    assert len(rows) == 6
    assert b"group" in dedup("--format", "table")
    grouped = imgrank("group", "db.h5", "-q", "--format", "paths", "-0", cwd=copied).stdout
    as_records = records(imgrank("group", "db.h5", "-q", cwd=copied).stdout)
    parts = [part.split(b"\0") for part in grouped.removesuffix(b"\0").split(b"\0\0")]
    assert parts == [[os.fsencode(photo["path"]) for photo in group["photos"]] for group in as_records]
    assert len(parts) > 1


def test_usage(imgrank, collection: Path) -> None:
    for wrong in (
        ["dedup", "db.h5", "--by", "similarity"],
        ["dedup", "db.h5", "--duplicates-only", "--edges"],
        ["group", "db.h5", "--linkage", "ward"],
        ["fuse"],
        ["fuse", "-", "-"],
        ["fuse", "missing.trec"],
        ["fuse", "qrels.tsv", "--weight", "1", "--weight", "2"],
    ):
        run = imgrank(*wrong, cwd=collection)
        assert (run.returncode, run.stdout) == (2, b""), wrong
        assert b"Traceback" not in run.stderr


def test_one_photo_and_an_empty_collection(imgrank, tmp_path: Path) -> None:
    Image.effect_mandelbrot((120, 90), (-2, -1, 1, 1), 60).convert("RGB").save(tmp_path / "a.jpg")
    assert imgrank("index", "a.jpg", "-o", "db.h5", "-q", cwd=tmp_path).returncode == 0
    for command in ("group", "dedup"):
        run = imgrank(command, "db.h5", cwd=tmp_path)
        assert (run.returncode, run.stdout) == (0, b""), run.stderr.decode()
    assert imgrank("remove", "db.h5", "a.jpg", "-q", cwd=tmp_path).returncode == 0
    for command in ("group", "dedup"):
        run = imgrank(command, "db.h5", "--exit-status", cwd=tmp_path)
        assert (run.returncode, run.stdout) == (6, b""), run.stderr.decode()
    assert imgrank("embed", "a.jpg", "-o", "nograph.h5", "-q", cwd=tmp_path).returncode == 0
    run = imgrank("group", "nograph.h5", cwd=tmp_path)
    assert run.returncode == 4
    assert b"imgrank index" in run.stderr


def test_fused_runs_can_be_reranked(imgrank, collection: Path) -> None:
    def search(*more: object) -> bytes:
        return imgrank("search", "db.h5", "queries", "-q", "-k", 8, *more, cwd=collection).stdout

    (collection / "a.jsonl").write_bytes(search())
    (collection / "b.trec").write_bytes(search("--rerank", 8, "--format", "trec"))
    run = imgrank("fuse", "a.jsonl", "b.trec", "-k", 5, cwd=collection)
    assert run.returncode == 0, run.stderr.decode()
    hits = records(run.stdout)
    assert len(hits) == 10
    ids = {record["path"]: record["id"] for record in records((collection / "a.jsonl").read_bytes())}
    assert [hit["id"] for hit in hits] == [ids[hit["path"]] for hit in hits]
    assert hits[0]["score"] <= 2 / 61 + 1e-9
    ranked = imgrank("rerank", "db.h5", "--top", 5, "-q", cwd=collection, input=run.stdout)
    assert ranked.returncode == 0, ranked.stderr.decode()
    assert {hit["path"] for hit in records(ranked.stdout)} == {hit["path"] for hit in hits}
    alone = imgrank("fuse", "-", "--format", "paths", cwd=collection, input=(collection / "a.jsonl").read_bytes())
    assert alone.stdout.decode().splitlines() == [hit["path"] for hit in records((collection / "a.jsonl").read_bytes())]
    half = b"".join((collection / "a.jsonl").read_bytes().splitlines(keepends=True)[:8])
    run = imgrank("fuse", "b.trec", "-", "--format", "trec", cwd=collection, input=half)
    assert run.returncode == 0
    assert b"standard input lacks 1 of 2 queries" in run.stderr
    assert {line.split()[0] for line in run.stdout.splitlines()} == {b"queries/query-00.jpg", b"queries/query-01.jpg"}


def test_an_interrupt_leaves_the_bundle_as_it_is(collection: Path) -> None:
    before = (collection / "db.h5").read_bytes()
    code = (
        "import imgrank.steps.group as g\n"
        "def stop(*a, **k): raise KeyboardInterrupt\n"
        "g.score_pairs = stop\n"
        "from imgrank.cli import cli\n"
        "cli.main(['group', 'db.h5'])"
    )
    run = subprocess.run([sys.executable, "-c", code], cwd=collection, capture_output=True, check=False)
    assert (run.returncode, run.stdout) == (130, b"")
    assert (collection / "db.h5").read_bytes() == before
