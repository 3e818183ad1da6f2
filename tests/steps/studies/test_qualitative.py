"""`study qualitative`: which pairs gained and lost, worked by hand over two queries."""

import csv
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from imgrank.config import RerankSettings
from imgrank.errors import SettingsError
from imgrank.evaluation.datasets.base import Dataset, Task
from imgrank.rerank.base import PairScores
from imgrank.results import Hit, Ranking
from imgrank.steps.evaluate import evaluate_tasks
from imgrank.steps.second_stage import Request
from imgrank.steps.studies import frame
from imgrank.steps.studies.frame import Outputs, run_study
from imgrank.steps.studies.method import Method
from imgrank.steps.studies.qualitative import _largest, qualitative_study
from imgrank.steps.studies.trials import Case

NONE = Method("none", "none", None, Request())
GEOMETRIC = Method("geo", "geometric", RerankSettings(top=5, lam=0.0, scorer="geometric"), Request())
MLLM = Method("mllm", "mllm", RerankSettings(top=5, lam=0.0, scorer="mllm"), Request())


@pytest.fixture(autouse=True)
def _some_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(frame, "machine", dict)  # asking for the versions of model libraries takes seconds


class FakeTrials:
    """Two queries; what a second stage says of their first photos is given."""

    def __init__(self, said: dict[str, list[list[float]]]) -> None:
        photos = {b"q": [b"w1", b"w2", b"junk", b"r1", b"w3", b"r2"], b"p": [b"r", b"x", b"q"]}
        self.cases = []
        for query, names in photos.items():
            hits = [Hit(query, n, n, name, 1 - n / 10, 1 - n / 10) for n, name in enumerate(names, 1)]
            self.cases.append(Case(query, 0, Ranking(query, tuple(hits)), list(range(len(hits)))))
        self.dataset = Dataset(
            "made", Path(), "trec", None,
            (Task("", {b"q": {b"r1": 1, b"r2": 2, b"lost": 1, b"junk": -1, b"w1": 0}, b"p": {b"r": 1}}),),
        )  # fmt: skip
        self._said = said
        self.asked: list[str] = []

    def facts(self):
        return {"made": 1}

    def scores(self, method):
        self.asked.append(method.label)
        for case, values in zip(self.cases, self._said[method.label], strict=True):
            yield case, PairScores(np.array(values, dtype=np.float32))

    def evaluations(self, rankings, measures):
        return evaluate_tasks(rankings, self.dataset, measures)


def run(study, folder: Path) -> list[dict[str, str]]:
    run_study(study, Outputs(folder, "none", force=True))
    with (folder / "qualitative.csv").open(newline="") as file:
        return list(csv.DictReader(file))


def study_of(trials, *methods, pairs=24):
    study = qualitative_study(trials, methods, ["AP"], pairs)
    object.__setattr__(study, "page", lambda rows, path: path.write_text("page"))
    return study


# By the second stage q's photos come in the order w3, r1, w1, junk, w2, r2, and p's as x, r, q: r2 is not looked at.
SAID = [[0.5, 0.125, 0.25, 0.75, 1.0], [0.25, 0.5]]


def test_gains_of_a_worked_ranking(tmp_path: Path):
    trials = FakeTrials({"geo": SAID})
    rows = run(study_of(trials, NONE, GEOMETRIC), tmp_path)
    by_photo = {(row["query"], row["photo"]): row for row in rows}
    r1 = by_photo["q", "r1"]
    assert [r1[name] for name in ("rank_before", "rank_after", "wrong_before", "wrong_after")] == ["3", "2", "2", "1"]
    assert float(r1["gain"]) == pytest.approx(1 / 2 - 1 / 3)
    assert [r1[name] for name in ("p_before", "p_after", "score_before", "score_after")] == ["", "0.75", "0.6", "0.75"]
    r2 = by_photo["q", "r2"]  # beyond what was looked at, and still behind three wrong ones
    assert [r2[name] for name in ("relevance", "rank_before", "rank_after", "gain")] == ["2", "5", "5", "0.0"]
    assert r2["p_after"] == ""
    lost = by_photo["q", "lost"]
    assert [lost[name] for name in ("rank_before", "rank_after", "similarity", "gain")] == ["", "", "", "0.0"]
    assert float(by_photo["p", "r"]["gain"]) == pytest.approx(1 / 2 - 1)
    # Wrong ones: w3 from rank 4 to 1, w1 from 1 to 3, w2 from 2 to 4, x from 2 to 1; the query in its own ranking and
    # junk are not among them.
    wrong = {photo: float(row["gain"]) for (_, photo), row in by_photo.items() if row["relevance"] == "0"}
    assert wrong == pytest.approx({"w3": 3 / 4, "x": 1 / 2, "w1": 1 / 3 - 1, "w2": 1 / 4 - 1 / 2})
    assert [row["photo"] for row in rows] == ["r1", "r2", "lost", "r", "w3", "x", "w1", "w2"]
    notes = json.loads((tmp_path / "qualitative.json").read_text())["notes"]
    # AP of q: (1/3 + 2/5) / 3 -> (1/2 + 2/5) / 3, of p: 1 -> 1/2.
    assert notes[0].startswith(f"AP {(11 / 45 + 1) / 2:.4f} → {(3 / 10 + 1 / 2) / 2:.4f}, difference ")
    assert notes[1] == "Of 4 pairs of a query and a right photo, 1 gained, 1 lost, 2 stayed; 1 are in neither ranking."


