"""What all studies share: parts of the work that are done once, and files that hold the result.

A study is a list of parts. What a part found is kept beside the outputs as soon as it is known, so that a study that
was interrupted goes on, and is thrown away when anything that decides the result is another one.
"""

from __future__ import annotations

import csv
import datetime
import json
import os
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from imgrank.errors import MissingExtraError, SettingsError
from imgrank.progress import SILENT, Reporter
from imgrank.steps.doctor import machine
from imgrank.steps.outputs import check_free, replacing
from imgrank.steps.studies.trials import digest_of

Row = dict[str, Any]
PLOT_FORMATS = ("svg", "png", "pdf", "none")


@dataclass(frozen=True)
class Study:
    """A study that is ready to run.

    Attributes:
        name: of its files.
        columns: of its table, in their order.
        facts: all that decides the result, as JSON.
        parts: key -> what measures it; in the order of the work. A key stands for what is measured.
        plot: draws the rows into a file; None: there is nothing to draw.
        notes: sentences that belong to the result.
        table: makes the rows of the table from what the parts found; None: their rows, one part after the other.
        page: writes a page about the rows into a file; None: there is none.
    """

    name: str
    columns: tuple[str, ...]
    facts: Mapping[str, Any]
    parts: Mapping[str, Callable[[], list[Row]]]
    plot: Callable[[Sequence[Row], Path], None] | None = None
    notes: list[str] = field(default_factory=list)
    table: Callable[[Mapping[str, list[Row]]], list[Row]] | None = None
    page: Callable[[Sequence[Row], Path], None] | None = None


@dataclass(frozen=True)
class Outputs:
    """Where a study writes.

    Attributes:
        folder: made where it is not there.
        plot: ending of the plot; "none": no plot.
        force: whether files that are there may be replaced.
        command: the words that started the study, to be written down.
    """

    folder: Path
    plot: str = "svg"
    force: bool = False
    command: Sequence[str] = ()

    def check(self, name: str, *, page: bool = False) -> None:
        """Find out whether the files of a study can be written, before the work.

        Args:
            name: of the study.
            page: whether it writes a page.

        Raises:
            SettingsError: one is there and may not be replaced, or the folder cannot be made.
        """
        if not self.folder.absolute().parent.is_dir():
            raise SettingsError(f"{self.folder}: the folder around it does not exist; make it first")
        if self.folder.exists() and not self.folder.is_dir():
            raise SettingsError(f"{self.folder} is not a folder; choose another name")
        if not self.folder.exists():  # made when the work begins
            return
        endings = ["csv", "json", *([] if self.plot == "none" else [self.plot]), *(["html"] if page else [])]
        # A study may be interrupted while it writes: then some of its files are there, and so is its journal.
        unfinished = (self.folder / f"{name}.part").is_file()
        for ending in endings:
            check_free(self.folder / f"{name}.{ending}", force=self.force or unfinished)


def run_study(study: Study, outputs: Outputs, reporter: Reporter = SILENT) -> list[Path]:
    """Measure what is not known yet, write the table, the facts and the plot, and tell the notes.

    Returns:
        the files that were written.
    """
    outputs.check(study.name, page=study.page is not None)
    outputs.folder.mkdir(exist_ok=True)
    kept = _Journal(outputs.folder / f"{study.name}.part", digest_of(study.facts))
    if kept.done:
        reporter.note(f"{len(kept.done)} of {len(study.parts)} parts of the study are known from an earlier run")
    with reporter.bar(len(study.parts), study.name, "part") as advance:
        for key, measure in study.parts.items():
            if key not in kept.done:
                kept.add(key, measure())
            advance(1)
    found = {key: kept.done[key] for key in study.parts}
    rows = [row for some in found.values() for row in some] if study.table is None else study.table(found)
    written = [_write_csv(study, rows, outputs), _write_json(study, rows, outputs)]
    if study.plot is not None and outputs.plot != "none":
        path = outputs.folder / f"{study.name}.{outputs.plot}"
        try:
            study.plot(rows, path)
            written.append(path)
        except MissingExtraError as error:
            reporter.note(f"{error}; the table is in {written[0]}")
    if study.page is not None:
        path = outputs.folder / f"{study.name}.html"
        with replacing(path) as incoming:
            study.page(rows, incoming)
        written.append(path)
    kept.remove()
    for note in study.notes:
        reporter.note(note)
    return written


class _Journal:
    """Rows of the parts that are done, one JSON line for each part; from a line on that was cut by a kill, none is."""

    def __init__(self, path: Path, digest: str) -> None:
        self._path = path
        self.done: dict[str, list[Row]] = {}
        lines = path.read_text(errors="replace").splitlines(keepends=True) if path.is_file() else []
        if lines and lines[0] == f"{digest}\n":
            self.done = dict(_whole_lines(lines[1:]))
        with replacing(path) as incoming, incoming.open("w") as self._file:
            self._file.write(f"{digest}\n")
            for key, rows in self.done.items():
                self._write(key, rows)
        self._file = path.open("a")

    def add(self, key: str, rows: list[Row]) -> None:
        """Keep what a part found."""
        self.done[key] = rows
        self._write(key, rows)

    def _write(self, key: str, rows: list[Row]) -> None:
        self._file.write(json.dumps({"part": key, "rows": rows}) + "\n")
        self._file.flush()
        os.fsync(self._file.fileno())

    def remove(self) -> None:
        """Forget all of it: the outputs are written."""
        self._file.close()
        self._path.unlink()


def _whole_lines(lines: Sequence[str]) -> Iterator[tuple[str, list[Row]]]:
    for line in lines:
        try:
            record = json.loads(line)
        except ValueError:
            return
        if not line.endswith("\n"):
            return
        yield record["part"], record["rows"]


def _write_csv(study: Study, rows: Sequence[Row], outputs: Outputs) -> Path:
    path = outputs.folder / f"{study.name}.csv"
    # Names of photos are bytes, and are written as such.
    with (
        replacing(path) as incoming,
        incoming.open("w", newline="", encoding="utf-8", errors="surrogateescape") as file,
    ):
        table = csv.DictWriter(file, study.columns, lineterminator="\n", extrasaction="ignore")
        table.writeheader()
        table.writerows(rows)
    return path


def _write_json(study: Study, rows: Sequence[Row], outputs: Outputs) -> Path:
    path = outputs.folder / f"{study.name}.json"
    report = {
        "schema_version": 1,
        "study": study.name,
        "source": "arXiv:2604.13268",
        "made": datetime.datetime.now(datetime.UTC).isoformat(timespec="seconds"),
        "command": list(outputs.command),
        "settings": study.facts,
        "environment": machine(),
        "notes": study.notes,
        "rows": rows,
    }
    with replacing(path) as incoming:
        incoming.write_text(json.dumps(report, indent=1) + "\n")
    return path
