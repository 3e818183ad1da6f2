import os
import threading
import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as hypothesis_settings
from hypothesis import strategies as st

from imgrank.config import DecodeSettings
from imgrank.errors import InputError, SettingsError
from imgrank.images import load as load_module
from imgrank.images.load import load, worker_count


def decoding_threads():
    return [thread for thread in threading.enumerate() if thread.name.startswith("imgrank-decode")]


@pytest.fixture
def folder(tmp_path, encode):
    """Make photos of 1, 2, 3, ... pixels of width, so that each can be told from the others."""

    def folder(count):
        paths = []
        for index in range(count):
            path = os.path.join(os.fsencode(tmp_path), b"%03d.png" % index)
            with open(path, "wb") as file:
                file.write(encode(np.zeros((1, index + 1, 3), dtype=np.uint8), "PNG"))
            paths.append(path)
        return paths

    return folder


@pytest.mark.parametrize("ahead", [None, 0, 1, 50])
@pytest.mark.parametrize("workers", [0, 1, 3])
def test_order_is_kept_and_failures_stay_in_place(folder, workers, ahead):
    paths = folder(20)
    paths[4] += b".missing"
    with open(paths[9], "wb") as file:
        file.write(b"text")
    items = list(load(iter(paths), DecodeSettings(workers=workers), longer_side=None, ahead=ahead))
    assert [item.record.path for item in items] == paths
    for index, item in enumerate(items):
        if index in (4, 9):
            assert item.photo is None
            assert item.error.code == ("missing" if index == 4 else "not-an-image")
        else:
            assert item.error is None
            assert item.photo.width == item.record.width == index + 1
    assert decoding_threads() == []


@hypothesis_settings(max_examples=25, deadline=None)
@given(
    delays=st.lists(st.sampled_from([0, 0.001, 0.004]), max_size=12), workers=st.integers(1, 4), ahead=st.integers(0, 6)
)
def test_order_does_not_depend_on_which_photo_is_done_first(delays, workers, ahead):
    def slow(path, settings, longer_side, thumbnail):
        time.sleep(delays[int(path)])
        return path

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(load_module, "read_photo", slow)
        paths = [b"%d" % index for index in range(len(delays))]
        assert list(load(paths, DecodeSettings(workers=workers), longer_side=None, ahead=ahead)) == paths


def test_the_window_bounds_what_is_taken_ahead(folder):
    taken = []

    def source():
        for path in folder(30):
            taken.append(path)
            yield path

    for done, _ in enumerate(load(source(), DecodeSettings(workers=2), longer_side=None, ahead=3), start=1):
        assert len(taken) <= done + 3
    assert len(taken) == 30


def test_without_looking_ahead_each_path_is_answered_before_the_next_is_asked_for(folder):
    events = []

    def source():
        for path in folder(3):
            events.append("asked")
            yield path

    for _ in load(source(), DecodeSettings(workers=2), longer_side=None, ahead=0):
        events.append("answered")
    assert events == ["asked", "answered"] * 3


def test_photos_are_reduced(folder):
    widths = [item.photo.pixels.shape[1] for item in load(folder(10), DecodeSettings(), longer_side=4)]
    assert widths == [1, 2, 3, 4, 4, 4, 4, 4, 4, 4]


def test_closing_early_drops_the_rest_and_leaves_no_thread(monkeypatch):
    started = []

    def slow(path, settings, longer_side, thumbnail):
        started.append(path)
        time.sleep(0.02)
        return path

    monkeypatch.setattr(load_module, "read_photo", slow)
    items = load((b"%d" % n for n in range(1000)), DecodeSettings(workers=2), longer_side=None, ahead=100)
    assert next(items) == b"0"
    assert decoding_threads() != []
    begin = time.monotonic()
    items.close()
    assert time.monotonic() - begin < 1
    assert decoding_threads() == []
    assert len(started) < 60


def test_an_interrupt_in_the_consumer_leaves_no_thread(folder):
    def consume():
        items = load(folder(30), DecodeSettings(workers=2), longer_side=None)
        next(items)
        items.throw(KeyboardInterrupt)

    with pytest.raises(KeyboardInterrupt):
        consume()
    assert decoding_threads() == []


def test_a_failing_source_fails_after_the_photos_before_it(folder):
    paths = folder(3)

    def source():
        yield from paths
        raise InputError("no more")

    items = load(source(), DecodeSettings(workers=2), longer_side=None, ahead=8)
    assert [next(items).record.path for _ in paths] == paths
    with pytest.raises(InputError, match="no more"):
        next(items)
    assert decoding_threads() == []


def test_worker_count(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(64)), raising=False)
    assert worker_count(DecodeSettings()) == 8
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: {3, 5}, raising=False)
    assert worker_count(DecodeSettings()) == 2
    assert worker_count(DecodeSettings(workers=13)) == 13
    with pytest.raises(SettingsError, match="workers"):
        worker_count(DecodeSettings(workers=-1))
    with pytest.raises(SettingsError, match="ahead"):
        next(load([], DecodeSettings(), longer_side=None, ahead=-1))
