"""Chooses what re-ranks, by what a bundle holds and a user asks: a scorer, and where the features come from."""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from imgrank.bundle import layout
from imgrank.bundle.file import Bundle
from imgrank.bundle.tokens import TokenTable
from imgrank.config import BUILTIN, RerankSettings
from imgrank.errors import MismatchError, SettingsError
from imgrank.progress import Reporter
from imgrank.rerank.score_cache import default_path, fingerprint
from imgrank.rerank.scorers import Scorer
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
    """

    cache: str | None = None
    mllm: str | None = None
    prompt_file: Path | None = None
    device: str = "auto"
    compile: bool = False


@dataclass(frozen=True, eq=False)
class SecondStage:
    """What re-ranks.

    Attributes:
        table: where features are kept; None computes them from photos.
        source: turns pixels or kept tokens into features.
        scorer: compares them.
        fingerprints: one for each way a pair is asked about, under which its logit may be kept; none: it may not.
    """

    table: TokenTable | None
    source: FeatureSource[Any]
    scorer: Scorer[Any]
    fingerprints: tuple[bytes, ...] = ()


def score_cache_path(asked: str | None) -> Path | None:
    """Return where logits are kept: by default in the user's cache folder, and nowhere for "none"."""
    if asked is None:
        return default_path()
    return None if asked == "none" else Path(asked)


def choose(bundle: Bundle, settings: RerankSettings, request: Request, reporter: Reporter) -> SecondStage:
    """Load the second stage that suits a bundle and a user's wishes.

    Raises:
        SettingsError: no scorer suits what there is, or options contradict each other.
        MismatchError: the cache was made by another model.
        MissingModelError, MissingDeviceError: see `imgrank.mllm.registry.load_mllm`.
    """
    table = _named_cache(bundle, settings, request)
    visual = request.mllm is not None or (table is not None and table.kind == "mllm")
    if visual and settings.scorer != "geometric":
        return _visual(bundle, settings, request, table)
    return _local(bundle, settings, table, reporter)


def _local(bundle: Bundle, settings: RerankSettings, table: TokenTable | None, reporter: Reporter) -> SecondStage:
    from imgrank.rerank.scorers import GeometricScorer, LocalMaxSimScorer

    if settings.scorer == "mllm":
        raise SettingsError(
            f"--scorer mllm needs a model: give --mllm, or run `imgrank cache-tokens {bundle.path}` for the built-in "
            "one (--mllm MODEL for another)"
        )
    if settings.scorer == "auto":
        reporter.note(
            "re-ranking by geometric matches of the built-in local features; for a multimodal language model: "
            f"imgrank cache-tokens {bundle.path} --mllm MODEL (the built-in one: --mllm builtin, here too)"
        )
    source = LocalSource()
    held, here = table.provenance if table is not None else source.provenance, source.provenance
    if (held.model_revision, held.settings) != (here.model_revision, here.settings):
        raise MismatchError(
            bundle.path,
            f"{layout.LOCAL_CACHE!r} holds local features of version {held.model_revision} ({held.settings}); "
            f"this imgrank compares version {here.model_revision} ({here.settings}); make them again: "
            f"imgrank cache-tokens {bundle.path} --cache {layout.LOCAL_CACHE} --overwrite",
        )
    return SecondStage(table, source, LocalMaxSimScorer() if settings.scorer == "maxsim" else GeometricScorer())


