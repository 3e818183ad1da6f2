"""`study memory`: recipes over trials, resumed without scoring again."""

import csv
import json
from pathlib import Path

import numpy as np
import pytest

from imgrank.config import RerankSettings, TokenSettings
from imgrank.errors import SettingsError
from imgrank.evaluation.fidelity import fidelity
from imgrank.evaluation.pareto import on_front
from imgrank.mllm.registry import load_mllm
from imgrank.rerank.packing import PairScorer
from imgrank.steps.features import VisualSource
from imgrank.steps.second_stage import choose_prompt
from imgrank.steps.studies.frame import Outputs, run_study
from imgrank.steps.studies.memory import MemoryRequest, memory_study, usual_grid
from imgrank.tokens.recipe import parse_recipe
from tests.steps.studies.drawn_trials import precision_by_hand, right_of, trials_in

SIZE = "resize:512 | max-tokens:64"
WHOLE, HALF = f"{SIZE} | float16", f"{SIZE} | divprune:50% | int8"


def study_of(trials, recipes=(WHOLE, HALF), score_cache=None, folder=Path("out"), lam=0.4):
    settings = RerankSettings(top=trials.settings.top, lam=lam, scorer="mllm")
    request = MemoryRequest(recipes=tuple(recipes), settings=settings, device="cpu", score_cache=score_cache)
    return memory_study(trials, ["AP"], request, beside=folder / "memory")


def test_numbers_are_those_of_a_loop_by_hand(collection: Path) -> None:
    trials = trials_in(collection, top=5)
    out = collection / "out"
    run_study(study_of(trials, folder=out), Outputs(out, "none"))
    table = list(csv.DictReader((out / "memory.csv").open()))
    assert [row["recipe"] for row in table] == ["none", WHOLE, HALF]
    model = load_mllm("builtin", device="cpu", dtype="auto")
    scorer = PairScorer(model, *choose_prompt(model, RerankSettings(), None))
    logits, values, kept = {WHOLE: [], HALF: []}, [], []
    for case in trials.cases:
        for recipe, found in logits.items():
            source = VisualSource(model, parse_recipe(recipe))
            pixels = [trials.judged.photos.pixels(row, source.longer_side) for row in case.rows[:5]]
            asked = source.of_query(trials_pixels(trials, case.photo, source.longer_side))
            candidates = [source.of_candidate(one) for one in pixels]
            kept += [len(one) for one in candidates] if recipe == HALF else []
            found.append(scorer.score(asked, candidates))
        hits, probabilities = case.ranking.hits, 1 / (1 + np.exp(-logits[HALF][-1].astype(float)))
        fused = [0.4 * hit.similarity + 0.6 * value for hit, value in zip(hits, probabilities, strict=False)]
        order = [hits[place].path for place in np.argsort(np.negative(fused), kind="stable")]
        names = [*order, *(hit.path for hit in hits[5:])]
        values.append(precision_by_hand(names, right_of(trials, case.query)))
    half = table[2]
    assert float(half["mean"]) == pytest.approx(np.mean(values))
    assert (half["longer_side"], half["max_tokens"]) == ("512", "64")
    assert max(kept) == 32
    # 192 numbers of a byte, a scale, a position; 21 bytes for a photo.
    assert float(half["bytes_per_image"]) == pytest.approx(21 + float(half["tokens"]) * (192 + 4 + 6), abs=1)
    # Tokens wait in half precision, so the last bits differ.
    held = fidelity(logits[WHOLE], logits[HALF])
    assert float(half["correlation"]) == pytest.approx(held.correlation, abs=0.01)
    assert float(half["kendall_tau"]) == pytest.approx(held.kendall_tau, abs=0.1)
    assert float(table[1]["correlation"]) == 1.0
    assert {row["pareto"] for row in table[1:]} <= {"True", "False"}
    assert table[0]["pareto"] == table[0]["bytes_per_image"] == ""


def trials_pixels(trials, name: bytes, longer_side: int):
    from imgrank.images.query import read_query

    return read_query(name, trials.judged.photos.settings, longer_side).pixels


def test_a_killed_study_scores_no_recipe_again(collection: Path, monkeypatch) -> None:
    out = collection / "out"
    scored: list[int] = []
    real = PairScorer.score

    def score(self, query, candidates):
        if len(scored) == 3:  # two queries of the first recipe, one of the second
            raise KeyboardInterrupt
        scored.append(1)
        return real(self, query, candidates)

    monkeypatch.setattr(PairScorer, "score", score)
    with pytest.raises(KeyboardInterrupt):
        run_study(study_of(trials_in(collection, top=3), folder=out), Outputs(out, "none"))
    assert list(out.glob("memory.tune-512-64.sample/*.safetensors"))  # and encodes no photo again
    encoded: list[int] = []
    whole = VisualSource.of_query
    monkeypatch.setattr(VisualSource, "of_query", lambda *some: encoded.append(1) or whole(*some))
    scored += [0] * 10
    run_study(study_of(trials_in(collection, top=3), folder=out), Outputs(out, "none"))
    assert len(scored) == 13 + 2
    assert encoded == []
    assert sorted(path.name for path in out.iterdir()) == ["memory.csv", "memory.json"]
    rows = json.loads((out / "memory.json").read_text())["rows"]
    assert rows[1]["kendall_tau"] == 1.0
    assert rows[2]["kendall_tau"] is not None  # held to what the first run found


