"""Measures: by hand, and against values that published evaluators gave (tests/golden/metrics/make.py)."""

import json
from pathlib import Path

import numpy as np
import pytest

from imgrank.errors import SettingsError
from imgrank.evaluation.measures import PROTOCOLS, measure
from imgrank.evaluation.metrics import Judged, oracle
from imgrank.evaluation.uncertainty import bootstrap_interval, randomization_p
from imgrank.results import Hit, Ranking
from imgrank.steps.evaluate import evaluate

CASES = json.loads((Path(__file__).parents[1] / "golden" / "metrics" / "rankings.json").read_text())


def judged(right: str, relevant: int, scores: list[float] | None = None) -> Judged:
    """Of a string such as "x.x", where x is right."""
    relevance = np.array([mark == "x" for mark in right], dtype=np.int64)
    falling = -np.arange(len(right), dtype=np.float64) if scores is None else np.array(scores)
    return Judged(relevance, falling, np.ones(relevant, dtype=np.int64))


@pytest.mark.parametrize("case", CASES, ids=range(len(CASES)))
def test_published_evaluators_give_the_same(case: dict) -> None:
    hits = [
        Hit(b"q", rank, rank, name.encode(), score, score)
        for rank, (name, score) in enumerate(zip(case["photos"], case["scores"], strict=True), 1)
    ]
    qrels = {b"q": {name.encode(): grade for name, grade in case["grades"].items()}}
    names = list(case["values"])
    found = evaluate([Ranking(b"q", tuple(hits))], qrels, names).values[b"q"]
    np.testing.assert_allclose(found, list(case["values"].values()), rtol=0, atol=1e-9)


def test_by_hand() -> None:
    one = judged("x..x", 3)
    # (1/1 + 2/4) / 3; of the first two places, over min(3, 2).
    assert measure("AP")(one) == pytest.approx(0.5)
    assert measure("AP@2")(one) == pytest.approx(0.5)
    # Trapezoids: (1 + 1) / 2 at rank 1, (1/3 + 2/4) / 2 at rank 4.
    assert measure("revisited-AP")(one) == pytest.approx((1 + 5 / 12) / 3)
    assert measure("revisited-P@10")(one) == pytest.approx(2 / 4)  # the last right one is at 4
    assert measure("P@10")(one) == pytest.approx(0.2)
    assert measure("N-S")(judged("x.xxx", 4)) == 3  # of the first four
    assert measure("R@3")(one) == pytest.approx(1 / 3)
    assert measure("RR")(judged("..x", 1)) == pytest.approx(1 / 3)
    # Two photos of one score are one step: both are found at precision 1/2.
    assert measure("ILIAS-AP@10")(judged("x.", 1, [0.5, 0.5])) == pytest.approx(0.5)
    assert measure("ILIAS-AP@10")(judged("x.", 2, [0.5, 0.4])) == pytest.approx(0.5)
    graded = Judged(np.array([1, 0, 3]), np.array([3.0, 2.0, 1.0]), np.array([3, 1]))
    assert measure("nDCG")(graded) == pytest.approx((1 + 3 / 2) / (3 + 1 / np.log2(3)))


def test_a_perfect_second_stage_finds_what_there_is() -> None:
    one = judged(".x.x", 4)
    assert oracle(one).right.tolist() == [True, True, False, False]
    assert measure("oracle-AP")(one) == pytest.approx(0.5)


@pytest.mark.parametrize(
    "name", ["", "ap", "P", "AP@0", "AP@1.5", "RR@3", "revisited-P", "ILIAS-AP", "nDCG@", "P@x", "N-S@4"]
)
def test_measures_that_do_not_exist_are_refused(name: str) -> None:
    with pytest.raises(SettingsError, match="there are"):
        measure(name)


def test_protocols_name_measures_that_exist() -> None:
    empty, none = judged("", 2), judged("..", 0)
    for protocol in PROTOCOLS.values():
        for name in protocol.measures:
            assert measure(name)(empty) == measure(name)(none) == 0.0


def test_chance_by_hand() -> None:
    # Three queries better by the same: of 8 ways to choose signs, two are as extreme.
    assert randomization_p([0.1, 0.1, 0.1]) == pytest.approx(0.25)
    assert randomization_p([0.1, 0.0, 0.0, -0.1]) == 1.0
    assert randomization_p([0.0, 0.0]) == 1.0
    many = np.random.default_rng(0).normal(0.5, 1, 200)
    assert randomization_p(many) == pytest.approx(1 / 10_001)
    assert randomization_p(many - many.mean()) > 0.9


def test_the_interval_of_a_mean() -> None:
    low, high = bootstrap_interval([0.25] * 10)
    assert (low, high) == (0.25, 0.25)
    values = np.random.default_rng(0).normal(0, 1, 400)
    low, high = bootstrap_interval(values)
    # 1.96 standard errors to either side, but for the noise of 10,000 samples.
    half = 1.96 * values.std() / 20
    assert (low, high) == pytest.approx((values.mean() - half, values.mean() + half), abs=0.01)
