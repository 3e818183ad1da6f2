"""Measuring recipes: bytes, scores against all tokens, mAP, and the Pareto curve."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from imgrank.errors import InputError
from imgrank.evaluation.fidelity import Fidelity
from imgrank.evaluation.qrels import read_qrels
from imgrank.steps.tune_tokens import TuneResult, TuneSettings, marked, tune_tokens, usual_recipes
from tests.tiny_mllms import save_tiny_mllm

SIZE = "resize:160 | max-tokens:100"
RECIPES = [f"{SIZE} | {steps}" for steps in ("float16", "divprune:50% | float16", "pq:16", "random:1 | int8")]


@pytest.fixture(scope="module")
def made(_indexed: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("tune") / "collection"
    shutil.copytree(_indexed.parent, folder)
    shutil.copy2(_indexed, folder / "db.h5")
    save_tiny_mllm(folder / "mllm", "qwen3_vl")
    return folder


def tuned(folder: Path, recipes=RECIPES, qrels=None, **settings) -> list[TuneResult]:
    settings = TuneSettings(**{"queries": 4, "top": 6} | settings)
    return list(
        tune_tokens(folder / "db.h5", mllm=str(folder / "mllm"), recipes=recipes, qrels=qrels, settings=settings)
    )


def test_recipes_are_held_to_all_tokens(made):
    before = (made / "db.h5").read_bytes()
    whole, half, small, one = tuned(made)
    assert whole.scores.pairs == 24
    assert whole.scores.correlation > 0.99999
    assert whole.scores.kendall_tau == pytest.approx(1)
    assert whole.bytes_per_image == 21 + whole.tokens * (3 * 64 * 2 + 6)
    assert half.tokens == pytest.approx(whole.tokens / 2, abs=0.5)
    assert small.tokens == whole.tokens
    assert small.bytes_per_image == 21 + whole.tokens * (3 * 16 + 6)
    assert small.bytes_once == 3 * 256 * 64 * 4
    assert one.tokens == 1
    assert one.scores.logit_change > half.scores.logit_change > whole.scores.logit_change
    assert {result.mean_average_precision for result in (whole, half, small, one)} == {None}
    assert (made / "db.h5").read_bytes() == before
    assert not list(made.glob("*.sample"))


def test_judgements_give_map(made, tmp_path):
    names = sorted(path.name for path in (made / "photos").glob("*.jpg"))
    objects: dict[str, list[str]] = {}
    for name in names:
        objects.setdefault(name.split("-view")[0], []).append(name)
    lines = [
        f"photos/{query}\t0\tphotos/{other}\t1\n"
        for views in objects.values()
        for query in views[:1]
        for other in views
        if other != query
    ]
    (tmp_path / "q.tsv").write_text("".join(lines))
    qrels = read_qrels(tmp_path / "q.tsv")
    # With lambda 1 the shortlist decides alone, so that every recipe has its mAP.
    alone = tuned(made, RECIPES[:2], qrels, queries=3, top=12, lam=1.0)
    assert len({result.mean_average_precision for result in alone}) == 1
    assert 0.5 < alone[0].mean_average_precision <= 1
    mixed = tuned(made, RECIPES[:1], qrels, queries=3, top=12, lam=0.0)
    assert mixed[0].mean_average_precision < alone[0].mean_average_precision  # random weights


def test_a_cut_run_goes_on_and_computes_no_photo_twice(made, tmp_path, monkeypatch):
    from imgrank.mllm.adapter import DecoderAdapter
    from imgrank.steps import recipe_scores as module

    folder = tmp_path / "c"
    shutil.copytree(made, folder)
    monkeypatch.setattr(module, "_PART", 4)
    seen = []
    real = DecoderAdapter.encode

    def encode(self, images, **sizes):
        if len(seen) == 9:
            raise KeyboardInterrupt
        seen.append(1)
        return real(self, images, **sizes)

    monkeypatch.setattr(DecoderAdapter, "encode", encode)
    with pytest.raises(KeyboardInterrupt):
        tuned(folder, RECIPES[:1], queries=2, top=19)
    seen.clear()
    seen += [0] * 100
    tuned(folder, RECIPES[:1], queries=2, top=19)
    assert len(seen) - 100 == 20 - 8


def fake(size: float, tau: float, precision: float | None = None) -> TuneResult:
    return TuneResult("r", 1, size, 0, Fidelity(1, 1, 1.0, tau, 0.0, 0.0, 1.0), precision)


def test_the_pareto_curve_holds_what_nothing_smaller_reaches():
    results = [fake(100, 0.9), fake(10, 0.5), fake(50, 0.5), fake(20, 0.8), fake(20, 0.7), fake(200, 0.95)]
    assert [(one.bytes_per_image, one.scores.kendall_tau, one.pareto) for one in marked(results)] == [
        (10, 0.5, True),
        (20, 0.8, True),
        (20, 0.7, False),
        (50, 0.5, False),
        (100, 0.9, True),
        (200, 0.95, True),
    ]
    judged = [fake(10, 0.1, 0.9), fake(20, 0.9, 0.8)]
    assert [one.pareto for one in marked(judged)] == [True, False]


def test_the_usual_grid_holds_controls_and_can_be_read(made):
    from imgrank.config import TokenSettings
    from imgrank.mllm.registry import load_mllm
    from imgrank.tokens.recipe import parse_recipe

    recipes = usual_recipes(load_mllm(str(made / "mllm"), device="cpu", dtype="float32"), TokenSettings())
    assert len(recipes) == len(set(recipes)) == 17
    assert parse_recipe(recipes[0]).reduce == ""
    assert any("random" in recipe for recipe in recipes)
    assert [parse_recipe(recipe).longer_side for recipe in recipes] == [560] * 17


def test_unknown_photos_in_judgements_are_named(made, tmp_path):
    (tmp_path / "q.tsv").write_text("photos/nowhere.jpg\t0\tphotos/object-00-view-0.jpg\t1\n")
    with pytest.raises(InputError, match=r"nowhere\.jpg"):
        tuned(made, RECIPES[:1], read_qrels(tmp_path / "q.tsv"))


def test_the_command_prints_records_and_a_plot(imgrank, made, tmp_path):
    pytest.importorskip("matplotlib")
    arguments = ["tune-tokens", "db.h5", "--mllm", "mllm", "--queries", 2, "--top", 4, "--plot", tmp_path / "p.svg"]
    run = imgrank(*arguments, "--recipe", RECIPES[0], "--recipe", RECIPES[1], cwd=made)
    assert run.returncode == 0, run.stderr
    records = [json.loads(line) for line in run.stdout.splitlines()]
    assert [record["recipe"] for record in records] == [RECIPES[1], RECIPES[0]]
    assert records[1]["pareto"]
    assert records[0]["bytes_per_image"] < records[1]["bytes_per_image"]
    svg = (tmp_path / "p.svg").read_text()
    assert "</svg>" in svg
    assert np.isfinite(records[0]["correlation"])