def test_the_score_cache_makes_a_second_study_nearly_free(collection: Path, monkeypatch) -> None:
    kept, out = collection / "scores.sqlite", collection / "out"
    run_study(study_of(trials_in(collection, top=3), score_cache=kept, folder=out), Outputs(out, "none"))
    first = (out / "memory.csv").read_text()
    pairs: list[int] = []
    real = PairScorer.score

    def score(self, query, candidates):
        candidates = list(candidates)
        pairs.append(len(candidates))
        return real(self, query, candidates)

    monkeypatch.setattr(PairScorer, "score", score)
    run_study(study_of(trials_in(collection, top=3), score_cache=kept, folder=out), Outputs(out, "none", force=True))
    assert (out / "memory.csv").read_text() == first
    assert pairs == []
    other = [WHOLE, f"{SIZE} | divprune:25% | int8"]
    study = study_of(trials_in(collection, top=4), other, score_cache=kept, folder=out)
    run_study(study, Outputs(out, "none", force=True))
    assert pairs == [1, 1, 4, 4]  # the fourth candidates with all tokens; all of them with other tokens


def test_all_tokens_are_measured_where_no_recipe_keeps_them(collection: Path) -> None:
    study = study_of(trials_in(collection), [HALF, "resize:512 | max-tokens:32 | int8", f"{SIZE} | int8"])
    # First what the rest is held to; recipes of one size are together.
    assert list(study.parts) == ["none", WHOLE, HALF, f"{SIZE} | int8", "resize:512 | max-tokens:32 | int8"]
    with pytest.raises(SettingsError, match="given twice"):
        study_of(trials_in(collection), [HALF, "max-tokens:64 | resize:512 | divprune:50% | int8"])
    with pytest.raises(SettingsError, match="7 sub-vectors do not divide"):
        study_of(trials_in(collection), ["pq:7"])


def test_the_grid_suits_the_model(model_folder) -> None:
    builtin = load_mllm("builtin", device="cpu", dtype="float32")
    lines = usual_grid(builtin, TokenSettings(longer_side=512, max_tokens=512))
    assert len(lines) == len(set(lines)) == 32
    assert lines[0] == "resize:512 | max-tokens:512 | float16"
    assert {parse_recipe(line).longer_side for line in lines} == {512}
    assert {parse_recipe(line).max_tokens for line in lines} == {512, 256, 128, 64}
    assert not any("pool" in line for line in lines)  # keypoints lie on no grid
    pixels = load_mllm(str(model_folder("qwen3_vl")), device="cpu", dtype="float32")
    lines = usual_grid(pixels, TokenSettings())
    assert len(lines) == len(set(lines)) == 36
    assert {parse_recipe(line).longer_side for line in lines} == {756, 560, 448, 336}


def test_the_front_is_what_nothing_cheaper_reaches() -> None:
    assert on_front([3, 1, 2, 2, 4], [0.5, 0.4, 0.4, 0.6, 0.6]) == [False, True, False, True, False]
    assert on_front([], []) == []


def test_the_command_writes_table_facts_and_plot(imgrank, collection: Path) -> None:
    pytest.importorskip("matplotlib")
    trials_in(collection)  # writes the judgements
    common = ["study", "memory", "db.h5", "--qrels", "judged.tsv", "--queries", "queries", "-o", "out", "--rerank", 2]
    recipes = ["--recipe", WHOLE, "--recipe", "resize:512 | max-tokens:64 | pq:24"]
    run = imgrank(*common, *recipes, "--measure", "AP", "--measure", "P@1", cwd=collection)
    assert run.returncode == 0, run.stderr
    assert run.stdout.decode().split() == ["out/memory.csv", "out/memory.json", "out/memory.svg"]
    header, *rows = (collection / "out" / "memory.csv").read_text().splitlines()
    assert header == (
        "recipe,longer_side,max_tokens,tokens,bytes_per_image,bytes_once,"
        "task,measure,mean,low,high,queries,correlation,kendall_tau,pareto"
    )
    assert len(rows) == 3 * 2
    report = json.loads((collection / "out" / "memory.json").read_text())
    assert report["settings"]["recipes"] == [WHOLE, "resize:512 | max-tokens:64 | pq:24"]
    assert all("logits" not in row for row in report["rows"])
    assert report["rows"][-1]["bytes_once"] == 256 * 192 * 4
