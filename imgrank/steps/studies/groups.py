"""`study groups`: quality for small and large objects apart, or for clear and cluttered photos.

As Fig. 4 of arXiv:2604.13268: relevant photos of all queries are ranked by a value and cut into equal groups; for each
group, those outside of it are removed from the rankings.
"""

from __future__ import annotations

import hashlib
import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from imgrank.evaluation.datasets.base import Dataset
from imgrank.report.curves import plot_bars
from imgrank.results import Ranking
from imgrank.steps.evaluate import evaluate_tasks
from imgrank.steps.studies.frame import Row, Study
from imgrank.steps.studies.method import Method
from imgrank.steps.studies.objects import Pair, positives
from imgrank.steps.studies.trials import Trials, summary_rows
from imgrank.steps.studies.values import Values

ALL = "all"  # the group of all relevant photos, those without a value included
_JUNK = -1
COLUMNS = (
    *("method", "by", "group", "from", "to", "positives"),
    *("task", "measure", "mean", "low", "high", "queries"),
)


@dataclass(frozen=True, eq=False)
class Group:
    """Relevant photos with values of one range.

    Attributes:
        low: the least value.
        high: the largest.
        pairs: (query, photo) of each.
    """

    low: float
    high: float
    pairs: frozenset[Pair]


def cut(values: Mapping[Pair, float], count: int) -> list[Group]:
    """Cut pairs into groups of nearly equal size, by value, ascending.

    Equal values are never in two groups: each cut is made at the place between different values that is nearest to
    where equal groups would be cut, the lower one of two. So there may be fewer groups than asked for.
    """
    pairs = sorted(values, key=lambda pair: values[pair])
    numbers = [values[pair] for pair in pairs]
    between = [place for place in range(1, len(numbers)) if numbers[place - 1] < numbers[place]]
    # Compared in whole numbers: place against number * n / count.
    cuts = {
        min(between, key=lambda place: abs(place * count - number * len(numbers)))
        for number in range(1, count)
        if between
    }
    edges = [0, *sorted(cuts), len(numbers)]
    return [
        Group(numbers[first], numbers[last - 1], frozenset(pairs[first:last]))
        for first, last in itertools.pairwise(edges)
    ]


def restricted(dataset: Dataset, pairs: frozenset[Pair]) -> Dataset:
    """Return a data set whose only relevant photos are some of its own; the others are junk.

    Tasks in which nothing is relevant any more are gone.
    """
    tasks = []
    for task in dataset.tasks:
        qrels = {
            query: {
                photo: _JUNK if grade > 0 and (query, photo) not in pairs else grade for photo, grade in judged.items()
            }
            for query, judged in task.qrels.items()
        }
        if any(grade > 0 for judged in qrels.values() for grade in judged.values()):
            tasks.append(replace(task, qrels=qrels))
    return replace(dataset, tasks=tuple(tasks))


def groups_study(
    trials: Trials, methods: Sequence[Method], measures: Sequence[str], values: Values, count: int
) -> Study:
    """Return a study of groups of relevant photos.

    Args:
        trials: queries and shortlists.
        methods: that rank.
        measures: names.
        values: what the groups are made by.
        count: of groups.
    """
    groups = cut(values.numbers, count)
    notes = list(values.notes)
    if len(groups) < count:
        notes.append(f"{len(groups)} groups instead of {count}: equal values are not cut apart.")
    digest = hashlib.blake2b(repr(sorted(values.numbers.items())).encode(), digest_size=16).hexdigest()
    return Study(
        "groups",
        COLUMNS,
        {
            "trials": trials.facts(),
            "methods": [method.facts() for method in methods],
            "measures": list(measures),
            "by": values.by,
            "values_from": values.source,
            "values_digest": digest,
            "bounds": [[group.low, group.high] for group in groups],
            "sizes": [len(group.pairs) for group in groups],
        },
        {
            method.label: lambda method=method: _rows(trials, method, measures, values, groups)  # type: ignore[misc]
            for method in methods
        },
        lambda rows, path: _plot(rows, path, values.by, measures[0]),
        notes,
    )


def _rows(
    trials: Trials, method: Method, measures: Sequence[str], values: Values, groups: Sequence[Group]
) -> list[Row]:
    rankings = trials.rankings(method)
    numbers = list(values.numbers.values())
    every = frozenset(positives(trials.dataset))
    rows = []
    for name, group in [
        (ALL, Group(min(numbers), max(numbers), every)),
        *((str(number), group) for number, group in enumerate(groups, 1)),
    ]:
        own = trials.dataset if name == ALL else restricted(trials.dataset, group.pairs)
        head = {"method": method.label, "by": values.by, "group": name, "from": group.low, "to": group.high}
        rows += [{**head, **row} for row in _measured(rankings, own, measures)]
    return rows


def _measured(rankings: Sequence[Ranking], dataset: Dataset, measures: Sequence[str]) -> list[Row]:
    counts = {
        task.name: sum(grade > 0 for judged in task.qrels.values() for grade in judged.values())
        for task in dataset.tasks
    }
    results = evaluate_tasks(rankings, dataset, measures)
    return [{**row, "positives": counts[row["task"]]} for row in summary_rows(results)]


def _plot(rows: Sequence[Row], path: Path, by: str, measure: str) -> None:
    drawn = [row for row in rows if row["measure"] == measure and row["group"] != ALL]
    groups = {row["group"]: f"{row['from']:.3g} to {row['to']:.3g}" for row in drawn}
    tasks = dict.fromkeys(row["task"] for row in drawn)
    series: dict[str, list[tuple[float, float, float]]] = {}
    missing = (float(np.nan),) * 3  # a task without relevant photos in a group
    for method in dict.fromkeys(row["method"] for row in drawn):
        for task in tasks:
            own: dict[str, Any] = {
                row["group"]: (row["mean"], row["low"], row["high"])
                for row in drawn
                if (row["method"], row["task"]) == (method, task)
            }
            series[f"{method}, {task}" if len(tasks) > 1 else method] = [own.get(group, missing) for group in groups]
    plot_bars(list(groups.values()), series, path, x=by, y=f"mean {measure}")
