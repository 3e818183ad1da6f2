"""A bound on what several threads hold at once, so that memory does not grow with their number."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator


class Budget:
    """Lets threads hold amounts whose sum stays within a total; one that is larger than it is held alone.

    A thread that wants much may be overtaken by others that want little. Nobody waits for ever where work comes from a
    queue that does not move on without the oldest piece, as in `imgrank.images.load`.

    Args:
        total: in any unit, above 0.
    """

    def __init__(self, total: float) -> None:
        self.total = total
        self._held = 0.0
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def hold(self, amount: float) -> Iterator[None]:
        """Wait until `amount` fits beside what others hold, and hold it while the block runs."""
        amount = min(amount, self.total)
        with self._changed:
            self._changed.wait_for(lambda: self._held + amount <= self.total)
            self._held += amount
        try:
            yield
        finally:
            with self._changed:
                self._held -= amount
                self._changed.notify_all()
