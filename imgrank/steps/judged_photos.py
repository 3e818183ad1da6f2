"""A data set laid over the photos of bundles: which rows its photos are, which may be found, and what a query is."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import numpy as np

from imgrank.boxes import split_name
from imgrank.errors import InputError
from imgrank.evaluation.datasets.base import Dataset, Task
from imgrank.evaluation.qrels import Qrels
from imgrank.images.scan import display
from imgrank.records import OK
from imgrank.results import Hit, Ranking
from imgrank.steps.collection import Collection
from imgrank.steps.photos import BundlePhotos
from imgrank.steps.search import Query

OWN = "photos and judgements of one's own"


def own_dataset(qrels: Qrels, protocol: str) -> Dataset:
    """Return judgements of one's own as a data set: names are those of the bundle, and all photos are ranked."""
    return Dataset(OWN, Path(), protocol, None, (Task("", qrels),))


class JudgedPhotos:
    """A data set laid over a collection.

    Args:
        photos: of bundles.
        dataset: with what is judged.
        queries: folder of the query photos; None: a query that is a photo of the bundles is that one, and any other
            lies in the folder of the data set.

    Raises:
        InputError: nothing is right for any query, the bundles have none of the photos of the data set, or a query of
            judgements of one's own is neither in a bundle nor in a folder.
    """

    def __init__(self, photos: Collection, dataset: Dataset, queries: Path | None = None) -> None:
        self.dataset, self._queries = dataset, queries
        if not self.queries():
            raise InputError("the judgements have no query with a relevant photo; are they of this data set?")
        self._finders = [_Finder(part, dataset.folder) for part in photos.parts]
        self._all = photos
        wanted = _judged(dataset) if dataset.database is None else dataset.database
        self._rows = {name: row for name in wanted if (row := self._find(name)) is not None}
        if not self._rows:
            what = "judged photos" if dataset.title == OWN else f"photos of {dataset.title}"
            some = display(next(iter(wanted), b"?"))
            raise InputError(
                f"{photos.title} has none of the {what}, such as {some}; are they of this data set? if the photos "
                "moved, give --root with their folder"
            )
        relevant = _judged(dataset, least=1)
        counted = relevant if dataset.database is None else dict.fromkeys((*dataset.database, *relevant))
        statuses = np.concatenate([part.statuses for part in photos.parts])
        self.missing = [name for name in counted if name not in self._rows or statuses[self._rows[name]] != OK]
        self.photos = photos.restricted(self._ranked(len(photos)))
        self._names = {row: name for name, row in self._rows.items()}
        # Whether photos that are not judged are called as those that are: by their stored path, or by one that opens.
        self._by_stored_path = all(self._stored_path(row) == name for row, name in self._names.items())

    def _find(self, name: bytes) -> int | None:
        for number, finder in enumerate(self._finders):
            row = finder.find(name)
            if row is not None:
                return self._all.first_row(number) + row
        return None

    def _stored_path(self, row: int) -> bytes:
        part, own = self._all.locate(row)
        return self._all.parts[part].stored_paths[own]

    def _ranked(self, count: int) -> np.ndarray:
        """Return (n,) which rows may be found."""
        if self.dataset.database is not None:
            ranked = np.zeros(count, dtype=np.bool_)
            ranked[list(self._rows.values())] = True
            return ranked
        ranked = np.ones(count, dtype=np.bool_)
        strays = [row for name in self.dataset.strays if (row := self._find(name)) is not None]
        ranked[strays] = False
        return ranked

    @property
    def title(self) -> str:
        """Return the names of the bundles, for messages."""
        return self._all.title

    @property
    def left_out(self) -> int:
        """Return how many readable photos of the bundles are not ranked, because they are not of the data set."""
        return _searched(self._all) - self.ranked

    @property
    def ranked(self) -> int:
        """Return how many photos are ranked."""
        return _searched(self.photos)

    @property
    def asks_files(self) -> bool:
        """Return whether any query has to be read and encoded."""
        return any(isinstance(self.asked(query), bytes) for query in self.queries())

    def queries(self) -> list[bytes]:
        """Return the queries that something is right for, in any task."""
        with_positives = {
            query: None
            for task in self.dataset.tasks
            for query, judged in task.qrels.items()
            if any(grade > 0 for grade in judged.values())
        }
        return list(with_positives)

    def asked(self, query: bytes) -> bytes | Query:
        """Return what to search for: a name that opens, or a row."""
        if self._queries is not None:
            return os.path.join(os.fsencode(self._queries), query)  # noqa: PTH118  # bytes
        row = self._find(query)
        if row is not None:
            part, own = self._all.locate(row)
            if self._all.parts[part].statuses[own] == OK:
                judged = any(query in task.qrels.get(query, {}) for task in self.dataset.tasks)
                return Query((row,), finds_itself=judged)
        if self.dataset.title == OWN and not os.path.exists(split_name(query)[0]):  # noqa: PTH110
            raise InputError(
                f"{self._all.title} has no photo called {display(query)}; give --queries with the folder of the queries"
            )
        return os.path.join(os.fsencode(self.dataset.folder), query)  # noqa: PTH118

    def named(self, query: bytes, ranking: Ranking, rows: list[int] | None = None) -> Ranking:
        """Return a ranking with the names that the data set has; the query's own photo is not among its hits.

        Args:
            query: its name in the data set.
            ranking: what a search found.
            rows: of the hits in the collection, in any order that fits them; None finds them by their bundles and ids.
        """
        own = split_name(query)[0]
        judged = any(own in task.qrels.get(query, {}) for task in self.dataset.tasks)
        hits: list[Hit] = []
        for place, hit in enumerate(ranking.hits):
            row = self._all.row_of_hit(hit) if rows is None else rows[place]
            name = self._names.get(row)
            if name is None:
                name = self._stored_path(row) if self._by_stored_path else hit.path
            if name == own and not judged and self._queries is not None:
                # The query lies in another folder; this photo is only called alike, and must not be taken for it.
                part, place_there = self._all.locate(row)
                name = self._all.parts[part].absolute_path(place_there)
            if name != own or judged:
                hits.append(hit.but(query=query, path=name, rank=len(hits) + 1))
        return Ranking(query, tuple(hits))

    def row_of(self, name: bytes) -> int | None:
        """Return the row of a photo of the data set; None where the bundles lack it."""
        return self._rows.get(name)


