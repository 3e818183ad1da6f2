"""Subjects on disk: shards that are written once, whole, and read back."""

import io
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from PIL import Image
from safetensors.numpy import load_file

from imgrank.local.keypoints import LocalSettings, detect
from imgrank.training import corpus
from imgrank.training.corpus import draw_corpus, draw_shard, read_shards, shard_path
from imgrank.training.subjects import SAME, SIBLING, VARIANT, Shot
from tests.training.handmade import quick_subject

SHARD = 2


@pytest.fixture(autouse=True)
def drawing(monkeypatch, opencv_threads):
    """Draw simple pictures, in this process; return the numbers of the subjects that were drawn."""
    numbers = []
    monkeypatch.setattr(corpus, "SHARD", SHARD)
    monkeypatch.setattr(corpus, "draw_subject", lambda number: numbers.append(number) or quick_subject(number))
    monkeypatch.setattr(corpus, "ProcessPoolExecutor", lambda workers, context: ThreadPoolExecutor(workers))
    return numbers


def contents(folder):
    return {path.name: path.read_bytes() for path in folder.iterdir()}


def test_all_shards_are_drawn_and_counted(tmp_path, drawing):
    assert list(draw_corpus(tmp_path / "a" / "b", 3, workers=1)) == [0, 2, 4]
    assert sorted(drawing) == [0, 1, 2, 3]
    assert sorted(contents(tmp_path / "a" / "b")) == [shard_path(tmp_path, shard).name for shard in (0, 1)]


def test_drawing_goes_on_where_a_shard_is_missing(tmp_path, drawing):
    list(draw_corpus(tmp_path, 6, workers=1))
    whole = contents(tmp_path)
    times = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    missing = shard_path(tmp_path, 1)
    missing.unlink()
    drawing.clear()
    assert list(draw_corpus(tmp_path, 6, workers=1)) == [4, 6]
    assert drawing == [2, 3]
    assert contents(tmp_path) == whole  # equal numbers give equal bytes
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir() if path != missing} == {
        path: time for path, time in times.items() if path != missing
    }
    assert list(draw_corpus(tmp_path, 6, workers=1)) == [6]
    assert list(draw_corpus(tmp_path, 7, workers=1)) == [6, 8]


def test_drawing_may_begin_at_a_later_subject(tmp_path, drawing):
    assert list(draw_corpus(tmp_path, 2, first=4, workers=1)) == [0, 2]
    assert drawing == [4, 5]
    assert read_shards([shard_path(tmp_path, 2)]).subject.tolist() == [4] * 6 + [5] * 6


def test_a_shard_that_could_not_be_finished_is_not_there(tmp_path, monkeypatch):
    def fail(number):
        if number == 3:
            raise MemoryError
        return quick_subject(number)

    monkeypatch.setattr(corpus, "draw_subject", fail)
    counts = draw_corpus(tmp_path, 4, workers=1)
    assert [next(counts), next(counts)] == [0, 2]
    with pytest.raises(MemoryError):
        next(counts)
    assert list(contents(tmp_path)) == [shard_path(tmp_path, 0).name]


def test_what_was_found_in_the_photos_is_read_back(tmp_path):
    draw_shard(tmp_path, 0)
    draw_shard(tmp_path, 3)
    photos = read_shards([shard_path(tmp_path, 3), shard_path(tmp_path, 0)])
    numbers = [6, 7, 0, 1]
    shots = [shot for number in numbers for shot in quick_subject(number)]
    assert len(photos) == len(shots) == 24
    assert photos.subject.tolist() == [number for number in numbers for _ in range(6)]
    assert photos.role.tolist() == [SAME, SAME, SAME, SAME, SIBLING, VARIANT] * 4
    np.testing.assert_array_equal(photos.plane, [shot.plane for shot in shots])
    for shot, found in zip(shots, photos.keypoints, strict=True):
        expected = detect(shot.pixels, LocalSettings())
        assert len(found) > 20
        for name in ("root_sift", "places", "colours"):
            np.testing.assert_array_equal(getattr(found, name), getattr(expected, name))
            assert getattr(found, name).dtype == getattr(expected, name).dtype
        assert found.extent == pytest.approx(expected.extent)


def test_photos_without_keypoints_and_of_other_shapes_keep_their_place(tmp_path, monkeypatch):
    flat = Shot(SAME, np.full((60, 40, 3), 90, np.uint8), np.eye(3))
    monkeypatch.setattr(corpus, "draw_subject", lambda number: [flat, *quick_subject(number)[:2], flat])
    draw_shard(tmp_path, 0)
    photos = read_shards([shard_path(tmp_path, 0)])
    assert [len(one) > 0 for one in photos.keypoints] == [False, True, True, False] * SHARD
    assert photos.keypoints[0].extent == pytest.approx((2 / 3, 1))
    assert photos.keypoints[3].root_sift.shape == (0, 128)


def test_the_photos_lie_in_the_shard_as_jpeg_files(tmp_path):
    draw_shard(tmp_path, 0)
    held = load_file(shard_path(tmp_path, 0))
    ends = np.cumsum(held["jpeg_sizes"])
    assert ends[-1] == len(held["jpeg"])
    shots = [shot for number in range(SHARD) for shot in quick_subject(number)]
    for shot, end, size in zip(shots, ends, held["jpeg_sizes"], strict=True):
        image = np.asarray(Image.open(io.BytesIO(held["jpeg"][end - size : end].tobytes())))
        assert image.shape == shot.pixels.shape
        assert np.abs(image.astype(int) - shot.pixels).mean() < 6


def test_some_of_the_photos_can_be_taken(tmp_path):
    draw_shard(tmp_path, 0)
    photos = read_shards([shard_path(tmp_path, 0)])
    some = photos.take(np.array([7, 2]))
    assert some.subject.tolist() == [1, 0]
    assert some.role.tolist() == [SAME, SAME]
    np.testing.assert_array_equal(some.plane, photos.plane[[7, 2]])
    assert some.keypoints == [photos.keypoints[7], photos.keypoints[2]]
