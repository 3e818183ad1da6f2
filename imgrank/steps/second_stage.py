"""Chooses what re-ranks, by what bundles hold and a user asks: a scorer, and where the features come from."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imgrank.bundle import layout
from imgrank.bundle.file import Bundle
from imgrank.bundle.tokens import TokenTable
from imgrank.config import RerankSettings
from imgrank.errors import MismatchError, SettingsError
from imgrank.progress import Reporter
from imgrank.rerank.score_cache import default_path, fingerprint
from imgrank.rerank.scorers import Scorer
from imgrank.steps.cache_choice import cache_of_model, choose_caches
from imgrank.steps.features import (
    FeatureSource,
    LocalSource,
    VisualSource,
    default_token_settings,
    differing_vision,
    kept_settings,
    stored_codebooks,
)

if TYPE_CHECKING:
    from imgrank.mllm.answers import Answers
    from imgrank.mllm.base import VisionLanguageModel
    from imgrank.mllm.prompts import Prompt
    from imgrank.rerank.packing import PairScorer

ENGINE = 1  # raised when a change of the engine changes scores, so that kept ones are not used any more


@dataclass(frozen=True)
class Request:
    """What the user names beside the settings.

    Attributes:
        cache: name of the token cache; None takes the one that suits.
        mllm: model id or folder; None takes the one whose tokens are cached.
        prompt_file: a prompt instead of the built-in one of the task.
        device: for a model.
        compile: whether the model is compiled before it is used.
        loaded: the model, where it was loaded before by the same names; None loads it.
    """

    cache: str | None = None
    mllm: str | None = None
    prompt_file: Path | None = None
    device: str = "auto"
    compile: bool = False
    loaded: VisionLanguageModel | None = None


@dataclass(frozen=True, eq=False)
class BundleFeatures:
    """Where the features of the photos of one bundle come from.

    Attributes:
        table: where they are kept; None computes them from photos.
        source: turns pixels or kept tokens into features.
        fingerprints: one for each way a pair is asked about, under which its logit may be kept; none: it may not.
    """

    table: TokenTable | None
    source: FeatureSource[Any]
    fingerprints: tuple[bytes, ...] = ()


@dataclass(frozen=True, eq=False)
class SecondStage:
    """What re-ranks.

    Attributes:
        scorer: compares a query with candidates.
        source: turns the pixels of a query into features.
        bundles: where candidates come from, for each bundle.
    """

    scorer: Scorer[Any]
    source: FeatureSource[Any]
    bundles: tuple[BundleFeatures, ...]


def score_cache_path(asked: str | None) -> Path | None:
    """Return where logits are kept: by default in the user's cache folder, and nowhere for "none"."""
    if asked is None:
        return default_path()
    return None if asked == "none" else Path(asked)


def choose(bundles: Sequence[Bundle], settings: RerankSettings, request: Request, reporter: Reporter) -> SecondStage:
    """Load the second stage that suits bundles and a user's wishes: one scorer for all of them.

    Raises:
        SettingsError: no scorer suits what there is, or options contradict each other.
        MismatchError: a cache was made by another model.
        MissingGroupError: a bundle lacks the cache that was named.
        MissingModelError, MissingDeviceError: see `imgrank.mllm.registry.load_mllm`.
    """
    tables = choose_caches(bundles, settings, cache=request.cache, mllm=request.mllm)
    visual = request.mllm is not None or any(table is not None and table.kind == "mllm" for table in tables)
    if visual and settings.scorer != "geometric":
        return _visual(bundles, settings, request, tables)
    return _local(bundles, settings, tables, reporter)


def _local(
    bundles: Sequence[Bundle], settings: RerankSettings, tables: Sequence[TokenTable | None], reporter: Reporter
) -> SecondStage:
    from imgrank.rerank.scorers import GeometricScorer, LocalMaxSimScorer

    path = bundles[0].path
    if settings.scorer == "mllm":
        raise SettingsError(
            f"--scorer mllm needs a model: give --mllm, or run `imgrank cache-tokens {path}` for the built-in "
            "one (--mllm MODEL for another)"
        )
    if settings.scorer == "auto":
        reporter.note(
            "re-ranking by geometric matches of the built-in local features; for a multimodal language model: "
            f"imgrank cache-tokens {path} --mllm MODEL (the built-in one: --mllm builtin, here too)"
        )
    source = LocalSource()
    here = source.provenance
    for bundle, table in zip(bundles, tables, strict=True):
        held = table.provenance if table is not None else here
        if (held.model_revision, held.settings) != (here.model_revision, here.settings):
            raise MismatchError(
                bundle.path,
                f"{layout.LOCAL_CACHE!r} holds local features of version {held.model_revision} ({held.settings}); "
                f"this imgrank compares version {here.model_revision} ({here.settings}); make them again: "
                f"imgrank cache-tokens {bundle.path} --cache {layout.LOCAL_CACHE} --overwrite",
            )
    scorer = LocalMaxSimScorer() if settings.scorer == "maxsim" else GeometricScorer()
    return SecondStage(scorer, source, tuple(BundleFeatures(table, source) for table in tables))