def _searched(photos: Collection) -> int:
    return sum(int(np.count_nonzero(photos.searched(part))) for part in range(len(photos.parts)))


class _Finder:
    """Finds photos of a data set in one bundle."""

    def __init__(self, part: BundlePhotos, folder: Path) -> None:
        # Names are looked up by text, since resolving links for each of millions of names would take minutes.
        self._part, self._folder = part, os.path.realpath(os.fsencode(folder))
        self._root = os.path.join(part.real_root, b"")  # noqa: PTH118  # with a slash

    def find(self, name: bytes) -> int | None:
        """Return the row of a photo: by its stored path, or by where it lies below the folder."""
        row = self._part.row_stored_as(name)
        if row is not None:
            return row
        path = os.path.normpath(os.path.join(self._folder, name))  # noqa: PTH118
        below = path.startswith(self._root)
        return self._part.row_stored_as(path.removeprefix(self._root) if below else os.path.relpath(path, self._root))


def _judged(dataset: Dataset, least: int | None = None) -> dict[bytes, None]:
    """Return the photos that any task judges; only those of at least some relevance."""
    return {
        name: None
        for task in dataset.tasks
        for judged in task.qrels.values()
        for name, grade in judged.items()
        if least is None or grade >= least
    }


def names_of_run(rankings: Iterator[Ranking], dataset: Dataset) -> Iterator[Ranking]:
    """Return rankings of a run with the names that a data set has; photos that are never ranked are taken out.

    Raises:
        InputError: a hit is no photo of the data set.
    """
    folder = os.path.abspath(os.fsencode(dataset.folder)) + b"/"  # noqa: PTH100
    database = None if dataset.database is None else set(dataset.database)

    def name_of(name: bytes) -> bytes:
        whole = os.path.abspath(name)  # noqa: PTH100
        return whole.removeprefix(folder) if whole.startswith(folder) else name

    for ranking in rankings:
        hits = [hit.but(path=name_of(hit.path)) for hit in ranking.hits]
        hits = [hit for hit in hits if hit.path not in dataset.strays]
        unknown = [] if database is None else [hit for hit in hits if hit.path not in database]
        if unknown:
            raise InputError(
                f"query {display(ranking.query)}: {len(unknown)} of {len(hits)} hits are no photos of {dataset.title}, "
                f"such as {display(unknown[0].path)}; --distractors rest takes all others for distractors"
            )
        yield Ranking(name_of(ranking.query), tuple(hits))
