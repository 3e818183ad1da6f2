"""What a person sees: bars and notes on standard error, tables on a terminal."""

from __future__ import annotations

import contextlib
import os
import sys
import time
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from imgrank.cli.log import current_log
from imgrank.errors import ImageError
from imgrank.results import Ranking

if TYPE_CHECKING:
    from rich.console import Console as Screen
    from rich.table import Table

    from imgrank.steps.rerank import Work

_ROOM_FOR_PATHS = 40  # columns; where a path needs more and there is less, it goes below the numbers


class Console:
    """Reports on standard error, as a `imgrank.progress.Reporter`; bars only where it is a terminal.

    Args:
        quiet: print errors and skipped photos only.
    """

    def __init__(self, quiet: bool = False) -> None:
        self.quiet = quiet
        self.started = time.monotonic()
        self._write: Callable[[str], None] = lambda line: click.echo(line, err=True)
        self._log = current_log()
        self._before = 0  # bytes
        self._bar: Any = None
        self._skipped = 0  # photos, while the present bar is drawn

    def note(self, message: str) -> None:
        """Print one line."""
        if self._log is not None:
            self._log.write(message)
        if not self.quiet:
            self._write(f"imgrank: {message}")

    def skipped(self, error: ImageError) -> None:
        """Print that a photo was left out; also when quiet, since a photo is never dropped silently."""
        self.alarm(f"skipped ({error.code}) {error}")
        self._skipped += 1
        if self._bar is not None:
            self._bar.set_postfix_str(f"{self._skipped} skipped")

    def alarm(self, message: str) -> None:
        """Print one line, also when quiet."""
        if self._log is not None:
            self._log.write(message)
        self._write(f"imgrank: {message}")

    @contextlib.contextmanager
    def bar(self, total: int | None, description: str, unit: str) -> Iterator[Callable[[int], None]]:
        """Draw a bar while the block runs, if standard error is a terminal."""
        if self.quiet or not sys.stderr.isatty():
            yield lambda count: None
            return
        from tqdm import tqdm

        with tqdm(total=total, desc=description, unit=f" {unit}", file=sys.stderr, dynamic_ncols=True) as bar:
            before, self._write = self._write, lambda line: tqdm.write(line, file=sys.stderr)
            self._bar, self._skipped = bar, 0
            try:
                yield lambda count: _advance(bar, count)
            finally:
                self._write, self._bar = before, None

    def scored(self, work: Work, scorer: str) -> None:
        """Print how many pairs a model looked at, and why not more; the quick scorers are not worth a line."""
        if work.candidates and (scorer == "mllm" or work.left_out):
            self.note(scored_text(work))

    def watch(self, bundle: Path) -> None:
        """Note how large a bundle is before it is written, for `finish`."""
        self._before = bundle.stat().st_size if bundle.is_file() else 0

    def finish(self, bundle: Path, then: str) -> None:
        """Print the last line of a command that wrote a bundle: its size, what came to that, time, and what is next."""
        now = bundle.stat().st_size
        more = f" ({size(now - self._before)} more)" if self._before < now else " (no more than before)"
        self.done(f"{bundle}: {size(now)}{more if self._before else ''}", then)

    def done(self, message: str, then: str) -> None:
        """Print the last line of a command: what was made, how long it took, and the next useful command."""
        self.note(f"{message}, {duration(time.monotonic() - self.started)}; next: {then}")


def _advance(bar: Any, count: int) -> None:
    bar.update(count)


def scored_text(work: Work) -> str:
    """Return what a second stage did: `1 query: 40 of 50 pairs scored in 2.1 s (19.0 a second), 10 known`."""
    queries = f"{work.queries} {'query' if work.queries == 1 else 'queries'}"
    text = f"{queries}: {work.scored} of {work.candidates} pairs scored in {duration(work.seconds)}"
    if work.scored and work.seconds > 0:
        text += f" ({work.scored / work.seconds:.1f} a second)"
    if work.known:
        text += f", {work.known} known from before"
    if work.left_out:
        text += f", {work.left_out} not needed or out of time"
    if work.judged_twice:
        mean = work.disagreement / work.judged_twice
        text += f"; the two orders differ by {mean:.2f} in the logit, {work.undecided} pairs change sides"
    return text


def skipped_text(reasons: Mapping[str, int]) -> str:
    """Return how many photos were left out and why: `3 skipped (2 truncated, 1 missing)`."""
    listed = ", ".join(f"{count} {code}" for code, count in sorted(reasons.items()))
    return f"{sum(reasons.values())} skipped" + (f" ({listed})" if listed else "")