def _visual(
    bundles: Sequence[Bundle], settings: RerankSettings, request: Request, tables: Sequence[TokenTable | None]
) -> SecondStage:
    from imgrank.mllm.registry import load_mllm
    from imgrank.rerank.packing import PairScorer, SymmetricPairScorer
    from imgrank.rerank.scorers import MllmScorer, VisualMaxSimScorer

    cached = [table.provenance.model for table in tables if table is not None]
    name = request.mllm if request.mllm is not None else cached[0]
    held = [
        table.provenance.model for bundle in bundles for table in bundle.token_tables.values() if table.kind == "mllm"
    ]
    model = request.loaded or load_mllm(
        name, device=request.device, dtype=settings.dtype, compile=request.compile, alike=held
    )
    found: list[tuple[TokenTable, VisualSource] | None] = []
    for bundle, table in zip(bundles, tables, strict=True):
        table = _check_cache(bundle, table, name, model) if table is not None else cache_of_model(bundle, model)
        found.append(None if table is None else (table, _source_of(bundle, table, name, model)))
    # Photos without a cache are prepared, and queries seen, as in the first bundle that has one.
    lead = next((kept[1] for kept in found if kept is not None), None)
    source = lead if lead is not None else VisualSource(model, default_token_settings(model))
    sources = [source if kept is None else kept[1] for kept in found]
    kept_in = [None if kept is None else kept[0] for kept in found]
    if settings.scorer == "maxsim":
        return SecondStage(VisualMaxSimScorer(), source, tuple(map(BundleFeatures, kept_in, sources)))
    prompt, answers = choose_prompt(model, settings, request.prompt_file)
    pairs = (SymmetricPairScorer if settings.symmetric else PairScorer)(model, prompt, answers)
    prints = [tuple(fingerprint_of(way, tokens_text(own, source)) for way in pairs.ways) for own in sources]
    return SecondStage(MllmScorer(pairs), source, tuple(map(BundleFeatures, kept_in, sources, prints)))


def _check_cache(bundle: Bundle, table: TokenTable, name: str, model: VisionLanguageModel) -> TokenTable:
    """Return the table, if its tokens are of these weights.

    Raises:
        MismatchError: they are not.
    """
    if table.provenance.model_revision != model.revision:
        raise MismatchError(
            bundle.path,
            f"cache {table.name!r} holds tokens of {table.provenance.model} ({table.provenance.model_revision}), "
            f"not of {name} ({model.revision}); cache its tokens under another name: "
            f"imgrank cache-tokens {bundle.path} --mllm {name} --cache NAME",
        )
    return table


def _source_of(bundle: Bundle, table: TokenTable, name: str, model: VisionLanguageModel) -> VisualSource:
    """Return what reads a cache.

    Raises:
        MismatchError: it was made while the model prepared photos in another way.
    """
    if changed := differing_vision(table.provenance, model):
        raise MismatchError(
            bundle.path,
            f"cache {table.name!r} was made while {name} prepared photos in another way: {changed}; make it again: "
            f"imgrank cache-tokens {bundle.path} --mllm {name} --cache {table.name} --overwrite",
        )
    return VisualSource(model, kept_settings(table.provenance), stored_codebooks(table))


def tokens_text(candidates: VisualSource, query: VisualSource) -> str:
    """Return what a fingerprint says of the tokens of a pair."""
    text = candidates.settings.to_json() + candidates.codebook_digest
    sizes = [(source.settings.longer_side, source.settings.max_tokens) for source in (candidates, query)]
    return text if sizes[0] == sizes[1] else f"{text}, query at {sizes[1][0]} pixels, {sizes[1][1]} tokens"


def fingerprint_of(way: PairScorer, tokens: str) -> bytes:
    """Return what a logit depends on beside the two photos: model, question, and how tokens are kept."""
    return fingerprint(
        engine=ENGINE,
        model=way.model.revision,
        model_settings=dict(way.model.settings),
        tokens=tokens,
        before=way.rendered.before,
        between=way.rendered.between,
        after=way.rendered.after,
        answers=way.rendered.answer_ids,
        query_first=way.rendered.query_first,
    )


def choose_prompt(
    model: VisionLanguageModel, settings: RerankSettings, prompt_file: Path | None
) -> tuple[Prompt, Answers]:
    """Return what a model is asked: a tuned re-ranker with its own template, any other with a prompt of ours.

    Raises:
        SettingsError: the options contradict each other, or the profile is another family's.
    """
    from imgrank.mllm.answers import Answers, answers_for
    from imgrank.mllm.profiles import PROFILES, profile_of
    from imgrank.mllm.prompts import prompt_for, read_prompt

    known = profile_of(model.name, {"model_type": model.family})
    if known is not None and known.only and (settings.profile not in ("auto", known.name) or prompt_file is not None):
        raise SettingsError(f"{model.name} knows one question and no words; leave --profile and --prompt-file out")
    if settings.profile in ("auto", "none"):
        profile = known if settings.profile == "auto" else None
    else:
        profile = PROFILES[settings.profile]
        if profile.family != model.family:
            raise SettingsError(
                f"--profile {profile.name} is for models of the family {profile.family}; "
                f"{model.name} is of {model.family}"
            )
    answers = None if settings.answers is None else answers_for(settings.answers)
    if prompt_file is not None:
        if settings.prompt_layout is not None:
            raise SettingsError("--prompt-file says where the photos go; leave --prompt-layout out")
        return read_prompt(prompt_file), answers or Answers()
    if known is not None and known.only and (answers is not None or settings.prompt_layout is not None):
        raise SettingsError(f"{model.name} knows one question and no words; leave --answers and --prompt-layout out")
    if profile is None:
        return prompt_for(settings.task, settings.prompt_layout or "images-first"), answers or Answers()
    if settings.prompt_layout is not None or answers is not None:
        raise SettingsError(
            f"{model.name} is a tuned re-ranker with a template and answers of its own; leave --prompt-layout and "
            "--answers out, or ask it as any other model with --profile none"
        )
    return profile.prompt(settings.task), profile.answers
