"""The study of prompts: a general model is asked in every way, the built-in one in its own."""

import json
from pathlib import Path

import pytest

from imgrank.errors import SettingsError
from imgrank.steps.second_stage import Request
from imgrank.steps.studies.frame import Outputs, run_study
from imgrank.steps.studies.method import parse_method
from imgrank.steps.studies.prompts import OWN, prompts_study
from imgrank.steps.studies.trials import Trials, TrialSettings


@pytest.fixture
def few(trials) -> Trials:
    return Trials(trials.judged, TrialSettings(depth=20, top=3, exact=True, sample=2))


def test_each_wording_has_its_numbers_or_a_reason(few, model_folder, tmp_path: Path) -> None:
    words = tmp_path / "own.txt"
    words.write_text("{query}{candidate}The same? {reply}")
    long = tmp_path / "long.txt"
    long.write_text("same: absolutely-the-same\ndifferent: no\n")
    line = f"mllm mllm={model_folder('qwen3_vl')} label=tiny"
    methods = [parse_method(line, top=3, request=Request())]
    study = prompts_study(few, methods, ["AP"], prompts=[words], answers=["digits", "grades", str(long)])
    assert len(study.parts) == 1 + 6 * 3  # the first stage; five tasks and a file
    _, facts, plot = run_study(study, Outputs(tmp_path / "out", "svg"))
    rows = json.loads(facts.read_text())["rows"]
    assert {row["prompt"] for row in rows if not row["note"]} == {
        *("", "object", "landmark", "artwork", "product", "category", "own.txt")
    }
    refused = [row for row in rows if row["note"]]
    assert len(refused) == 6
    assert all("tokens" in row["note"] and row["answers"] == str(long) for row in refused)
    assert plot.exists()
    # What the rows say is what re-ranking with these options says.
    settings = parse_method(f"{line} task=product answers=grades profile=none", top=3, request=Request())
    mean = few.evaluations(few.rankings(settings), ["AP"])[""].column("AP").mean()
    (row,) = [row for row in rows if (row["prompt"], row["answers"]) == ("product", "grades")]
    assert row["mean"] == pytest.approx(mean)


def test_the_builtin_model_is_asked_in_its_own_way(few) -> None:
    study = prompts_study(few, [parse_method("mllm mllm=builtin", top=3, request=Request())], ["AP"])
    assert list(study.parts) == ["none", f"mllm mllm=builtin, {OWN}, {OWN}"]


def test_local_features_are_not_asked(few) -> None:
    with pytest.raises(SettingsError, match="no method asks a model"):
        prompts_study(few, [parse_method("geometric", top=3, request=Request())], ["AP"])
