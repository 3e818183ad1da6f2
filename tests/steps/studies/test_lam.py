"""The study of lambda: against a loop, and what is chosen is measured on other queries."""

import json

import numpy as np
import pytest

from imgrank.errors import SettingsError
from imgrank.steps.evaluate import Evaluation
from imgrank.steps.second_stage import Request
from imgrank.steps.studies.frame import Outputs, run_study
from imgrank.steps.studies.lam import CHOSEN, _cross_validated, lambda_study
from imgrank.steps.studies.method import parse_method


def method(line: str):
    return parse_method(line, top=6, request=Request())


def by_hand(trials, weight: float) -> float:
    """Mean AP, by a loop over the candidates of each query."""
    found = []
    for case, scores in trials.scores(method("geometric")):
        right = trials.dataset.tasks[0].qrels[case.query]
        pairs = [
            (
                weight * hit.similarity + (1 - weight) * (float(scores.values[place]) if place < len(scores) else 0.0),
                hit,
            )
            for place, hit in enumerate(case.ranking.hits)
        ]
        head = sorted(pairs[: len(scores)], key=lambda pair: (-pair[0], -pair[1].similarity, pair[1].id))
        hits, total = 0, 0.0
        for rank, (_, hit) in enumerate([*head, *pairs[len(scores) :]], 1):
            if hit.path in right:
                hits += 1
                total += hits / rank
        found.append(total / len(right))
    return float(np.mean(found))


def test_rows_are_what_a_loop_gives(trials, tmp_path) -> None:
    study = lambda_study(trials, [method("none"), method("geometric")], ["AP"], [0.0, 0.3, 1.0])
    assert list(study.parts) == ["geometric"]
    table, facts, plot = run_study(study, Outputs(tmp_path, "svg"))
    rows = json.loads(facts.read_text())["rows"]
    assert [row["lambda"] for row in rows] == [0.0, 0.3, 1.0, CHOSEN]
    for row in rows[:3]:
        assert row["mean"] == pytest.approx(by_hand(trials, row["lambda"]), abs=1e-6)
        assert row["low"] <= row["mean"] <= row["high"]
        assert row["queries"] == 15
    # With the similarity alone the order is that of the first stage.
    first = trials.evaluations([case.ranking for case in trials.cases], ["AP"])[""].column("AP").mean()
    assert rows[2]["mean"] == pytest.approx(first)
    assert len(table.read_text().splitlines()) == 5
    assert plot.read_text().startswith("<?xml")


def test_a_weight_is_measured_on_queries_that_it_was_not_chosen_on() -> None:
    def evaluation(values: list[float]) -> Evaluation:
        return Evaluation(("AP",), {b"%d" % place: (value,) for place, value in enumerate(values)})

    # Every query is best with the first weight, but for one: the others outvote it, and it gets what they chose.
    first, second = [0.6] * 10, [0.5] * 10
    first[3], second[3] = 0.0, 0.9
    chosen = _cross_validated([evaluation(first), evaluation(second)], "AP").column("AP")
    # Without query 3 the first is better (0.6 > 0.5); with it, in 8 queries: 4.2 < 4.4.
    folds = np.random.default_rng([0xF01D]).permutation(10) % 5
    expected = [0.5] * 10
    for place in np.flatnonzero(folds == folds[3]):
        expected[place] = 0.6
    expected[3] = 0.0
    np.testing.assert_allclose(chosen, expected)


def test_the_first_stage_has_no_weight(trials) -> None:
    with pytest.raises(SettingsError, match="no method has a second stage"):
        lambda_study(trials, [method("none")], ["AP"])
