"""`study time`: quality against the time that re-ranking takes, for several numbers of candidates."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from imgrank.errors import SettingsError
from imgrank.report.curves import Curve, Panel, plot_curves
from imgrank.results import Ranking
from imgrank.steps.doctor import machine
from imgrank.steps.studies.frame import Row, Study
from imgrank.steps.studies.method import FIRST_STAGE, Method
from imgrank.steps.studies.trials import Case, Trials, fused, summary_rows

CANDIDATES = (20, 50, 100, 200)
TIMED = 10
_COLUMNS = (
    *("method", "candidates", "task", "measure", "mean", "low", "high", "queries"),
    *("seconds", "seconds_low", "seconds_high", "pairs_per_second", "timed_queries"),
)
_MACHINE = ("system", "device", "device_name", "threads", "dtype", "attention")


def usual_candidates(trials: Trials) -> tuple[int, ...]:
    """Return the numbers of candidates that are compared where nobody says: those that the shortlists have."""
    longest = max(len(case.rows) for case in trials.cases)
    return tuple(count for count in CANDIDATES if count <= longest) or (longest,)


def time_study(
    trials: Trials, methods: Sequence[Method], measures: Sequence[str], counts: Sequence[int], timed: int = TIMED
) -> Study:
    """Return a study of quality against seconds for a query.

    Quality is that of all queries, from scores of the largest number of candidates: the scores of fewer are the first
    of them. Time is that of some queries, without the score cache, each number of candidates apart: from the query's
    photo to the new order, after a query that warms up and without loading the model.

    Args:
        trials: with shortlists of at least so many hits.
        methods: those without a second stage are a level in the plot.
        measures: names; the first is drawn.
        counts: of candidates.
        timed: queries whose time is taken, chosen by the seed of the trials.

    Raises:
        SettingsError: no method has a second stage, or no shortlist is as long as a number of candidates.
    """
    looking = [method for method in methods if method.settings is not None]
    if not looking:
        raise SettingsError("no method has a second stage whose time could be taken; give --method geometric")
    longest = max(len(case.rows) for case in trials.cases)
    if max(counts) > longest:
        raise SettingsError(f"--rerank {max(counts)}: the longest shortlist has {longest} hits")
    order = np.random.default_rng([0x71ED, trials.settings.seed]).permutation(len(trials.cases))
    cases = [trials.cases[place] for place in order[: timed + 1].tolist()]
    warm, chosen = cases[-1], cases[:timed]  # another one, where there are so many
    first = next((method.label for method in methods if method.settings is None), FIRST_STAGE)
    parts: dict[str, Callable[[], list[Row]]] = {first: lambda: _first_stage(trials, measures, first)}
    for method in looking:
        parts[f"quality of {method.label}"] = lambda method=method: _quality(trials, method, measures, counts)  # type: ignore[misc]
        for count in counts:
            parts[_timed_key(method, count)] = lambda method=method, count=count: [  # type: ignore[misc]
                seconds_of(trials, method, count, warm, chosen)
            ]
    here = machine(looking[0].request.device)
    return Study(
        "time",
        _COLUMNS,
        {
            "trials": trials.facts(),
            "methods": [method.facts() for method in looking],
            "first_stage": first,
            "measures": list(measures),
            "candidates": list(counts),
            "timed_queries": len(chosen),
            "timed_on": {name: here[name] for name in _MACHINE},  # times of two machines do not mix
        },
        parts,
        lambda rows, path: _plot(rows, path, measures[0], first),
        [
            f"seconds: median and quartiles of {len(chosen)} queries, from the query's photo to the new order, without "
            "the score cache, after one query that warms up; loading the model is left out. Files that were read "
            "before may come from the system's memory."
        ],
        lambda found: _joined(found, looking, counts, first),
    )


def seconds_of(trials: Trials, method: Method, count: int, warm: Case, cases: Sequence[Case]) -> Row:
    """Take the time of re-ranking, one query after the other.

    Args:
        trials: the queries are of.
        method: with a second stage.
        count: of candidates.
        warm: a query whose time does not count.
        cases: queries.

    Returns:
        seconds of a query (median, and quartiles as low and high), pairs in a second, and how many queries.
    """
    reranker = trials.reranker(method, score_cache=False, top=count)

    def seconds(case: Case) -> float:
        head = Ranking(case.query, case.ranking.hits[:count])
        started = time.perf_counter()
        reranker.rerank(head, case.rows[:count], reranker.prepare(case.photo))
        return time.perf_counter() - started

    seconds(warm)
    found = [seconds(case) for case in cases]
    pairs = sum(len(case.rows[:count]) for case in cases)
    low, median, high = np.percentile(found, [25, 50, 75]).round(6).tolist()
    return {
        "seconds": median,
        "seconds_low": low,
        "seconds_high": high,
        "pairs_per_second": round(pairs / sum(found), 3),
        "timed_queries": len(found),
    }


def _timed_key(method: Method, count: int) -> str:
    return f"time of {method.label}, {count} candidates"


def _first_stage(trials: Trials, measures: Sequence[str], label: str) -> list[Row]:
    results = trials.evaluations([case.ranking for case in trials.cases], measures)
    return [{"method": label, "candidates": 0, **row} for row in summary_rows(results)]


def _quality(trials: Trials, method: Method, measures: Sequence[str], counts: Sequence[int]) -> list[Row]:
    assert method.settings is not None
    lam = method.settings.lam
    found = list(trials.scores(method, max(counts)))
    rows: list[Row] = []
    for count in counts:
        results = trials.evaluations([fused(case, scores.first(count), lam) for case, scores in found], measures)
        rows += [{"method": method.label, "candidates": count, **row} for row in summary_rows(results)]
    return rows


def _joined(found: Mapping[str, list[Row]], methods: Sequence[Method], counts: Sequence[int], first: str) -> list[Row]:
    rows = list(found[first])
    for method in methods:
        times = {count: found[_timed_key(method, count)][0] for count in counts}
        rows += [row | times[row["candidates"]] for row in found[f"quality of {method.label}"]]
    return rows


def _plot(rows: Sequence[Row], path: Path, measure: str, first: str) -> None:
    drawn = [row for row in rows if row["measure"] == measure]
    panels = []
    for task in dict.fromkeys(row["task"] for row in drawn):
        own = [row for row in drawn if row["task"] == task]
        looked = [row for row in own if row["candidates"]]
        curves = []
        for label in dict.fromkeys(row["method"] for row in looked):
            some = [row for row in looked if row["method"] == label]
            curves.append(
                Curve(
                    label,
                    [(row["seconds"], row["mean"]) for row in some],
                    [(row["low"], row["high"]) for row in some],
                    names=[str(row["candidates"]) for row in some],
                )
            )
        level = next(row["mean"] for row in own if not row["candidates"])
        panels.append(Panel(task, curves, {"first stage" if first == FIRST_STAGE else first: level}))
    plot_curves(
        panels, path, x="seconds for a query, by number of candidates", y=f"mean {measure}", log_x=True, columns=3
    )