def test_two_second_stages_and_a_list_that_is_cut(tmp_path: Path):
    trials = FakeTrials({"geo": SAID, "mllm": [[0.0, 0.0, 0.0, 1.0, 0.0], [1.0, 0.0]]})
    rows = run(study_of(trials, GEOMETRIC, MLLM, pairs=1), tmp_path)
    (r1,) = [row for row in rows if row["photo"] == "r1"]
    assert [r1[name] for name in ("rank_before", "rank_after", "p_before", "p_after", "gain")] == [
        *("2", "1", "0.75", "1.0", "0.5")
    ]
    # At most one wrong photo each way; w1 comes from 3 to 2, w3 goes from 1 to 4.
    assert [row["photo"] for row in rows if row["relevance"] == "0"] == ["w1", "w3"]


def test_what_was_scored_is_kept_where_the_rest_fails(tmp_path: Path):
    trials = FakeTrials({"geo": SAID})
    with pytest.raises(KeyError):
        run_study(study_of(trials, GEOMETRIC, MLLM), Outputs(tmp_path, "none"))
    again = FakeTrials({"mllm": SAID})
    rows = run(study_of(again, GEOMETRIC, MLLM), tmp_path)
    assert again.asked == ["mllm"]
    assert {row["gain"] for row in rows} == {"0.0"}
    assert (tmp_path / "qualitative.html").read_text() == "page"


def test_each_task_has_its_own_pairs(tmp_path: Path):
    trials = FakeTrials({"geo": SAID})
    tasks = (Task("easy", {b"q": {b"r1": 1}}), Task("hard", {b"q": {b"r1": -1, b"r2": 1}, b"p": {b"r": 1}}))
    trials.dataset = replace(trials.dataset, tasks=tasks)
    rows = run(study_of(trials, NONE, GEOMETRIC), tmp_path)
    right = [(row["task"], row["photo"], row["rank_after"]) for row in rows if int(row["relevance"]) > 0]
    # r1 is junk in the hard task, and in the easy one the photo that is junk elsewhere is wrong.
    assert right == [("easy", "r1", "2"), ("hard", "r2", "5"), ("hard", "r", "2")]
    notes = json.loads((tmp_path / "qualitative.json").read_text())["notes"]
    assert [note.split(":")[0] for note in notes] == ["easy", "easy", "hard", "hard"]


def test_of_equal_gains_the_further_goes_first():
    def row(photo: str, before: int, after: int, gain: float) -> dict:
        return {"query": "q", "photo": photo, "rank_before": before, "rank_after": after, "gain": gain}

    rows = [
        row("b", 4, 2, 0.5),
        row("a", 4, 2, 0.5),
        row("far", 9, 2, 0.5),
        row("less", 9, 1, 0.25),
        row("no", 1, 1, 0),
    ]
    assert [one["photo"] for one in _largest(rows, 1, 9)] == ["far", "a", "b", "less"]
    assert [one["photo"] for one in _largest(rows, 1, 2)] == ["far", "a"]
    assert _largest(rows, -1, 9) == []


def test_it_takes_two_methods():
    with pytest.raises(SettingsError, match="give two"):
        qualitative_study(SimpleNamespace(), [NONE], ["AP"], 24)
