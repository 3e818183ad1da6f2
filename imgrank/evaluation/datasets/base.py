"""What a data set is to an evaluation: photos that are ranked, queries, and judgements.

All names are bytes, relative to the folder of the data set. A query that is a part of a photo is named so
(`imgrank.boxes`): `jpg/x.jpg#xywh=10,20,300,400`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from imgrank.boxes import Box
from imgrank.evaluation.qrels import Qrels

DISTRACTORS_REST = "rest"  # every other photo that is searched


@dataclass(frozen=True, eq=False)
class Task:
    """Queries with judgements. A data set has one of them, or several over the same photos.

    Attributes:
        name: such as "hard"; empty where a data set has one task.
        qrels: query -> photo -> relevance: above 0 right, 0 wrong, below 0 junk.
    """

    name: str
    qrels: Qrels


@dataclass(frozen=True, eq=False)
class Dataset:
    """Photos, queries and judgements.

    Attributes:
        title: for people.
        folder: that names are relative to.
        protocol: a key of `imgrank.evaluation.measures.PROTOCOLS`.
        database: photos that are ranked, those of the chosen distractors included; None: all that are searched.
        tasks: at least one. A query that is a photo of the database is left out of its own ranking, unless the task
            judges it.
        boxes: where the object of a query is: (query, photo) -> box in the photo, and (query, query) -> box in the
            query photo where its name does not say it.
        values: such as "scale" or "clutter" -> (query, photo) -> number, for each relevant photo; what groups are
            made of.
        strays: photos that may lie beside the database and are never ranked, such as those of the queries. Without a
            list of the database, only these are left out.
    """

    title: str
    folder: Path
    protocol: str
    database: tuple[bytes, ...] | None
    tasks: tuple[Task, ...]
    boxes: Mapping[tuple[bytes, bytes], Box] = field(default_factory=dict)
    values: Mapping[str, Mapping[tuple[bytes, bytes], float]] = field(default_factory=dict)
    strays: frozenset[bytes] = frozenset()

    @property
    def queries(self) -> tuple[bytes, ...]:
        """Return the queries of all tasks, each once."""
        return tuple(dict.fromkeys(query for task in self.tasks for query in task.qrels))


@dataclass(frozen=True)
class Reader:
    """Reads one published data set.

    Attributes:
        title: for people.
        source: the paper, and the published loader that is followed.
        layout: what must lie in the folder, in one line each; for messages and the manual.
        read: takes the folder and the name of a list of distractors (None: none), and returns the data set. Raises
            `InputError` where a file is missing, damaged, or of another data set.
        distractors: names of the lists of distractors that it knows; "rest" means every other photo that is searched,
            and is known to all.
    """

    title: str
    source: str
    layout: tuple[str, ...]
    read: Callable[[Path, str | None], Dataset]
    distractors: tuple[str, ...] = ()