def _visual(bundle: Bundle, settings: RerankSettings, request: Request, table: TokenTable | None) -> SecondStage:
    from imgrank.mllm.registry import load_mllm
    from imgrank.rerank.packing import PairScorer, SymmetricPairScorer
    from imgrank.rerank.scorers import MllmScorer, VisualMaxSimScorer

    name = request.mllm if request.mllm is not None else table.provenance.model if table is not None else ""
    model = load_mllm(name, device=request.device, dtype=settings.dtype, compile=request.compile)
    if table is None:
        table = _cache_of(bundle, model)
    elif table.provenance.model_revision != model.revision:
        raise MismatchError(
            bundle.path,
            f"cache {table.name!r} holds tokens of {table.provenance.model} ({table.provenance.model_revision}), "
            f"not of {name} ({model.revision}); cache its tokens under another name: "
            f"imgrank cache-tokens {bundle.path} --mllm {name} --cache NAME",
        )
    kept = default_token_settings(model)
    if table is not None:
        kept = kept_settings(table.provenance)
        if changed := differing_vision(table.provenance, model):
            raise MismatchError(
                bundle.path,
                f"cache {table.name!r} was made while {name} prepared photos in another way: {changed}; make it again: "
                f"imgrank cache-tokens {bundle.path} --mllm {name} --cache {table.name} --overwrite",
            )
    codebooks = None if table is None else stored_codebooks(table)
    source = VisualSource(model, kept, codebooks)
    if settings.scorer == "maxsim":
        return SecondStage(table, source, VisualMaxSimScorer())
    prompt, answers = choose_prompt(model, settings, request.prompt_file)
    pairs = (SymmetricPairScorer if settings.symmetric else PairScorer)(model, prompt, answers)
    digest = codebooks.digest() if codebooks is not None else ""
    prints = tuple(fingerprint_of(way, kept.to_json() + digest) for way in pairs.ways)
    return SecondStage(table, source, MllmScorer(pairs), prints)


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
    if profile is None:
        return prompt_for(settings.task, settings.prompt_layout or "images-first"), answers or Answers()
    if settings.prompt_layout is not None or answers is not None:
        raise SettingsError(
            f"{model.name} is a tuned re-ranker with a template and answers of its own; leave --prompt-layout and "
            "--answers out, or ask it as any other model with --profile none"
        )
    return profile.prompt(settings.task), profile.answers


def _named_cache(bundle: Bundle, settings: RerankSettings, request: Request) -> TokenTable | None:
    """Return the token cache that the options or the bundle name; None where only the model's revision can tell."""
    if request.cache is not None:
        table = bundle.tokens(request.cache)
        if settings.scorer == "mllm" and table.kind != "mllm":
            raise SettingsError(f"--scorer mllm cannot use cache {request.cache!r}: it holds local features")
        if settings.scorer == "geometric" and table.kind != "local":
            raise SettingsError(
                f"--scorer geometric cannot use cache {request.cache!r}: it holds visual tokens of a model"
            )
        return table
    visual = [table for table in bundle.token_tables.values() if table.kind == "mllm"]
    if settings.scorer != "geometric" and (visual or request.mllm is not None):
        if request.mllm is not None:
            same = [table for table in visual if table.provenance.model in _names(request.mllm)]
            return same[0] if len(same) == 1 else None
        # The built-in model never takes the place of one that somebody chose, and scores only where it is asked for:
        # geometric matches measure better (docs/builtin-models.md).
        chosen = [table for table in visual if table.provenance.model != BUILTIN]
        if not chosen and settings.scorer != "mllm":
            return bundle.token_tables.get(layout.LOCAL_CACHE)
        visual = chosen or visual
        if len(visual) == 1:
            return visual[0]
        for default in (layout.DEFAULT_CACHE, layout.BUILTIN_CACHE):
            if default in (table.name for table in visual):
                return bundle.token_tables[default]
        names = ", ".join(sorted(table.name for table in visual))
        raise SettingsError(f"{bundle.path} has several token caches ({names}); choose one with --cache")
    return bundle.token_tables.get(layout.LOCAL_CACHE)


def _cache_of(bundle: Bundle, model: VisionLanguageModel) -> TokenTable | None:
    """Return the cache with tokens of just these weights, wherever their folder was when they were cached."""
    same = [table for table in bundle.token_tables.values() if table.provenance.model_revision == model.revision]
    defaults = (layout.DEFAULT_CACHE, layout.BUILTIN_CACHE)
    if len(same) > 1 and not any(table.name in defaults for table in same):
        names = ", ".join(sorted(table.name for table in same))
        raise SettingsError(f"{bundle.path} has several caches of {model.name} ({names}); choose one with --cache")
    same.sort(key=lambda table: table.name not in defaults)
    return same[0] if same else None


def _names(model: str) -> set[str]:
    return {model, os.path.realpath(model)} if model != BUILTIN and Path(model).is_dir() else {model}
