"""Thumbnails through the life of a bundle."""

import os
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from imgrank.bundle import file
from imgrank.errors import DamagedBundleError, MismatchError
from imgrank.images.thumbnails import check_thumbnail
from imgrank.progress import Silent
from imgrank.steps import thumbnails as step
from imgrank.steps.build_index import build_index
from imgrank.steps.check import check
from imgrank.steps.compact import compact
from imgrank.steps.embed import embed
from imgrank.steps.info import describe
from imgrank.steps.merge import merge
from imgrank.steps.remove import remove
from imgrank.steps.repair import repair
from imgrank.steps.split import split
from imgrank.steps.thumbnails import add_thumbnails


def draw(path: Path, number: int) -> None:
    """A photo of its own size, so that thumbnails can be told apart."""
    rng = np.random.default_rng(number)
    Image.fromarray(rng.integers(0, 255, (30 + number, 60, 3), np.uint8)).save(path)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    folder = tmp_path / "photos"
    folder.mkdir()
    for number in range(5):
        draw(folder / f"{number}.png", number)
    return folder


def index(photos: Path, thumbnails: int | None = None, name: str = "db.h5", **options) -> Path:
    bundle = photos.parent / name
    embed(bundle, [os.fsencode(photos)], thumbnails=thumbnails, **options)
    return bundle


def kept(bundle: Path) -> dict[str, tuple[int, int] | None]:
    """Sizes of thumbnails by the photo's name; None: its row has none."""
    with file.read(bundle) as opened:
        table = opened.thumbnail_table
        found = {}
        for path, one in zip(opened.images.paths(), table.read(range(len(table))), strict=False):
            if one is not None:
                check_thumbnail(one, "thumbnail")
            found[Path(os.fsdecode(path)).name] = None if one is None else (one.width, one.height)
        return found


