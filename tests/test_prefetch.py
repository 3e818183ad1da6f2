import subprocess
import sys
import threading
import time
from concurrent.futures import ThreadPoolExecutor

import pytest

from imgrank.prefetch import in_threads, prefetch


def test_items_come_in_order_and_all_of_them():
    assert list(prefetch(range(100), 3)) == list(range(100))
    assert list(prefetch([], 3)) == []


def test_items_are_produced_while_earlier_ones_are_used():
    produced = threading.Event()

    def items():
        yield 1
        produced.set()
        yield 2

    stream = prefetch(items())
    assert next(stream) == 1
    assert produced.wait(5)  # without anyone asking for the second
    assert list(stream) == [2]


def test_no_more_than_asked_for_is_produced_ahead():
    made = []

    def items():
        for number in range(50):
            made.append(number)
            yield number

    stream = prefetch(items(), 2)
    assert next(stream) == 0
    time.sleep(0.3)
    assert len(made) <= 4  # one used, two waiting, one in the hand
    stream.close()


def test_an_error_comes_after_the_items_before_it():
    def items():
        yield 1
        raise ValueError("broken")

    stream = prefetch(items())
    assert next(stream) == 1
    with pytest.raises(ValueError, match="broken"):
        next(stream)


def test_closing_ends_the_thread():
    before = threading.active_count()
    stream = prefetch(iter(range(1000)), 1)
    next(stream)
    stream.close()
    deadline = time.monotonic() + 5
    while threading.active_count() > before and time.monotonic() < deadline:
        time.sleep(0.02)
    assert threading.active_count() == before


def test_a_thread_that_waits_for_input_does_not_keep_the_process():
    code = (
        "import sys; from imgrank.prefetch import prefetch\n"
        "raw = sys.stdin.buffer.raw\n"
        "for line in prefetch(iter(lambda: raw.read(100), b'')):\n"
        "    print(line.decode().strip()); break\n"
    )
    process = subprocess.Popen([sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE)
    process.stdin.write(b"first\n")
    process.stdin.flush()  # and the pipe stays open
    assert process.stdout.readline() == b"first\n"
    assert process.wait(timeout=20) == 0


def test_work_in_threads_keeps_the_order_and_looks_ahead_no_further():
    taken = []

    def items():
        for number in range(10):
            taken.append(number)
            yield number

    def work(number):
        time.sleep(0.002 * (10 - number))  # later items are done sooner
        return number * number

    with ThreadPoolExecutor(4) as pool:
        stream = in_threads(pool, work, items(), 3)
        assert next(stream) == 0
        assert taken == [0, 1, 2]
        assert list(stream) == [number * number for number in range(1, 10)]


def test_an_error_of_the_work_comes_in_its_place():
    def work(number):
        return 1 // number

    with ThreadPoolExecutor(2) as pool:
        stream = in_threads(pool, work, [1, 0, 1], 2)
        assert next(stream) == 1
        with pytest.raises(ZeroDivisionError):
            next(stream)
