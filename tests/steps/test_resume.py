"""A run that is cut and started again ends in the same bits as one that was not."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import h5py
import numpy as np
import pytest
from PIL import Image

from imgrank.bundle import file
from imgrank.bundle.journal import journal_path


def many_photos(folder: Path, count: int) -> Path:
    folder.mkdir()
    rng = np.random.default_rng(0)
    for number in range(count):
        blocks = rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)
        photo = Image.fromarray(blocks).resize((240, 180), Image.Resampling.NEAREST)
        photo.save(folder / f"{number:04d}.jpg", quality=85)
    return folder


def contents(bundle: Path) -> dict[str, np.ndarray]:
    """Everything a search depends on, by path, without what differs between runs (ids of the file, times)."""
    found = {}

    def visit(name: str, item: object) -> None:
        if isinstance(item, h5py.Dataset):
            found[name] = item[:]

    with h5py.File(bundle, "r") as root:
        root.visititems(visit)
    return found


def assert_same(one: Path, other: Path) -> None:
    first, second = contents(one), contents(other)
    assert first.keys() == second.keys()
    for name in first:
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return many_photos(tmp_path_factory.mktemp("many") / "photos", 200)


def test_the_same_command_gives_the_same_bits(imgrank, collection: Path) -> None:
    for name in ("one.h5", "two.h5"):
        assert imgrank("index", "photos", "-o", name, "--threads", 1, cwd=collection).returncode == 0
    assert_same(collection / "one.h5", collection / "two.h5")
    assert_same(collection / "one.h5", collection / "db.h5")
    searches = [
        imgrank("search", name, "queries", "--rerank", 10, cwd=collection).stdout for name in ("one.h5", "two.h5")
    ]
    assert searches[0] == searches[1]
    assert searches[0]


@pytest.mark.slow
def test_embed_killed_at_any_moment_goes_on_and_ends_in_the_same_bits(imgrank, photos: Path, tmp_path: Path) -> None:
    os.symlink(photos, tmp_path / "photos")
    whole, cut = tmp_path / "whole.h5", tmp_path / "cut.h5"
    start = time.monotonic()
    root = ["--root", photos.parent]
    assert imgrank("embed", photos, "-o", whole, *root).returncode == 0
    seconds = time.monotonic() - start
    rng = np.random.default_rng(1)
    kept = []
    for _ in range(6):
        command = [sys.executable, "-m", "imgrank", "embed", str(photos), "-o", str(cut), *map(str, root)]
        with subprocess.Popen(command, stderr=subprocess.DEVNULL) as child:
            try:
                child.wait(float(rng.uniform(0.2, 0.9)) * seconds)
            except subprocess.TimeoutExpired:
                child.send_signal(signal.SIGKILL)
        if cut.exists():
            with file.read(cut) as opened:
                kept.append(len(opened.images))
                assert len(opened.images) % 64 == 0 or len(opened.images) == 200
    assert kept == sorted(kept)  # nothing that was committed is lost
    assert imgrank("embed", photos, "-o", cut, *root).returncode == 0
    assert_same(whole, cut)
    assert not journal_path(cut).exists()


def test_a_full_disk_leaves_the_bundle_as_it_was(collection: Path) -> None:
    before = (collection / "db.h5").read_bytes()
    many_photos(collection / "photos" / "more", 80)
    limit = len(before) // 1024 + 100  # room for some of what is to be added, not for all
    script = f"ulimit -f {limit}; exec {sys.executable} -m imgrank embed photos -o db.h5"
    run = subprocess.run(["bash", "-c", script], cwd=collection, capture_output=True, check=False)
    assert run.returncode == 1, run.stderr
    assert b"Traceback" not in run.stderr
    assert b"large" in run.stderr or b"space" in run.stderr
    assert (collection / "db.h5").read_bytes() == before
    assert sorted(path.name for path in collection.glob("db.h5*")) == ["db.h5"]


def test_a_changed_photo_gets_a_new_row_and_its_old_one_is_hidden(imgrank, collection: Path) -> None:
    target = collection / "photos" / "object-00-view-0.jpg"
    target.unlink()  # a hard link to the shared collection: replace, do not overwrite
    shutil.copy(collection / "queries" / "query-01.jpg", target)
    run = imgrank("index", "photos", "-o", "db.h5", "--threads", 1, cwd=collection)
    assert run.returncode == 0, run.stderr
    assert b"1 photos embedded, 19 known already" in run.stderr
    assert b"graph extended" in run.stderr
    run = imgrank("search", "db.h5", "queries/query-01.jpg", "--format", "tsv", cwd=collection)
    rows = [line.split(b"\t") for line in run.stdout.splitlines()[1:]]
    assert len(rows) == 20  # as many as there are photos, the old row is not among them
    assert rows[0][2:4] == [b"20", b"photos/object-00-view-0.jpg"]
    assert float(rows[0][5]) == pytest.approx(1.0, abs=1e-6)


def test_photos_newer_than_the_graph_are_found(imgrank, collection: Path) -> None:
    shutil.copy(collection / "queries" / "query-01.jpg", collection / "photos" / "new.jpg")
    assert imgrank("embed", "photos", "-o", "db.h5", cwd=collection).returncode == 0
    search = ["search", "db.h5", "queries/query-01.jpg", "-k", 21]
    before = imgrank(*search, cwd=collection)
    assert before.stdout.splitlines()[0].count(b"photos/new.jpg") == 1
    assert imgrank("index", "db.h5", cwd=collection).stderr.count(b"graph extended") == 1
    assert imgrank(*search, cwd=collection).stdout == before.stdout
    assert imgrank(*search, "--exact", cwd=collection).stdout == before.stdout


def test_a_cache_that_lags_behind_is_not_continued_out_of_step(imgrank, collection: Path) -> None:
    code = (
        "import os, sys\nfrom imgrank.steps import cache_tokens\nreal = cache_tokens.append_tokens\n"
        "def append(*arguments):\n    real(*arguments)\n    cache_tokens.append_tokens = lambda *_: os._exit(9)\n"
        "cache_tokens.append_tokens = append\nfrom pathlib import Path\n"
        "cache_tokens.cache_tokens(Path('db.h5'), cache='local')\n"
    )
    with file.Writer(collection / "db.h5") as writer, writer.transaction() as h5:
        del h5["tokens/local"]
    assert subprocess.run([sys.executable, "-c", code], cwd=collection, check=False).returncode == 9
    shutil.copy(collection / "queries" / "query-01.jpg", collection / "photos" / "new.jpg")
    assert imgrank("index", "photos", "-o", "db.h5", "--threads", 1, cwd=collection).returncode == 0
    with file.read(collection / "db.h5") as opened:
        assert (len(opened.images), len(opened.tokens("local"))) == (21, 16)
    search = ["search", "db.h5", "queries/query-01.jpg", "--rerank", 21]
    lagging = imgrank(*search, cwd=collection)
    assert b"5 of 21 candidates have no cached tokens" in lagging.stderr
    caching = imgrank("cache-tokens", "db.h5", "--cache", "local", cwd=collection)
    assert caching.stderr.count(b"5 photos computed, 16 known already") == 1
    assert imgrank(*search, cwd=collection).stdout == lagging.stdout


def test_a_folder_and_its_bundle_move_together(imgrank, collection: Path) -> None:
    before = imgrank("search", "db.h5", "queries", "--rerank", 5, cwd=collection).stdout
    moved = collection.with_name("elsewhere")
    collection.rename(moved)
    assert imgrank("search", "db.h5", "queries", "--rerank", 5, cwd=moved).stdout == before


def test_a_second_writer_names_the_first(imgrank, collection: Path) -> None:
    with file.Writer(collection / "db.h5"):
        run = imgrank("index", "photos", "-o", "db.h5", cwd=collection)
        assert run.returncode == 4
        assert f"process {os.getpid()} is writing".encode() in run.stderr
        assert imgrank("search", "db.h5", "queries", cwd=collection).returncode == 0


@pytest.mark.slow
def test_a_projection_of_the_collection_lies_in_the_bundle(imgrank, photos: Path, tmp_path: Path) -> None:
    os.symlink(photos, tmp_path / "photos")
    options = ["--projection", "collection", "--root", photos.parent, "--threads", 1]
    run = imgrank("index", photos, "-o", "own.h5", *options, cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    with h5py.File(tmp_path / "own.h5") as root:
        group = root["descriptors"]
        assert group["projection/basis"].shape == (len(group["projection/mean"]), group["vectors"].shape[1])
        assert b"+" in group.attrs["model-revision"]
        before = group["vectors"][:]
        assert np.linalg.norm(before, axis=1) == pytest.approx(1, abs=1e-5)
    query = photos / "0007.jpg"
    _, line = imgrank("search", "own.h5", query, "-k", 1, "--format", "tsv", cwd=tmp_path).stdout.splitlines()
    first = line.split(b"\t")
    assert first[3].endswith(b"0007.jpg")
    assert float(first[5]) == pytest.approx(1.0, abs=1e-6)
    # More photos are embedded with the projection that is there.
    extra = photos.parent / "extra"
    if not extra.exists():
        many_photos(extra, 3)
    run = imgrank("index", extra, "-o", "own.h5", cwd=tmp_path)
    assert run.returncode == 0, run.stderr
    with h5py.File(tmp_path / "own.h5") as root:
        np.testing.assert_array_equal(root["descriptors/vectors"][:200], before)
        assert root["descriptors/vectors"].shape[0] == 203
    # The default projection is another encoder.
    assert imgrank("embed", photos, "-o", "own.h5", "--projection", "default", cwd=tmp_path).returncode == 4
    few = imgrank("index", extra, "-o", "few.h5", *options, cwd=tmp_path)
    assert few.returncode == 5
    assert b"too few to fit a projection" in few.stderr
    assert not (tmp_path / "few.h5").exists()