def sizes(*numbers: int) -> dict[str, tuple[int, int]]:
    return {f"{n}.png": (40, (2 * (30 + n) * 40 + 60) // 120) for n in numbers}


def files(bundle: Path) -> list[bytes]:
    with file.read(bundle) as opened:
        return [one.data for one in opened.thumbnail_table.read(range(5))]


def test_embedding_makes_them_in_the_same_pass_and_leaves_descriptors_as_they_are(photos: Path):
    (photos / "bad.png").write_bytes(b"\x89PNG\r\n\x1a\n")
    bundle = index(photos, 40)
    assert kept(bundle) == {**sizes(0, 1, 2, 3, 4), "bad.png": None}
    with file.read(bundle) as one, file.read(index(photos, name="plain.h5")) as other:
        assert other.thumbnail_table is None
        np.testing.assert_array_equal(one.descriptors.read(), other.descriptors.read())


def test_they_are_made_later_and_then_for_new_photos(photos: Path):
    bundle = index(photos)
    assert add_thumbnails(bundle, 40) == {}
    later = files(bundle)
    assert kept(bundle) == sizes(0, 1, 2, 3, 4)
    assert later == files(index(photos, 40, "once.h5"))
    draw(photos / "5.png", 5)
    index(photos)  # nobody asked again, but the bundle keeps thumbnails
    assert kept(bundle) == sizes(0, 1, 2, 3, 4, 5)
    assert files(bundle) == later


def test_one_command_fills_old_rows_and_new_ones(photos: Path):
    bundle = index(photos)
    draw(photos / "5.png", 5)
    index(photos, 40)
    assert kept(bundle) == sizes(0, 1, 2, 3, 4, 5)


def test_a_run_that_was_cut_goes_on(photos: Path, monkeypatch):
    bundle = index(photos)
    monkeypatch.setattr(step, "PART", 2)

    append, calls = step.append_thumbnails, []

    def cut(h5, part):
        if len(calls) == 1:
            raise KeyboardInterrupt
        calls.append(len(part))
        append(h5, part)

    monkeypatch.setattr(step, "append_thumbnails", cut)
    with pytest.raises(KeyboardInterrupt):
        add_thumbnails(bundle, 40)
    assert kept(bundle) == sizes(0, 1)
    (finding,) = [one for one in check(bundle).findings if one.code == "thumbnails-behind"]
    assert finding.rows == (2, 3, 4)
    draw(photos / "5.png", 5)
    index(photos)  # they lag behind, so new photos wait for the command that makes them
    assert kept(bundle) == sizes(0, 1)
    monkeypatch.setattr(step, "append_thumbnails", append)
    add_thumbnails(bundle, 40)
    assert kept(bundle) == sizes(0, 1, 2, 3, 4, 5)


def test_another_size_is_refused_until_they_are_taken_out(photos: Path):
    bundle = index(photos, 40)
    for again in (lambda: add_thumbnails(bundle, 50), lambda: index(photos, 50)):
        with pytest.raises(MismatchError, match=r"40 pixels, asked for 50; `--thumbnails 0`"):
            again()
    assert kept(bundle) == sizes(0, 1, 2, 3, 4)
    index(photos, 0)
    with file.read(bundle) as opened:
        assert opened.thumbnail_table is None
    add_thumbnails(bundle, 50)
    assert kept(bundle)["0.png"] == (50, 25)


def test_photos_that_are_gone_or_changed_give_none_and_are_named(photos: Path):
    bundle = index(photos)
    (photos / "1.png").unlink()
    draw(photos / "2.png", 9)

    class Told(Silent):
        def __init__(self) -> None:
            self.codes = []

        def skipped(self, error) -> None:
            self.codes.append(error.code)

    told = Told()
    assert add_thumbnails(bundle, 40, reporter=told) == {"missing": 1, "changed": 1}
    assert told.codes == ["missing", "changed"]
    assert kept(bundle) == {**sizes(0, 3, 4), "1.png": None, "2.png": None}
    index(photos)  # the changed photo is a new row
    with file.read(bundle) as opened:
        assert opened.thumbnail_table.read([5])[0].height == round(39 * 40 / 60)


def test_they_go_along_with_compact_split_and_merge(photos: Path):
    bundle = index(photos, 40)
    before = files(bundle)
    build_index(bundle)
    remove(bundle, [b"photos/1.png"])
    compact(bundle)
    assert kept(bundle) == sizes(0, 2, 3, 4)
    shards = split(bundle, 2)
    assert [kept(shard) for shard in shards] == [sizes(0, 2), sizes(3, 4)]
    both = photos.parent / "both.h5"
    summary = merge(shards, both)
    assert not summary.thumbnails_lost
    assert kept(both) == sizes(0, 2, 3, 4)
    with file.read(both) as opened:
        assert [one.data for one in opened.thumbnail_table.read(range(4))] == [before[n] for n in (0, 2, 3, 4)]
    add_thumbnails(shards[1], 0)
    summary = merge(shards, both, force=True)
    assert summary.thumbnails_lost
    with file.read(both) as opened:
        assert opened.thumbnail_table is None


def test_a_merge_keeps_those_before_the_first_gap(photos: Path):
    bundle = index(photos, 40)
    first, second = split(bundle, 2)
    with file.Writer(first) as writer, writer.transaction() as h5:
        for name, rows in (("crc32", 2), ("width", 2), ("height", 2), ("offsets", 3)):
            h5["thumbnails"][name].resize(rows, axis=0)
    both = photos.parent / "both.h5"
    merge([first, second], both)
    assert kept(both) == sizes(0, 1)
    add_thumbnails(both, 40)
    assert kept(both) == sizes(0, 1, 2, 3, 4)


def flip(bundle: Path, data: bytes) -> None:
    raw = bytearray(bundle.read_bytes())
    raw[raw.find(data) + len(data) // 2] ^= 4
    bundle.write_bytes(raw)


def test_damage_is_found_and_dropped(photos: Path):
    bundle = index(photos, 40)
    build_index(bundle)
    assert check(bundle).findings == []
    flip(bundle, files(bundle)[3])
    report = check(bundle)
    (finding,) = report.findings
    assert (finding.code, finding.rows) == ("thumbnail-damaged", (3,))
    with pytest.raises(DamagedBundleError):
        compact(bundle)
    assert check(bundle, fast=True).findings == []
    done = repair(bundle, report)
    assert (done.dropped, done.after.findings) == (0, [])
    assert kept(bundle) == {**sizes(0, 1, 2, 4), "3.png": None}


def test_a_group_that_cannot_be_read_is_dropped(photos: Path):
    bundle = index(photos, 40)
    build_index(bundle)
    with file.Writer(bundle) as writer, writer.transaction() as h5:
        del h5["thumbnails"]["bytes"]
    report = check(bundle)
    assert {finding.code for finding in report.findings} == {"part-unreadable"}
    assert repair(bundle, report).after.findings == []
    with file.read(bundle) as opened:
        assert opened.thumbnail_table is None


def test_info_counts_them(photos: Path):
    bundle = index(photos, 40)
    (group,) = [one for one in describe(bundle)["groups"] if one["group"] == "/thumbnails"]
    assert (group["thumbnails"], group["images_without_place"]) == (5, 0)
    assert group["settings"] == {"longer_side": 40, "quality": 80}


def test_the_command_line_makes_them(imgrank, collection: Path):
    shutil.copy(collection / "queries" / "query-00.jpg", collection / "photos" / "new.jpg")
    run = imgrank("index", "db.h5", "--thumbnails", 64, cwd=collection)
    assert run.returncode == 0, run.stderr
    run = imgrank("add", "db.h5", "photos", cwd=collection)
    assert run.returncode == 0, run.stderr
    assert len(kept(collection / "db.h5")) == 21
    assert None not in kept(collection / "db.h5").values()
    run = imgrank("info", "db.h5", cwd=collection)
    assert b"  21 thumbnails\n" in run.stdout
    run = imgrank("index", "db.h5", "--thumbnails", 65, cwd=collection)
    assert run.returncode == 4
    assert b"holds thumbnails of 64 pixels" in run.stderr
    assert imgrank("index", "db.h5", "--thumbnails", 5000, cwd=collection).returncode == 2
