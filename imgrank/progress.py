"""What a long step tells its caller, as an object that the caller passes in.

A step knows nothing of terminals: it calls a `Reporter`. The command line passes one that draws bars and prints
lines on standard error; the library's default says nothing.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager
from typing import Protocol

from imgrank.errors import ImageError

Advance = Callable[[int], None]  # called with the number of units just done


class Reporter(Protocol):
    """Receives what a step has to say while it works."""

    def note(self, message: str) -> None:
        """Tell the user one line that is neither a result nor an error."""

    def skipped(self, error: ImageError) -> None:
        """Tell the user that one photo was left out, and why; counted by the caller."""

    def bar(self, total: int | None, description: str, unit: str) -> AbstractContextManager[Advance]:
        """Show progress while the context is open; `total` None when it is not known."""


class Silent:
    """A reporter that says nothing, the default of the library."""

    def note(self, message: str) -> None:
        """Ignore the line."""

    def skipped(self, error: ImageError) -> None:
        """Ignore the photo; it is still recorded in the bundle."""

    @contextlib.contextmanager
    def bar(self, total: int | None, description: str, unit: str) -> Iterator[Advance]:
        """Yield a function that does nothing."""
        yield lambda count: None


SILENT = Silent()