def duration(seconds: float) -> str:
    """Return a length of time for people: 4.2 s, 3 min 20 s, 2 h 5 min."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, seconds = divmod(round(seconds), 60)
    if minutes < 60:
        return f"{minutes} min {seconds} s"
    return f"{minutes // 60} h {minutes % 60} min"


def size(count: float) -> str:
    """Return a number of bytes for people, in powers of 1024."""
    for unit in ("B", "KiB", "MiB", "GiB"):
        if count < 1024:
            return f"{count:.0f} {unit}" if unit == "B" else f"{count:.1f} {unit}"
        count /= 1024
    return f"{count:.1f} TiB"


def print_table(ranking: Ranking) -> None:
    """Print the hits of a query as a table on standard output."""
    from rich.console import Console as Screen
    from rich.table import Table
    from rich.text import Text

    from imgrank.images.scan import display

    scored = any(hit.scorer for hit in ranking.hits)
    judged = any(hit.probability is not None for hit in ranking.hits)
    calibrated = any(hit.calibrated is not None for hit in ranking.hits)
    named = any(hit.bundle is not None for hit in ranking.hits)
    table = Table(title=Text(display(ranking.query)), title_justify="left", box=None, pad_edge=False)
    table.add_column("rank", justify="right")
    table.add_column("score", justify="right")
    table.add_column("similarity", justify="right")
    if judged:
        table.add_column("probability", justify="right")
    if calibrated:
        table.add_column("calibrated", justify="right")
    if scored:
        table.add_column("scorer")
    if named:
        table.add_column("bundle", overflow="fold")
    table.add_column("path", overflow="fold", ratio=1)
    for hit in ranking.hits:
        cells: list[str | Text] = [str(hit.rank), f"{hit.score:.4f}", f"{hit.similarity:.4f}"]
        if judged:
            cells.append("" if hit.probability is None else f"{hit.probability:.4f}")
        if calibrated:
            cells.append("" if hit.calibrated is None else f"{hit.calibrated:.4f}")
        if scored:
            cells.append(hit.scorer or "")
        if named:
            cells.append(Text(display(hit.bundle or b"")))
        table.add_row(*cells, Text(display(hit.path)))
    if not ranking.hits:
        table.add_row(*[""] * (len(table.columns) - 1), "no hits")
    # Without a colour system rich writes no escape codes at all, not even bold ones.
    plain = bool(os.environ.get("NO_COLOR"))
    screen = Screen(file=sys.stdout, highlight=False, color_system=None if plain else "auto")
    if _cramped(table, screen):
        _print_paths_below(table, screen, texts=2 if named else 1)
    else:
        screen.print(table)


def _cramped(table: Table, screen: Screen) -> bool:
    """Tell whether the last column of a table, its paths, would be folded into many short lines."""
    from rich.cells import cell_len

    widths = [max(map(cell_len, [str(column.header), *map(str, column.cells)])) for column in table.columns]
    room = screen.width - sum(widths[:-1]) - 2 * (len(widths) - 1)
    return room < min(widths[-1], _ROOM_FOR_PATHS)


def _print_paths_below(table: Table, screen: Screen, texts: int) -> None:
    """Print a table whose last columns are long texts with these on lines of their own below each row."""
    from rich.cells import cell_len, chop_cells
    from rich.text import Text

    indent = "    "
    shown = [[str(column.header), *map(str, column.cells)] for column in table.columns]
    numbers = shown[:-texts]
    widths = [max(map(cell_len, column)) for column in numbers]
    screen.print(table.title)
    for row, cells in enumerate(zip(*numbers, strict=True)):
        line = "  ".join(cell.rjust(width) for cell, width in zip(cells, widths, strict=True))
        screen.print(Text(line.rstrip(), style="" if row else "bold"))
        for column in shown[-texts:]:
            for part in chop_cells(column[row], max(1, screen.width - len(indent))):
                screen.print(Text(indent + part), no_wrap=True)


class Output:
    """Writes rankings to standard output in one format, flushed for each query.

    Args:
        form: one of `imgrank.config.OutputFormat`, or None for a table on a terminal and JSON lines elsewhere.
        nul: end records with NUL.
        bundles: the hits are of several bundles, and name them.
    """

    def __init__(self, form: str | None, nul: bool, *, bundles: bool = False) -> None:
        self.form = form or ("table" if sys.stdout.isatty() else "jsonl")
        self.nul, self.bundles = nul, bundles
        self.hits = 0
        self._begun = False

    def write(self, ranking: Ranking) -> None:
        """Write the hits of one query."""
        from imgrank.results import encode_hits, tsv_header

        self.hits += len(ranking.hits)
        if self.form == "table":
            print_table(ranking)
            return
        if self.form == "tsv" and not self._begun:
            sys.stdout.buffer.write(tsv_header(bundles=self.bundles))
        self._begun = True
        sys.stdout.buffer.write(encode_hits(ranking, self.form, nul=self.nul))
        sys.stdout.buffer.flush()
