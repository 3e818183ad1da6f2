"""`study lambda`: what the weight of the similarity is worth, from scores that are computed once."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from imgrank.errors import SettingsError
from imgrank.report.curves import Curve, Panel, plot_curves
from imgrank.steps.evaluate import Evaluation
from imgrank.steps.studies.frame import Row, Study
from imgrank.steps.studies.method import Method
from imgrank.steps.studies.trials import Trials, fused, summary_rows

FOLDS = 5
CHOSEN = "chosen"  # in place of a weight: chosen on other queries than those it is measured on
WEIGHTS = tuple(round(0.05 * step, 2) for step in range(21))


def lambda_study(
    trials: Trials, methods: Sequence[Method], measures: Sequence[str], weights: Sequence[float] = WEIGHTS
) -> Study:
    """Return a study of weights of the similarity, 0 (the second stage alone) to 1 (the first stage).

    The best weight of a curve was chosen on the queries that it is measured on. So the table has one more row for each
    method: the weight is chosen on four fifths of the queries and measured on the rest, in turn.

    Raises:
        SettingsError: no method has a second stage.
    """
    looking = [method for method in methods if method.settings is not None]
    if not looking:
        raise SettingsError("no method has a second stage whose weight could be studied; give --method geometric")
    return Study(
        "lambda",
        ("method", "lambda", "task", "measure", "mean", "low", "high", "queries"),
        {
            "trials": trials.facts(),
            "methods": [method.facts() for method in looking],
            "measures": list(measures),
            "lambdas": list(weights),
        },
        {method.label: lambda method=method: _rows(trials, method, measures, weights) for method in looking},  # type: ignore[misc]
        lambda rows, path: _plot(rows, path, measures[0]),
    )


def _rows(trials: Trials, method: Method, measures: Sequence[str], weights: Sequence[float]) -> list[Row]:
    found = list(trials.scores(method))
    results = {
        weight: trials.evaluations([fused(case, scores, weight) for case, scores in found], measures)
        for weight in weights
    }
    rows = []
    for weight, evaluations in results.items():
        rows += [{"method": method.label, "lambda": weight, **row} for row in summary_rows(evaluations)]
    for task in next(iter(results.values())):
        chosen = _cross_validated([results[weight][task] for weight in weights], measures[0])
        row = summary_rows({task: chosen})[0]
        rows.append({"method": method.label, "lambda": CHOSEN, **row})
    return rows


def _cross_validated(by_weight: Sequence[Evaluation], measure: str) -> Evaluation:
    """Return values of queries, each with the weight that is best for the queries of the other folds."""
    values = np.stack([one.column(measure) for one in by_weight])  # (weights, q)
    queries = list(by_weight[0].values)
    found = Evaluation((measure,))
    folds = np.random.default_rng([0xF01D]).permutation(len(queries)) % FOLDS
    for place, query in enumerate(queries):
        others = folds != folds[place]
        best = int(np.argmax(values[:, others].mean(axis=1))) if others.any() else 0
        found.values[query] = (float(values[best, place]),)
    return found


def _plot(rows: Sequence[Row], path: Path, measure: str) -> None:
    def curve(label: str, some: list[dict[str, Any]]) -> Curve:
        points = [(row["lambda"], row["mean"]) for row in some]
        return Curve(label, points, [(row["low"], row["high"]) for row in some])

    drawn = [row for row in rows if row["measure"] == measure and row["lambda"] != CHOSEN]
    panels = []
    for task in dict.fromkeys(row["task"] for row in drawn):
        own = [row for row in drawn if row["task"] == task]
        labels = dict.fromkeys(row["method"] for row in own)
        panels.append(Panel(task, [curve(label, [row for row in own if row["method"] == label]) for label in labels]))
    plot_curves(panels, path, x="λ: weight of the similarity", y=f"mean {measure}", columns=3)
