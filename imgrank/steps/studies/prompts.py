"""`study prompts`: what the words are worth that a model is asked with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import get_args

from imgrank.config import Task
from imgrank.errors import SettingsError
from imgrank.report.curves import plot_bars
from imgrank.steps.studies.frame import Row, Study
from imgrank.steps.studies.method import FIRST_STAGE, Method
from imgrank.steps.studies.trials import Trials, summary_rows

ANSWERS = ("digits", "yes-no", "ternary", "grades")
OWN = "its own"  # the template, or the answers, that a model was tuned with
COLUMNS = ("method", "prompt", "answers", "task", "measure", "mean", "low", "high", "queries", "note")


@dataclass(frozen=True)
class _Wording:
    prompt: str
    answers: str
    method: Method


def prompts_study(
    trials: Trials,
    methods: Sequence[Method],
    measures: Sequence[str],
    *,
    prompts: Sequence[Path] = (),
    answers: Sequence[str] = ANSWERS,
) -> Study:
    """Return a study of every prompt with every way to answer, for each method that asks a model.

    A model that was tuned to re-rank is asked with its own template, too; one that understands nothing else, with that
    alone. Wordings that a model cannot be asked with stand in the table with the reason.

    Args:
        trials: what is ranked.
        methods: those of a multimodal language model count; what they say of prompts and answers is replaced.
        measures: names.
        prompts: files, beside the prompts of the tasks.
        answers: as `--answers` takes them.

    Raises:
        SettingsError: no method asks a model.
    """
    asking = [method for method in methods if method.settings is not None and method.settings.scorer == "mllm"]
    if not asking:
        raise SettingsError("no method asks a model; give one such as --method 'mllm mllm=MODEL'")
    wordings = [wording for method in asking for wording in _wordings(trials, method, prompts, answers)]
    parts = {
        f"{one.method.label}, {one.prompt}, {one.answers}": lambda one=one: _rows(trials, one, measures)
        for one in wordings
    }
    first = {FIRST_STAGE: lambda: _first_stage(trials, measures)}
    facts = {
        "trials": trials.facts(),
        "methods": [method.facts() for method in asking],
        "measures": list(measures),
        "prompts": {str(path): path.read_text(encoding="utf-8", errors="replace") for path in prompts},
        "answers": list(answers),
    }
    return Study("prompts", COLUMNS, facts, first | parts, lambda rows, path: _plot(rows, path, measures[0]))


def _wordings(trials: Trials, method: Method, prompts: Sequence[Path], answers: Sequence[str]) -> list[_Wording]:
    assert method.settings is not None
    found = []
    profile = trials.profile(method)
    plain = replace(method.settings, profile="auto", answers=None, prompt_layout=None)
    if profile is not None and profile.only:
        return [_Wording(OWN, OWN, replace(method, settings=plain))]
    for task in get_args(Task):
        own = replace(method, settings=replace(plain, task=task), request=replace(method.request, prompt_file=None))
        if profile is not None:
            found.append(_Wording(task, OWN, own))
        for one in answers:
            asked = replace(own, settings=replace(plain, task=task, profile="none", answers=one))
            found.append(_Wording(task, one, asked))
    for path in prompts:
        for one in answers:
            settings = replace(plain, profile="none", answers=one)
            asked = replace(method, settings=settings, request=replace(method.request, prompt_file=path))
            found.append(_Wording(path.name, one, asked))
    return found


def _first_stage(trials: Trials, measures: Sequence[str]) -> list[Row]:
    results = trials.evaluations([case.ranking for case in trials.cases], measures)
    return [{"method": FIRST_STAGE, "prompt": "", "answers": "", "note": "", **row} for row in summary_rows(results)]


def _rows(trials: Trials, wording: _Wording, measures: Sequence[str]) -> list[Row]:
    head = {"method": wording.method.label, "prompt": wording.prompt, "answers": wording.answers}
    try:
        rankings = trials.rankings(wording.method)
    except SettingsError as error:
        return [{**head, "note": str(error)}]
    return [{**head, "note": "", **row} for row in summary_rows(trials.evaluations(rankings, measures))]


def _plot(rows: Sequence[Row], path: Path, measure: str) -> None:
    drawn = [row for row in rows if row.get("measure") == measure and row["method"] != FIRST_STAGE]
    groups = list(dict.fromkeys(row["prompt"] for row in drawn))
    several = len({row["method"] for row in drawn}) > 1 or len({row["task"] for row in drawn}) > 1
    series: dict[str, list[tuple[float, float, float]]] = {}
    nothing = (0.0, 0.0, 0.0)
    for row in drawn:
        parts = [row["method"], row["task"], row["answers"]] if several else [row["answers"]]
        bars = series.setdefault(", ".join(filter(None, parts)), [nothing] * len(groups))
        bars[groups.index(row["prompt"])] = (row["mean"], row["low"], row["high"])
    plot_bars(groups, series, path, x="prompt", y=f"mean {measure}")
