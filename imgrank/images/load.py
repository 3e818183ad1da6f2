"""Many photos, decoded ahead of whoever uses them, in order.

Threads, not processes: Pillow decodes, resizes and hashes outside the interpreter lock, and pixels need no copying
between threads. Knows nothing of what the photos are for.
"""

from __future__ import annotations

import os
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor

from imgrank.config import DecodeSettings, ThumbnailSettings
from imgrank.errors import ImgrankError, SettingsError
from imgrank.images.decode import LoadedPhoto, read_photo

MAX_WORKERS = 8  # of the automatic choice


def worker_count(settings: DecodeSettings) -> int:
    """Return the number of decoding threads: as set, or one per core this process may use, at most MAX_WORKERS.

    Raises:
        SettingsError: the setting is negative.
    """
    if settings.workers < 0:
        raise SettingsError(f"the number of workers must be 0 (automatic) or more, not {settings.workers}")
    if settings.workers:
        return settings.workers
    if hasattr(os, "sched_getaffinity"):
        cores = len(os.sched_getaffinity(0))
    else:
        cores = os.cpu_count() or 1
    return min(cores, MAX_WORKERS)


def load(
    paths: Iterable[bytes],
    settings: DecodeSettings,
    *,
    longer_side: int | None,
    ahead: int | None = None,
    thumbnail: ThumbnailSettings | None = None,
) -> Iterator[LoadedPhoto]:
    """Read and decode photos, yielding one item per path in the order of the paths.

    A photo that cannot be used is an item with an error, in its place. Closing the generator, or an exception such as
    KeyboardInterrupt in it, drops what has not started and waits for the at most `workers` photos being decoded.

    Args:
        paths: taken one by one, in the caller's thread, at most `ahead` further than the item being yielded.
        settings: the size limit and the number of workers.
        longer_side: pixels of the longer side, as in `decode`; None keeps the full size.
        ahead: photos in work or waiting; memory holds about this many. None takes 2 per worker. 0 decodes each
            photo when it is asked for, in the caller's thread: for paths that come one at a time, from a person or a
            pipe, so that an answer never waits for the next question.
        thumbnail: as in `read_photo`.

    Raises:
        SettingsError: a negative number of workers or of photos ahead, `longer_side` below 1.
        ImgrankError: what `paths` raises, after all the photos before it.
    """
    workers = worker_count(settings)
    window = 2 * workers if ahead is None else ahead
    if window < 0:
        raise SettingsError(f"cannot decode {window} photos ahead; 0 or more")
    if window == 0:
        for path in paths:
            yield read_photo(path, settings, longer_side, thumbnail)
        return
    waiting: deque[Future[LoadedPhoto]] = deque()
    pool = ThreadPoolExecutor(min(workers, window), thread_name_prefix="imgrank-decode")
    failure: ImgrankError | None = None
    try:
        source = iter(paths)
        while failure is None:
            try:
                path = next(source)
            except StopIteration:
                break
            except ImgrankError as error:
                failure = error
                break
            waiting.append(pool.submit(read_photo, path, settings, longer_side, thumbnail))
            if len(waiting) > window:
                yield waiting.popleft().result()
        while waiting:
            yield waiting.popleft().result()
    finally:
        pool.shutdown(wait=True, cancel_futures=True)
    if failure is not None:
        raise failure
