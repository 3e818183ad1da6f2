"""Which token cache of a bundle re-ranks: by name, by model, or the one that suits."""

from __future__ import annotations

import os
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from imgrank.bundle import file, layout
from imgrank.bundle.file import Bundle
from imgrank.bundle.tokens import TokenTable
from imgrank.config import BUILTIN, RerankSettings
from imgrank.errors import MismatchError, SettingsError

if TYPE_CHECKING:
    from imgrank.mllm.base import VisionLanguageModel


def cache_names(bundle: Path) -> list[str]:
    """Return the names of the token caches of a bundle.

    Raises:
        BundleError: it cannot be read.
    """
    with file.read(bundle) as opened:
        return sorted(opened.token_tables)


def choose_caches(
    bundles: Sequence[Bundle], settings: RerankSettings, *, cache: str | None, mllm: str | None
) -> list[TokenTable | None]:
    """Return the token cache of each bundle that the options or the bundle name, all for one scorer.

    Args:
        bundles: each chooses as if it was alone; where one has tokens of a model, all are scored by that model.
        settings: with the scorer.
        cache: its name; None takes the one that suits.
        mllm: model id or folder; None takes the one whose tokens are cached.

    Returns:
        One for each bundle; None where there is none, or only the model's revision can tell.

    Raises:
        MissingGroupError: a bundle has no cache of that name.
        MismatchError: bundles chose caches of different models.
        SettingsError: a cache does not suit the scorer, or there are several to choose from.
    """
    tables = [_cache_of_bundle(bundle, settings, cache, mllm) for bundle in bundles]
    lead = next((table for table in tables if table is not None and table.kind == "mllm"), None)
    if lead is None or mllm is not None:
        return tables
    return [_like(lead, bundle, table, cache) for bundle, table in zip(bundles, tables, strict=True)]


def _like(lead: TokenTable, bundle: Bundle, table: TokenTable | None, cache: str | None) -> TokenTable | None:
    """Return the cache of a bundle whose tokens are of the same weights as those of `lead`.

    Raises:
        MismatchError: those it has are of other weights.
    """
    revision = lead.provenance.model_revision
    if table is None or table.provenance.model_revision == revision:
        return table
    if cache is None:
        same = _of_revision(bundle, revision, lead.provenance.model)
        if same is not None or table.kind != "mllm":  # its photos have to do
            return same
    held = f"tokens of {table.provenance.model}" if table.kind == "mllm" else "local features"
    raise MismatchError(
        bundle.path,
        f"cache {table.name!r} holds {held} ({table.provenance.model_revision}), but {lead.name!r} of {lead.path} "
        f"tokens of {lead.provenance.model} ({revision}); one model scores all bundles: name it with --mllm, and "
        f"cache its tokens where they are missing: imgrank cache-tokens {bundle.path} --mllm {lead.provenance.model} "
        "--cache NAME",
    )


def _cache_of_bundle(
    bundle: Bundle, settings: RerankSettings, cache: str | None, mllm: str | None
) -> TokenTable | None:
    """Return the token cache that the options or the bundle name; None where only the model's revision can tell."""
    if cache is not None:
        table = bundle.tokens(cache)
        if settings.scorer == "mllm" and table.kind != "mllm":
            raise SettingsError(f"--scorer mllm cannot use cache {cache!r}: it holds local features")
        if settings.scorer == "geometric" and table.kind != "local":
            raise SettingsError(f"--scorer geometric cannot use cache {cache!r}: it holds visual tokens of a model")
        return table
    visual = [table for table in bundle.token_tables.values() if table.kind == "mllm"]
    if settings.scorer != "geometric" and (visual or mllm is not None):
        if mllm is not None:
            same = [table for table in visual if table.provenance.model in _names(mllm)]
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


def cache_of_model(bundle: Bundle, model: VisionLanguageModel) -> TokenTable | None:
    """Return the cache with tokens of just these weights, wherever their folder was when they were cached.

    Raises:
        SettingsError: there are several.
    """
    return _of_revision(bundle, model.revision, model.name)


def _of_revision(bundle: Bundle, revision: str, model: str) -> TokenTable | None:
    same = [table for table in bundle.token_tables.values() if table.provenance.model_revision == revision]
    defaults = (layout.DEFAULT_CACHE, layout.BUILTIN_CACHE)
    if len(same) > 1 and not any(table.name in defaults for table in same):
        names = ", ".join(sorted(table.name for table in same))
        raise SettingsError(f"{bundle.path} has several caches of {model} ({names}); choose one with --cache")
    same.sort(key=lambda table: table.name not in defaults)
    return same[0] if same else None


def _names(model: str) -> set[str]:
    return {model, os.path.realpath(model)} if model != BUILTIN and Path(model).is_dir() else {model}
