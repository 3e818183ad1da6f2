"""`study memory`: quality against the bytes that the index holds of an image, over sizes and ways to store tokens."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from imgrank.config import BUILTIN, RerankSettings, TokenSettings
from imgrank.errors import SettingsError
from imgrank.evaluation.fidelity import fidelity
from imgrank.evaluation.pareto import on_front
from imgrank.progress import SILENT, Reporter
from imgrank.report.curves import Curve, Panel, plot_curves
from imgrank.rerank.base import PairScores
from imgrank.rerank.score_cache import ScoreCache
from imgrank.steps.features import default_token_settings
from imgrank.steps.recipe_scores import RecipeScorer, Shortlisted, size_of, whole
from imgrank.steps.second_stage import choose_prompt, fingerprint_of
from imgrank.steps.studies.frame import Row, Study
from imgrank.steps.studies.method import FIRST_STAGE
from imgrank.steps.studies.trials import Trials, digest_of, fused, summary_rows
from imgrank.steps.tune_tokens import check_recipes, usual_subvectors
from imgrank.tokens.recipe import parse_recipe, recipe_text

if TYPE_CHECKING:
    from imgrank.mllm.base import VisionLanguageModel

SIDES = (756, 560, 448, 336)  # pixels
KEYPOINTS = (512, 256, 128, 64)  # of a photo, for a model whose tokens are keypoints
_COLUMNS = (
    *("recipe", "longer_side", "max_tokens", "tokens", "bytes_per_image", "bytes_once"),
    *("task", "measure", "mean", "low", "high", "queries", "correlation", "kendall_tau", "pareto"),
)


@dataclass(frozen=True)
class MemoryRequest:
    """What stores and scores tokens.

    Attributes:
        mllm: model id or folder.
        recipes: to measure; none takes the usual grid.
        settings: candidates, question, number type of the model and weight of the similarity.
        device: for the model.
        score_cache: where logits are kept; None keeps none.
    """

    mllm: str = BUILTIN
    recipes: tuple[str, ...] = ()
    settings: RerankSettings = field(default_factory=lambda: RerankSettings(scorer="mllm"))
    device: str = "auto"
    score_cache: Path | None = None


def usual_grid(model: VisionLanguageModel, default: TokenSettings) -> list[str]:
    """Return sizes times strategies, the largest size and all of its tokens first.

    The size is the longer side, or, for a model that sees every photo at the same size, how many tokens it makes of it.
    """
    pq = f"pq:{usual_subvectors(model.hidden)}"
    steps = ["float16", "int8", pq]
    steps += [f"divprune:{share}% | float16" for share in (50, 25, 12)]
    steps += [*(["pool:2 | float16"] if model.on_grid else []), "merge:4 | float16", f"divprune:25% | {pq}"]
    if len({model.decode_side(side) for side in SIDES}) == len(SIDES):
        sizes = [(side, default.max_tokens) for side in SIDES]
    else:
        sizes = [(default.longer_side, most) for most in KEYPOINTS if most <= default.max_tokens]
    return [f"resize:{side} | max-tokens:{most} | {step}" for side, most in sizes for step in steps]


def memory_study(
    trials: Trials,
    measures: Sequence[str],
    request: MemoryRequest,
    *,
    beside: Path,
    reporter: Reporter = SILENT,
) -> Study:
    """Return a study of quality against bytes: each recipe is applied to all candidates, and the pairs scored again.

    Args:
        trials: the queries and their shortlists; the photos are needed.
        measures: names; the first is drawn.
        request: model and recipes. All tokens at the size of the first recipe are what scores are held to.
        beside: name beside which tokens wait while the study runs.
        reporter: hears of progress.

    Raises:
        SettingsError: a recipe cannot be read, does not suit the model, or is given twice.
        MissingModelError, MissingDeviceError: see `imgrank.mllm.registry.load_mllm`.
    """
    from imgrank.mllm.registry import load_mllm
    from imgrank.rerank.packing import PairScorer

    settings = request.settings
    model = load_mllm(request.mllm, device=request.device, dtype=settings.dtype)
    default = default_token_settings(model)
    recipes = [parse_recipe(line, default) for line in request.recipes or usual_grid(model, default)]
    check_recipes(recipes, model)
    texts = [recipe_text(one) for one in recipes]
    for text in texts:
        if texts.count(text) > 1:
            raise SettingsError(f"the recipe {text!r} is given twice")
    reference = whole(recipes[0])
    if reference not in recipes:
        recipes.insert(0, reference)
    sizes = list(dict.fromkeys(map(size_of, recipes)))
    recipes.sort(key=lambda one: sizes.index(size_of(one)))  # all of one size together: its tokens are computed once
    scorer = PairScorer(model, *choose_prompt(model, settings, None))
    facts = {
        "trials": trials.facts(),
        "model": [model.name, model.revision, dict(model.settings)],
        "second_stage": settings.to_json(),
        "question": fingerprint_of(scorer, "").hex(),
        "measures": list(measures),
        "recipes": [recipe_text(one) for one in recipes],
    }
    known = None if request.score_cache is None else ScoreCache(request.score_cache, on_trouble=reporter.note)
    shortlists = [Shortlisted(case.photo, np.array(case.rows[: settings.top], dtype=np.int64)) for case in trials.cases]
    engine = RecipeScorer(
        trials.judged.photos, scorer, shortlists, beside=beside, facts=digest_of(facts["trials"]), known=known
    )

    def measure(recipe: TokenSettings) -> list[Row]:
        with reporter.bar(engine.photos + engine.pairs, recipe_text(recipe), "photo or pair") as advance:
            engine.encode(recipe, advance)
            found = engine.score(recipe, advance)
        rankings = [
            fused(case, PairScores.of_logits(logits), settings.lam)
            for case, logits in zip(trials.cases, found.logits, strict=True)
        ]
        measured = {
            "recipe": found.recipe,
            "longer_side": recipe.longer_side,
            "max_tokens": recipe.max_tokens,
            "tokens": found.tokens,
            "bytes_per_image": found.bytes_per_image,
            "bytes_once": found.bytes_once,
        }
        rows = [measured | row for row in summary_rows(trials.evaluations(rankings, measures))]
        # Agreement with all tokens is known once all is: str gives the fewest digits that are the same float32.
        return [*rows, {"logits": [[float(str(logit)) for logit in logits] for logits in found.logits]}]

    def finish(found: Mapping[str, list[Row]]) -> list[Row]:
        engine.forget(*recipes)
        return _finished(found, recipe_text(reference))

    parts: dict[str, Callable[[], list[Row]]] = {
        FIRST_STAGE: lambda: [
            {"recipe": FIRST_STAGE, **row}
            for row in summary_rows(trials.evaluations([case.ranking for case in trials.cases], measures))
        ]
    }
    for one in recipes:
        parts[recipe_text(one)] = lambda one=one: measure(one)  # type: ignore[misc]
    return Study(
        "memory",
        _COLUMNS,
        facts,
        parts,
        lambda rows, path: _plot(rows, path, measures[0]),
        [
            f"correlation and kendall_tau: of the logits with those of {recipe_text(reference)!r}. Queries keep all of "
            "their tokens. pareto: no other recipe has this mean with fewer bytes_per_image."
        ],
        finish,
    )


def _finished(found: Mapping[str, list[Row]], reference: str) -> list[Row]:
    """Return the rows of the table: those of the parts, with agreement with all tokens and the Pareto curve."""
    logits = {
        recipe: [np.array(one, dtype=np.float32) for one in rows[-1]["logits"]]
        for recipe, rows in found.items()
        if recipe != FIRST_STAGE
    }
    table = list(found[FIRST_STAGE])
    for recipe, after in logits.items():
        held = fidelity(logits[reference], after).record()
        agreement = {name: held[name] for name in ("correlation", "kendall_tau")}
        table += [row | agreement for row in found[recipe][:-1]]
    stored = [row for row in table if row["recipe"] != FIRST_STAGE]
    for key in dict.fromkeys((row["task"], row["measure"]) for row in stored):
        some = [row for row in stored if (row["task"], row["measure"]) == key]
        front = on_front([row["bytes_per_image"] for row in some], [row["mean"] for row in some])
        for row, pareto in zip(some, front, strict=True):
            row["pareto"] = pareto
    return table


def _plot(rows: Sequence[Row], path: Path, measure: str) -> None:
    """Draw a curve for each way to store, over the sizes of photos."""
    drawn = [row for row in rows if row["measure"] == measure]
    sides = {row["longer_side"] for row in drawn if row["recipe"] != FIRST_STAGE}
    size = "longer_side" if len(sides) > 1 else "max_tokens"
    panels = []
    for task in dict.fromkeys(row["task"] for row in drawn):
        own = [row for row in drawn if row["task"] == task]
        stored = sorted((row for row in own if row["recipe"] != FIRST_STAGE), key=lambda row: row["bytes_per_image"])
        curves = []
        for label in dict.fromkeys(map(_strategy, sorted(stored, key=lambda row: -row["bytes_per_image"]))):
            some = [row for row in stored if _strategy(row) == label]
            points = [(row["bytes_per_image"], row["mean"]) for row in some]
            curves.append(Curve(label, points, names=[str(row[size]) for row in some]))
        level = next(row["mean"] for row in own if row["recipe"] == FIRST_STAGE)
        panels.append(Panel(task, curves, {"first stage": level}))
    beside = "longer side in pixels" if size == "longer_side" else "tokens before any are left out"
    plot_curves(
        panels, path, x=f"bytes for an image (beside the points: {beside})", y=f"mean {measure}", log_x=True, columns=3
    )


def _strategy(row: Row) -> str:
    steps = row["recipe"].split(" | ")
    return " | ".join(step for step in steps if not step.startswith(("resize:", "max-tokens:")))
