"""A bundle that is made as a whole: it grows beside its place, and appears there by one rename."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from pathlib import Path

from imgrank.bundle.journal import journal_path, sync_folder
from imgrank.bundle.probe import remember


@contextlib.contextmanager
def incoming(target: Path) -> Iterator[Path]:
    """Give a name beside the target, and put what is there in its place if the block ends well.

    Call with the target's writer's lock held. Readers that opened an old file of that name keep it.
    """
    path = target.with_name(f"{target.name}.incoming")

    def clear() -> None:
        for left in (path, journal_path(path)):
            left.unlink(missing_ok=True)

    clear()  # of a run that was killed
    try:
        yield path
        path.replace(target)
        sync_folder(target.absolute().parent)
        remember(target)
    except BaseException:
        clear()
        raise
