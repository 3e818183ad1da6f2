"""Pictures in the terminal: kitty's graphics, sixel, or half blocks, by what the terminal says it can."""

from __future__ import annotations

import contextlib
import importlib
import importlib.util
import io
import logging
import sys
from collections.abc import Iterator
from typing import Any

import click

from imgrank.errors import MissingExtraError
from imgrank.report.shown import Picture, Shown

_WIDTH, _HEIGHT = 18, 9  # cells of one picture; a cell is about twice as high as wide
_GAP = 2


class Preview:
    """Prints a row of pictures for each query: the query, then as many of its hits as fit.

    Raises:
        MissingExtraError: textual-image is not installed.
    """

    def __init__(self) -> None:
        if not sys.stdout.isatty():
            raise click.UsageError(
                "--preview shows pictures in a terminal, and standard output is none; --html FILE or --montage FILE "
                "writes them to a file"
            )
        if importlib.util.find_spec("textual_image") is None:
            raise MissingExtraError("textual-image", "preview", "--preview")
        from rich.console import Console

        # A terminal that does not answer is no news.
        logging.getLogger("textual_image").setLevel(logging.ERROR)
        with _asking_the_terminal():
            self._image: Any = importlib.import_module("textual_image.renderable").Image
        # Whoever asks for pictures wants them in colour, whatever NO_COLOR says of the rest.
        self._screen = Console(file=sys.stdout, highlight=False, no_color=False)

    def show(self, shown: Shown) -> None:
        """Print the pictures of one query."""
        from rich.table import Table
        from rich.text import Text

        columns = max(1, (self._screen.width + _GAP) // (_WIDTH + _GAP))
        cells = [(shown.query[0], "query")]
        cells += [
            (picture, f"{hit.rank}: {hit.score:.4f}")
            for hit, picture in zip(shown.ranking.hits, shown.hits, strict=True)
        ]
        table = Table.grid(padding=(0, _GAP, 0, 0))
        for _ in cells[:columns]:
            table.add_column(width=_WIDTH)
        table.add_row(*(self._cell(picture) for picture, _ in cells[:columns]))
        table.add_row(*(Text(caption) for _, caption in cells[:columns]))
        table.add_row(
            *(
                Text(picture.name.rsplit("/", 1)[-1], no_wrap=True, overflow="ellipsis")
                for picture, _ in cells[:columns]
            )
        )
        with _asking_the_terminal():
            self._screen.print(table)
        self._screen.print()

    def _cell(self, picture: Picture) -> Any:
        from rich.text import Text

        small = picture.thumbnail
        if small is None:
            return Text(f"no picture ({picture.reason})")
        wide = small.width >= small.height
        width, height = (_WIDTH, "auto") if wide else ("auto", _HEIGHT)
        return self._image(io.BytesIO(small.data), width=width, height=height)


@contextlib.contextmanager
def _asking_the_terminal() -> Iterator[None]:
    """Let textual-image read the answers of the terminal from there: standard input may be a pipe full of hits."""
    kept: Any = sys.__stdin__
    with contextlib.ExitStack() as stack:
        asked: Any = None
        with contextlib.suppress(OSError):
            asked = stack.enter_context(open("/dev/tty", encoding="utf-8"))  # noqa: PTH123
        sys.__stdin__ = asked  # type: ignore[misc]
        try:
            yield
        finally:
            sys.__stdin__ = kept  # type: ignore[misc]
