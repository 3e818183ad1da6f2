"""`compare --html`: the queries that moved most between two runs, as pictures."""

from __future__ import annotations

import os
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from imgrank.boxes import split_name
from imgrank.config import DecodeSettings, ThumbnailSettings
from imgrank.evaluation.datasets.base import Dataset, Task
from imgrank.images.load import load
from imgrank.images.scan import display, printable
from imgrank.report.moved_page import Kind, Mean, Moved, MovedPage, Placed, Side
from imgrank.report.shown import Picture
from imgrank.results import Ranking
from imgrank.steps.evaluate import Comparison, Evaluation, grades_of, in_common_names, rankings_of
from imgrank.steps.outputs import replacing
from imgrank.steps.pictures import picture_of_file


@dataclass(frozen=True)
class Run:
    """One of two runs: what it is called, its rankings, and what they are worth by task."""

    name: str
    rankings: Sequence[Ranking]
    results: Mapping[str, Evaluation]


def write_moved(
    path: Path,
    runs: tuple[Run, Run],
    dataset: Dataset,
    compared: Mapping[str, Sequence[Comparison]],
    *,
    queries: int,
    photos: int,
    roots: Sequence[bytes] = (),
) -> Counter[str]:
    """Write a page.

    Args:
        path: of the page; one that is there is replaced.
        runs: that are compared.
        dataset: with the judgements.
        compared: by task, for each measure; queries that moved are those of the first.
        queries: at most so many of each task, those that moved most.
        photos: at most so many of each ranking, the first ones.
        roots: folders that relative names are looked for in, in this order, before the folder of the data set and the
            working directory.

    Returns:
        why pictures are not on the page -> how many.
    """
    files = _Files([*roots, os.fsencode(dataset.folder), b""])
    with replacing(path) as incoming, incoming.open("w", encoding="utf-8") as stream:
        page = MovedPage(stream, (printable(runs[0].name), printable(runs[1].name)))
        for task in dataset.tasks:
            rows = compared[task.name]
            page.task(task.name, len(runs[0].results[task.name].values), [_mean(one) for one in rows])
            sides = [_OneSide(run, dataset, task, rows[0].measure) for run in runs]
            moved = list(rows[0].moved)[:queries]
            if not rows[0].moved:
                page.nothing()
            # The names of one side may be cut where those of the other are not; the order is that of the judgements.
            others = dict(zip(*(run.results[task.name].values for run in runs), strict=True))
            for query in moved:
                named = list(zip(sides, (query, others[query]), strict=True))
                asked = next((own for side, name in named if (own := side.asked(name)) is not None), query)
                first, second = (side.of(name, photos, files) for side, name in named)
                page.add(Moved(display(query), files.query(asked), (first, second)))
        page.finish()
    return files.lacking


def _mean(one: Comparison) -> Mean:
    return Mean(one.measure, *one.means, *one.interval, one.p)


class _OneSide:
    """What a run says to the queries of a task."""

    def __init__(self, run: Run, dataset: Dataset, task: Task, measure: str) -> None:
        found = {ranking.query: ranking for ranking in rankings_of(run.rankings, dataset, task)}
        self._result = run.results[task.name]
        self._place = self._result.measures.index(measure)
        self._cut, self._qrels, _ = in_common_names(found, task.qrels)
        self._whole = dict(zip(self._cut, found.values(), strict=True))

    def asked(self, query: bytes) -> bytes | None:
        """Return the whole name of a query; None where the run does not have it."""
        return self._whole[query].query if query in self._whole else None

    def of(self, query: bytes, most: int, files: _Files) -> Side:
        """Return the value of a query, its first photos, and where the right ones are."""
        judged = self._qrels[query]
        value = self._result.values[query][self._place]
        right = sum(grade > 0 for grade in judged.values())
        if query not in self._cut:
            return Side(value, [], [], right)
        grades = grades_of(self._cut[query], judged)
        ranks: list[int | None] = []
        counted = 0
        for grade in grades:
            counted += grade >= 0
            ranks.append(counted if grade >= 0 else None)
        found = [rank for rank, grade in zip(ranks, grades, strict=True) if grade > 0 and rank is not None]
        hits = self._whole[query].hits[:most]
        pictures = files.photos([hit.path for hit in hits])
        first = [
            Placed(pictures[place], ranks[place], _kind(named.path, grades[place], judged), hits[place].score)
            for place, named in enumerate(self._cut[query].hits[:most])
        ]
        return Side(value, first, found, right - len(found))


def _kind(name: bytes, grade: int, judged: Mapping[bytes, int]) -> Kind:
    if grade < 0:
        return "junk" if name in judged else "the query"
    return "right" if grade > 0 else "wrong"


class _Files:
    """Finds photos by the names that runs have.

    Args:
        roots: folders that relative names are looked for in; the last one counts where none has the photo.
    """

    def __init__(self, roots: Sequence[bytes]) -> None:
        self._roots = roots
        self._limits, self._settings = DecodeSettings(), ThumbnailSettings()
        self.lacking: Counter[str] = Counter()

    def query(self, name: bytes) -> list[Picture]:
        """Return the photo of a query; of a part of a photo, the whole photo and then the part."""
        where = self._find(name)
        whole, box = split_name(where)
        names = [name] if box is None else [name[: len(name) - (len(where) - len(whole))], name]
        places = [where] if box is None else [whole, where]
        return [
            self._counted(picture_of_file(place, display(one), self._limits, self._settings))
            for place, one in zip(places, names, strict=True)
        ]

    def photos(self, names: Sequence[bytes]) -> list[Picture]:
        """Return the photos of hits."""
        loaded = load(
            [self._find(name) for name in names],
            self._limits,
            longer_side=self._settings.longer_side,
            thumbnail=self._settings,
        )
        return [
            self._counted(Picture(display(name), item.thumbnail, "" if item.error is None else item.error.code))
            for name, item in zip(names, loaded, strict=True)
        ]

    def _counted(self, picture: Picture) -> Picture:
        if picture.thumbnail is None:
            self.lacking[picture.reason] += 1
        return picture

    def _find(self, name: bytes) -> bytes:
        places = [os.path.join(root, name) for root in self._roots]  # noqa: PTH118  # bytes
        there = (place for place in places if os.path.lexists(split_name(place)[0]))
        return next(there, places[-1])
