"""`tune-tokens`: what each way to store tokens costs in bytes and in quality, measured on photos of the bundle.

All tokens of the photos of some shortlists are computed once; then each recipe is applied to them and the pairs are
scored again. Nothing in the bundle changes.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from imgrank.arrays import Floats, Ids
from imgrank.config import BUILTIN, DecodeSettings, RerankSettings, TokenSettings
from imgrank.errors import InputError
from imgrank.evaluation.fidelity import Fidelity, fidelity
from imgrank.evaluation.metrics import average_precision
from imgrank.evaluation.pareto import on_front
from imgrank.evaluation.qrels import Qrels
from imgrank.images.scan import display
from imgrank.progress import SILENT, Reporter
from imgrank.records import OK
from imgrank.rerank.base import PairScores
from imgrank.steps.collection import Collection
from imgrank.steps.features import default_token_settings
from imgrank.steps.judgements import relevant_rows
from imgrank.steps.photos import BundlePhotos, open_photos
from imgrank.steps.proof import proof_scorer
from imgrank.steps.recipe_scores import RecipeScorer, Shortlisted, size_of
from imgrank.tokens.product_quantization import check_subvectors
from imgrank.tokens.recipe import codebook_spec, parse_recipe

if TYPE_CHECKING:
    from imgrank.mllm.base import VisionLanguageModel


@dataclass(frozen=True)
class TuneSettings:
    """How much is measured.

    Attributes:
        queries: at most so many.
        top: candidates of each.
        lam: weight of the similarity in what mAP is computed of.
        seed: chooses queries where no judgements do.
    """

    queries: int = 20
    top: int = 50
    lam: float = RerankSettings.lam
    seed: int = 0


@dataclass(frozen=True)
class TuneResult:
    """One recipe.

    Attributes:
        recipe: in full.
        tokens: kept of a photo, the mean.
        bytes_per_image: of the cache, without what is stored once.
        bytes_once: codebooks and rotations.
        scores: against the scores with all tokens, at the size of the first recipe.
        mean_average_precision: of the re-ranked shortlists; None without judgements.
        pareto: whether no other recipe is at least as good in fewer bytes; by mAP where there is one, else by Kendall's
            tau.
    """

    recipe: str
    tokens: float
    bytes_per_image: float
    bytes_once: int
    scores: Fidelity
    mean_average_precision: float | None
    pareto: bool = False

    def record(self) -> dict[str, Any]:
        """Return the numbers by name."""
        own = {key: value for key, value in asdict(self).items() if key != "scores"}
        return {**own, **self.scores.record()}


@dataclass(frozen=True, eq=False)
class _Query:
    row: int
    candidates: Ids
    similarities: Floats
    right: frozenset[int]  # rows of relevant photos
    relevant: int


def usual_recipes(model: VisionLanguageModel, default: TokenSettings) -> list[str]:
    """Return the grid that is measured where the user names no recipes: all tokens first, which the rest is held to."""
    pq = f"pq:{usual_subvectors(model.hidden)}"
    reducers = ["divprune:50%", "divprune:25%", "divprune:12%"]
    others = ["random:25%", "kmeans:25%", "ward:25%", "pool:2", "merge:4", "grid:2"]
    size = f"resize:{default.longer_side} | max-tokens:{default.max_tokens}"
    steps = ["float16", "int8", pq, f"o{pq}", f"r{pq}"]
    steps += [f"{reducer} | {store}" for reducer in reducers for store in ("float16", pq)]
    steps += [f"{reducer} | float16" for reducer in others]
    return [f"{size} | {step}" for step in steps]


def usual_subvectors(hidden: int) -> int:
    """Return into how many parts a product quantizer cuts a token: of 8 numbers each, or a few more."""
    return hidden // next(size for size in range(min(8, hidden), hidden + 1) if hidden % size == 0)


def check_recipes(recipes: Sequence[TokenSettings], model: VisionLanguageModel) -> None:
    """Refuse recipes that do not suit a model, before anything is computed.

    Raises:
        SettingsError: a quantizer cannot cut the model's tokens into so many parts.
    """
    for one in recipes:
        if (spec := codebook_spec(one)) is not None:
            check_subvectors(spec.subvectors, model.hidden)


def tune_tokens(
    bundle: Path,
    *,
    mllm: str | None = None,
    recipes: Sequence[str] = (),
    qrels: Qrels | None = None,
    settings: TuneSettings | None = None,
    decode: DecodeSettings | None = None,
    root: Path | None = None,
    device: str = "auto",
    dtype: str = "auto",
    reporter: Reporter = SILENT,
) -> Iterator[TuneResult]:
    """Measure recipes on shortlists of a bundle; yields each result as it is there, `pareto` not yet known.

    Args:
        bundle: with descriptors, and its photos at hand.
        mllm: model id or folder; None takes the built-in model.
        recipes: to measure; the first one's size, with all tokens, is what scores are held to. None: a usual grid.
        qrels: judgements whose queries are photos of the bundle; None takes queries by chance and measures scores only.
        settings: how much is measured.
        decode: limits and workers.
        root: folder of the photos, where it is not the one the bundle states.
        device: for the model.
        dtype: for the model.
        reporter: hears of progress.

    Raises:
        InputError: a judged photo is not in the bundle, or a photo cannot be read.
        SettingsError: a recipe cannot be read.
    """
    from imgrank.mllm.registry import load_mllm

    settings = settings or TuneSettings()
    name = mllm or BUILTIN
    model = load_mllm(name, device=device, dtype=dtype)
    default = default_token_settings(model)
    parsed = [parse_recipe(recipe, default) for recipe in recipes or usual_recipes(model, default)]
    check_recipes(parsed, model)
    with open_photos(bundle, decode, root) as photos:
        queries = list(_queries(photos, qrels, settings))
        if not queries:
            raise InputError(f"{bundle}: there are no two photos to compare")
        shortlists = [Shortlisted(query.row, query.candidates) for query in queries]
        engine = RecipeScorer(Collection.of(photos), proof_scorer(model), shortlists, beside=bundle)
        yield from _tune(engine, parsed, queries, settings, reporter)


def marked(results: Sequence[TuneResult]) -> list[TuneResult]:
    """Return results by bytes, with those on the Pareto curve marked."""
    front = on_front([one.bytes_per_image for one in results], [_quality(one) for one in results])
    found = [replace(one, pareto=pareto) for one, pareto in zip(results, front, strict=True)]
    return sorted(found, key=lambda one: (one.bytes_per_image, -_quality(one)))


def _quality(result: TuneResult) -> float:
    if result.mean_average_precision is not None:
        return result.mean_average_precision
    return result.scores.kendall_tau if result.scores.kendall_tau is not None else 0.0


def _queries(photos: BundlePhotos, qrels: Qrels | None, settings: TuneSettings) -> Iterator[_Query]:
    """Give each query its nearest photos, without itself."""
    usable = photos.usable()
    descriptors = photos.bundle.descriptors.read()
    order = np.random.default_rng([0x7E57, settings.seed])
    chosen: list[tuple[int, dict[bytes, int]]]
    if qrels is None:
        chosen = [(int(row), {}) for row in order.permutation(usable)[: settings.queries]]
    else:
        names = sorted(qrels)
        if len(names) > settings.queries:
            names = [names[i] for i in sorted(order.choice(len(names), settings.queries, replace=False))]
        chosen = [(photos.row_of_name(name), qrels[name]) for name in names]
    for row, judged in chosen:
        if photos.statuses[row] != OK:
            raise InputError(f"query {display(photos.path(row))} could not be read when it was embedded")
        others = usable[usable != row]
        if not len(others):
            continue
        similar = descriptors[others] @ descriptors[row]
        best = np.argsort(-similar, kind="stable")[: settings.top]
        right = relevant_rows(photos, judged) - {row}
        yield _Query(row, others[best], similar[best].astype(np.float32), right, len(right))


def _tune(
    engine: RecipeScorer,
    recipes: list[TokenSettings],
    queries: list[_Query],
    settings: TuneSettings,
    reporter: Reporter,
) -> Iterator[TuneResult]:
    sizes = list(dict.fromkeys(map(size_of, recipes)))
    total = engine.photos * len(sizes) + engine.pairs * (len(recipes) + 1)
    before: list[Floats] | None = None
    with reporter.bar(total, "tune-tokens", "photo or pair") as advance:
        for size in sizes:
            own = [one for one in recipes if size_of(one) == size]
            engine.encode(own[0], advance)
            if before is None:
                before = engine.all_tokens(advance)
            for one in own:
                found = engine.score(one, advance)
                yield TuneResult(
                    recipe=found.recipe,
                    tokens=found.tokens,
                    bytes_per_image=found.bytes_per_image,
                    bytes_once=found.bytes_once,
                    scores=fidelity(before, found.logits),
                    mean_average_precision=_mean_average_precision(queries, found.logits, settings.lam),
                )
            engine.forget()


def _mean_average_precision(queries: Sequence[_Query], logits: Sequence[Floats], lam: float) -> float | None:
    found = []
    for query, differences in zip(queries, logits, strict=True):
        if not query.relevant:
            continue
        scores = lam * query.similarities + (1 - lam) * PairScores.of_logits(differences).values
        order = np.argsort(-scores, kind="stable")
        right = [int(row) in query.right for row in query.candidates[order]]
        found.append(average_precision(right, query.relevant))
    return float(np.mean(found)) if found else None


def plot(results: Sequence[TuneResult], path: Path) -> None:
    """Write a plot of marked results, quality against bytes for a photo.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    from imgrank.report.pareto import Point, plot_pareto

    judged = results[0].mean_average_precision is not None
    points = []
    for one in results:
        steps = [step for step in one.recipe.split(" | ") if not step.startswith(("resize:", "max-tokens:"))]
        points.append(Point(" | ".join(steps), one.bytes_per_image, _quality(one), one.pareto))
    plot_pareto(points, "mAP" if judged else "Kendall's tau to all tokens", path)
