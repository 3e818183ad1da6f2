import threading
import time
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest

from imgrank.config import DecodeSettings
from imgrank.images import decode as decode_module
from imgrank.images.budget import Budget
from imgrank.images.load import load


def test_the_sum_stays_within_the_total():
    budget, held, sums, lock = Budget(10), [], [], threading.Lock()

    def work(amount):
        with budget.hold(amount):
            with lock:
                held.append(amount)
                sums.append(sum(held))
            time.sleep(0.002)
            with lock:
                held.remove(amount)

    with ThreadPoolExecutor(8) as pool:
        list(pool.map(work, [3, 5, 1, 4, 2, 6, 9, 0.5] * 5))
    assert 6 < max(sums) <= 10  # more than one at once, never more than the total
    assert held == []


def test_what_is_larger_than_the_total_is_held_alone():
    budget = Budget(10)
    with budget.hold(1e9):
        other = threading.Thread(target=lambda: budget.hold(1).__enter__())
        other.start()
        other.join(0.05)
        assert other.is_alive()
    other.join(5)
    assert not other.is_alive()


def test_a_failure_gives_back_what_it_held():
    budget = Budget(1)
    with pytest.raises(KeyError), budget.hold(1):
        raise KeyError
    with budget.hold(1):
        pass


@pytest.mark.parametrize("format", ["PNG", "GIF", "JPEG"])
def test_photos_are_decoded_within_the_budget_of_all_threads(format, tmp_path, encode, monkeypatch):
    # Each photo is more than half of the budget, so no two may be decoded at once.
    from PIL.ImageFile import ImageFile

    paths = []
    for number in range(12):
        path = tmp_path / f"{number:02d}"
        path.write_bytes(encode(np.full((20, 30 + number, 3), number, dtype=np.uint8), format))
        paths.append(bytes(path))
    monkeypatch.setattr(decode_module, "_PIXELS", Budget(1000))
    running, most, whole = [], [], ImageFile.load

    def slow(image):
        running.append(1)
        most.append(len(running))
        time.sleep(0.005)
        running.pop()
        return whole(image)

    monkeypatch.setattr(ImageFile, "load", slow)
    items = list(load(paths, DecodeSettings(workers=4), longer_side=None))
    assert [item.record.width for item in items] == list(range(30, 42))
    assert max(most) == 1
    monkeypatch.setattr(decode_module, "_PIXELS", Budget(1e9))
    most.clear()
    list(load(paths, DecodeSettings(workers=4), longer_side=None))
    assert max(most) > 1  # so the test above can fail
