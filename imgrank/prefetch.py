"""Produce items in a thread while earlier ones are being used: reading and decoding beside a busy device."""

from __future__ import annotations

import queue
import threading
from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor, Future
from typing import Any, TypeVar, cast

T = TypeVar("T")
U = TypeVar("U")

_END = object()
_PATIENCE = 0.1  # seconds between looks at whether anyone still wants items


def prefetch(items: Iterable[T], ahead: int = 1) -> Iterator[T]:
    """Yield items in their order while a thread produces up to `ahead` + 1 of them beforehand.

    What `items` raises is raised here, after the items before it. Closing the generator ends the thread after the item
    it is producing. The thread never keeps the process alive: it may be waiting for a line that will not come.

    Args:
        items: iterated in the other thread only.
        ahead: finished items that may wait; at least 1.
    """
    waiting: queue.Queue[tuple[Any, BaseException | None]] = queue.Queue(maxsize=max(1, ahead))
    closed = threading.Event()

    def put(item: Any, error: BaseException | None = None) -> bool:
        while not closed.is_set():
            try:
                waiting.put((item, error), timeout=_PATIENCE)
            except queue.Full:
                continue
            return True
        return False

    def produce() -> None:
        try:
            for item in items:
                if not put(item):
                    return
        except BaseException as error:  # noqa: BLE001  # raised again where the items are used
            put(_END, error)
        else:
            put(_END)

    threading.Thread(target=produce, name="imgrank-prefetch", daemon=True).start()
    try:
        while True:
            item, error = waiting.get()
            if error is not None:
                raise error
            if item is _END:
                return
            yield cast(T, item)
    finally:
        closed.set()


def in_threads(pool: Executor, work: Callable[[T], U], items: Iterable[T], ahead: int) -> Iterator[U]:
    """Yield `work(item)` in the order of the items, which are taken in the caller's thread.

    Args:
        pool: runs the work.
        work: called from its threads.
        items: taken at most `ahead` further than the result being yielded.
        ahead: results in work or waiting; at least 1.
    """
    waiting: deque[Future[U]] = deque()
    for item in items:
        waiting.append(pool.submit(work, item))
        if len(waiting) >= ahead:
            yield waiting.popleft().result()
    while waiting:
        yield waiting.popleft().result()
