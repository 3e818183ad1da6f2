"""`dataset`: what a published data set holds, and what of it lies on the disk."""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import dataclass

from imgrank.boxes import split_name
from imgrank.evaluation.datasets.base import Dataset


@dataclass(frozen=True)
class TaskCounts:
    """What a task holds: queries, those of them with a relevant photo, and judgements of each kind."""

    name: str
    queries: int
    with_positives: int
    positives: int
    wrong: int
    junk: int


def count_tasks(dataset: Dataset) -> list[TaskCounts]:
    """Count the judgements of each task."""
    counts = []
    for task in dataset.tasks:
        grades = [list(judged.values()) for judged in task.qrels.values()]
        every = [grade for some in grades for grade in some]
        counts.append(
            TaskCounts(
                task.name,
                queries=len(grades),
                with_positives=sum(any(grade > 0 for grade in some) for some in grades),
                positives=sum(grade > 0 for grade in every),
                wrong=sum(grade == 0 for grade in every),
                junk=sum(grade < 0 for grade in every),
            )
        )
    return counts


def photo_files(dataset: Dataset) -> Iterator[bytes]:
    """Yield the paths of the photos that are ranked; without a list of them, of those that are judged."""
    names = dataset.database
    if names is None:
        judged = (photo for task in dataset.tasks for some in task.qrels.values() for photo in some)
        names = tuple(dict.fromkeys(judged))
    for name in names:
        yield os.path.join(os.fsencode(dataset.folder), name)  # noqa: PTH118  # bytes


def query_names(dataset: Dataset) -> Iterator[bytes]:
    """Yield the queries as `search` takes them."""
    for name in dataset.queries:
        yield os.path.join(os.fsencode(dataset.folder), name)  # noqa: PTH118


def missing_files(dataset: Dataset) -> Iterator[bytes]:
    """Yield the paths of photos, of the database and of queries, that are not on the disk."""
    files = dict.fromkeys(photo_files(dataset))
    files |= dict.fromkeys(split_name(name)[0] for name in query_names(dataset))
    yield from (path for path in files if not os.path.exists(path))  # noqa: PTH110


def qrels_lines(dataset: Dataset, task: str) -> Iterator[bytes]:
    """Yield the judgements of a task as TREC qrels, between tabs; photos and queries by paths that open."""
    folder = os.fsencode(dataset.folder)
    chosen = next(one for one in dataset.tasks if one.name == task)
    for query, judged in chosen.qrels.items():
        for photo, grade in judged.items():
            asked, found = (os.path.join(folder, name) for name in (query, photo))  # noqa: PTH118
            yield b"\t".join([asked, b"0", found, str(grade).encode()])
