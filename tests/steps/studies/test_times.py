"""`study time`: quality of prefixes, seconds without the score cache, and nothing measured twice."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from imgrank.errors import SettingsError
from imgrank.steps.studies import times
from imgrank.steps.studies.frame import Outputs, run_study
from imgrank.steps.studies.times import seconds_of, time_study, usual_candidates
from tests.steps.studies.drawn_trials import method, precision_by_hand, right_of, trials_in


def test_quality_is_that_of_each_number_of_candidates(collection: Path) -> None:
    trials = trials_in(collection)
    study = time_study(trials, [method("none"), method("geometric lambda=0.3")], ["AP"], (3, 6), timed=1)
    run_study(study, Outputs(collection / "out", "none"))
    table = list(csv.DictReader((collection / "out" / "time.csv").open()))
    assert [(row["method"], row["candidates"]) for row in table] == [
        ("none", "0"),
        ("geometric lambda=0.3", "3"),
        ("geometric lambda=0.3", "6"),
    ]
    assert table[0]["seconds"] == ""
    reranker = trials.reranker(method("geometric", top=3))
    expected = []
    for case in trials.cases:
        scores = reranker.scores(case.rows[:3], reranker.prepare(case.photo)).values
        hits = case.ranking.hits
        fused = [0.3 * hit.similarity + 0.7 * value for hit, value in zip(hits, scores, strict=False)]
        order = [hits[place].path for place in np.argsort(np.negative(fused), kind="stable")]
        names = [*order, *(hit.path for hit in hits[3:])]
        expected.append(precision_by_hand(names, right_of(trials, case.query)))
    assert float(table[1]["mean"]) == pytest.approx(np.mean(expected))
    whole = [
        precision_by_hand([hit.path for hit in case.ranking.hits], right_of(trials, case.query))
        for case in trials.cases
    ]
    assert float(table[0]["mean"]) == pytest.approx(np.mean(whole))
    for row in table[1:]:
        assert 0 < float(row["seconds_low"]) <= float(row["seconds"]) <= float(row["seconds_high"])
        assert row["timed_queries"] == "1"


def test_seconds_are_quartiles_of_all_queries_but_the_first(collection: Path, monkeypatch) -> None:
    trials = trials_in(collection)
    clock = iter([0.0, 100.0, 200.0, 201.0, 300.0, 303.0])  # the first query takes 100 seconds, the others 1 and 3
    monkeypatch.setattr(times.time, "perf_counter", lambda: next(clock))
    row = seconds_of(trials, method("geometric"), 4, trials.cases[1], trials.cases)
    assert row == {
        "seconds": 2.0,
        "seconds_low": 1.5,
        "seconds_high": 2.5,
        "pairs_per_second": 2.0,  # 2 times 4 pairs in 4 seconds
        "timed_queries": 2,
    }


def test_time_is_taken_without_the_score_cache(collection: Path) -> None:
    trials = trials_in(collection, collection / "scores.sqlite", top=2)
    mllm = method("mllm mllm=builtin", top=2)
    list(trials.scores(mllm))  # all of them are in the cache now
    made = []
    real = trials.reranker
    trials.reranker = lambda *some, **more: made.append(real(*some, **more)) or made[-1]  # type: ignore[method-assign]
    seconds_of(trials, mllm, 2, trials.cases[0], trials.cases[1:])
    assert [(one.work.scored, one.work.known) for one in made] == [(4, 0)]
    list(trials.scores(mllm))
    assert [(one.work.scored, one.work.known) for one in made[1:]] == [(0, 4)]


def test_what_was_timed_is_not_timed_again(collection: Path, monkeypatch) -> None:
    timed: list[int] = []

    def seconds(trials, method, count, warm, cases):
        if len(timed) == 1:
            raise KeyboardInterrupt
        timed.append(count)
        return {"seconds": count / 10, "seconds_low": 0.1, "seconds_high": 1, "pairs_per_second": 1, "timed_queries": 1}

    monkeypatch.setattr(times, "seconds_of", seconds)
    outputs = Outputs(collection / "out", "none")
    trials = trials_in(collection)
    with pytest.raises(KeyboardInterrupt):
        run_study(time_study(trials, [method("geometric")], ["AP"], (3, 6)), outputs)
    timed += [0, 0]
    again = trials_in(collection)
    monkeypatch.setattr(again, "scores", None)  # quality is known, too
    run_study(time_study(again, [method("geometric")], ["AP"], (3, 6)), outputs)
    assert timed == [3, 0, 0, 6]
    rows = json.loads((collection / "out" / "time.json").read_text())["rows"]
    assert [row.get("seconds") for row in rows] == [None, 0.3, 0.6]


def test_more_candidates_than_there_are_hits_is_an_error(collection: Path) -> None:
    trials = trials_in(collection)
    assert usual_candidates(trials) == (20,)
    with pytest.raises(SettingsError, match="the longest shortlist has 20 hits"):
        time_study(trials, [method("geometric")], ["AP"], (10, 21))
    with pytest.raises(SettingsError, match="no method has a second stage"):
        time_study(trials, [method("none")], ["AP"], (10,))


def test_the_command_writes_table_facts_and_plot(imgrank, collection: Path) -> None:
    pytest.importorskip("matplotlib")
    trials_in(collection)  # writes the judgements
    common = ["study", "time", "db.h5", "--qrels", "judged.tsv", "--queries", "queries", "-o", "out"]
    more = ["--method", "none", "--method", "geometric", "--measure", "AP", "--timed", 2]
    refused = imgrank(*common, *more, "--rerank", 30, "-k", 20, cwd=collection)
    assert refused.returncode == 2
    assert b"give -k 30" in refused.stderr
    run = imgrank(*common, *more, "--rerank", 9, "--rerank", 4, cwd=collection)
    assert run.returncode == 0, run.stderr
    assert run.stdout.decode().split() == ["out/time.csv", "out/time.json", "out/time.svg"]
    report = json.loads((collection / "out" / "time.json").read_text())
    assert report["settings"]["candidates"] == [4, 9]
    assert report["settings"]["timed_queries"] == 2
    assert report["settings"]["timed_on"]["device"] == "cpu"
    assert [row["candidates"] for row in report["rows"]] == [0, 4, 9]
    header = (collection / "out" / "time.csv").read_text().splitlines()[0]
    assert header == (
        "method,candidates,task,measure,mean,low,high,queries,"
        "seconds,seconds_low,seconds_high,pairs_per_second,timed_queries"
    )
