"""`rerank`: rankings in, the same hits in a better order out.

Chooses the scorer and where the features of its candidates come from, and says so once.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

from imgrank.bundle import layout
from imgrank.bundle.file import Bundle
from imgrank.bundle.tokens import TokenTable
from imgrank.config import RerankSettings, TokenSettings
from imgrank.errors import InputError, MismatchError, SettingsError
from imgrank.images.decode import decode
from imgrank.progress import SILENT, Reporter
from imgrank.records import OK
from imgrank.rerank.fuse import check_lambda, fuse
from imgrank.rerank.scorers import Scorer
from imgrank.results import Hit, Ranking
from imgrank.steps.features import FeatureSource, LocalSource, VisualSource
from imgrank.steps.photos import BundlePhotos


class Reranker:
    """The second stage over one bundle, loaded once.

    Args:
        photos: of the bundle.
        settings: how many candidates, which scorer, which weight.
        cache: name of the token cache; None takes the one that suits.
        mllm: model id or folder; None takes the one whose tokens are cached.
        prompt_file: a prompt instead of the built-in one of the task.
        device: for a model.
        reporter: told once what re-ranks, and what would make it faster.

    Raises:
        SettingsError: no scorer suits what there is.
        MismatchError: the cache was made by another model.
    """

    def __init__(
        self,
        photos: BundlePhotos,
        settings: RerankSettings,
        *,
        cache: str | None = None,
        mllm: str | None = None,
        prompt_file: Path | None = None,
        device: str = "auto",
        reporter: Reporter = SILENT,
    ) -> None:
        check_lambda(settings.lam)
        self.photos, self.settings, self._reporter = photos, settings, reporter
        self._statuses = photos.bundle.images.statuses()
        self._told_uncached = False
        self.table = _choose_cache(photos.bundle, settings, cache, mllm)
        self.source: FeatureSource[Any]
        self.scorer: Scorer[Any]
        visual = mllm is not None or (self.table is not None and self.table.kind == "mllm")
        if visual and settings.scorer != "geometric":
            self.source, self.scorer = self._visual(mllm, prompt_file, device)
        else:
            self.source, self.scorer = self._local()

    @property
    def uses_local_features(self) -> bool:
        """Return whether local features of the query that are at hand are what the scorer wants."""
        return isinstance(self.source, LocalSource)

    def _local(self) -> tuple[FeatureSource[Any], Scorer[Any]]:
        from imgrank.rerank.scorers import GeometricScorer, LocalMaxSimScorer

        bundle = self.photos.bundle
        if self.settings.scorer == "mllm":
            raise SettingsError(
                f"--scorer mllm needs a model: give --mllm, or run `imgrank cache-tokens {bundle.path} --mllm MODEL`"
            )
        if self.settings.scorer == "auto":
            self._reporter.note(
                "re-ranking by geometric matches of the built-in local features; for a multimodal language model: "
                f"imgrank cache-tokens {bundle.path} --mllm MODEL"
            )
        source = LocalSource()
        held, here = self.table.provenance if self.table is not None else source.provenance, source.provenance
        if (held.model_revision, held.settings) != (here.model_revision, here.settings):
            raise MismatchError(
                bundle.path,
                f"{layout.LOCAL_CACHE!r} holds local features of version {held.model_revision} ({held.settings}); "
                f"this imgrank compares version {here.model_revision} ({here.settings}); make them again: "
                f"imgrank cache-tokens {bundle.path} --overwrite",
            )
        return source, LocalMaxSimScorer() if self.settings.scorer == "maxsim" else GeometricScorer()

    def _visual(self, mllm: str | None, prompt_file: Path | None, device: str) -> tuple[VisualSource, Scorer[Any]]:
        from imgrank.mllm.prompts import prompt_for, read_prompt
        from imgrank.mllm.registry import load_mllm
        from imgrank.rerank.packing import PairScorer
        from imgrank.rerank.scorers import MllmScorer, VisualMaxSimScorer

        table = self.table
        name = mllm if mllm is not None else table.provenance.model if table is not None else ""
        prompt = prompt_for(self.settings.task) if prompt_file is None else read_prompt(prompt_file)
        model = load_mllm(name, device=device, dtype=self.settings.dtype)
        if table is not None and table.provenance.model_revision != model.revision:
            raise MismatchError(
                self.photos.bundle.path,
                f"cache {table.name!r} holds tokens of {table.provenance.model} ({table.provenance.model_revision}), "
                f"not of {name} ({model.revision}); cache its tokens under another name: "
                f"imgrank cache-tokens {self.photos.bundle.path} --mllm {name} --cache NAME",
            )
        settings = TokenSettings() if table is None else TokenSettings.from_json(table.provenance.settings)
        source = VisualSource(model, settings)
        if self.settings.scorer == "maxsim":
            return source, VisualMaxSimScorer()
        return source, MllmScorer(PairScorer(model, prompt))

    def query_features(self, path: bytes) -> object:
        """Compute the features of a query photo.

        Raises:
            ImageError: it cannot be decoded.
        """
        return self.source.of_query(decode(path, self.photos.settings, longer_side=self.source.longer_side).pixels)

    def rerank(self, ranking: Ranking, rows: list[int], features: object | None = None) -> Ranking:
        """Re-order the head of a ranking.

        Args:
            ranking: hits in shortlist order.
            rows: the bundle row of each hit of the head, at least `settings.top` of them where there are.
            features: of the query, when they are at hand.

        Raises:
            ImageError: the query cannot be decoded.
            InputError: a candidate has neither tokens nor a photo.
        """
        head = rows[: self.settings.top]
        if not head:
            return ranking
        query = self.query_features(ranking.query) if features is None else features
        scores = self.scorer.score(query, self._candidates(head))
        return fuse(ranking, scores, lam=self.settings.lam, scorer=self.scorer.name)

    def _candidates(self, rows: list[int]) -> list[Any]:
        cached = len(self.table) if self.table is not None else 0
        stored = {}
        if self.table is not None:
            inside = [row for row in rows if row < cached]
            for row, tokens in zip(inside, self.table.read(inside), strict=True):
                if tokens.status == OK:
                    stored[row] = tokens
        missing = [row for row in rows if row not in stored]
        if missing and not self._told_uncached:
            self._told_uncached = True
            self._reporter.note(
                f"{len(missing)} of {len(rows)} candidates have no cached tokens and are computed from their photos; "
                f"`imgrank cache-tokens {self.photos.bundle.path}` makes re-ranking faster"
            )
        side = self.source.longer_side
        return [
            self.source.of_tokens(stored[row])
            if row in stored
            else self.source.of_candidate(self.photos.pixels(row, side))
            for row in rows
        ]


def _choose_cache(bundle: Bundle, settings: RerankSettings, cache: str | None, mllm: str | None) -> TokenTable | None:
    """Return the token cache to read, None when candidates are computed from their photos."""
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
            return next((table for table in visual if table.provenance.model in _names(mllm)), None)
        if len(visual) == 1:
            return visual[0]
        if layout.DEFAULT_CACHE in bundle.token_tables:
            return bundle.token_tables[layout.DEFAULT_CACHE]
        names = ", ".join(sorted(table.name for table in visual))
        raise SettingsError(f"{bundle.path} has several token caches ({names}); choose one with --cache")
    return bundle.token_tables.get(layout.LOCAL_CACHE)


def _names(model: str) -> set[str]:
    return {model, os.path.realpath(model)} if Path(model).is_dir() else {model}


def rerank_rankings(
    rankings: Iterator[Ranking], reranker: Reranker, *, queries_root: bytes | None = None
) -> Iterator[Ranking]:
    """Re-rank what `search` printed, one query as its lines come in.

    Args:
        rankings: from `imgrank.results.read_rankings`.
        reranker: over the bundle that the hits are of.
        queries_root: folder that relative query paths are below; None takes the working directory.

    Raises:
        InputError: a hit is of another bundle, or a query photo is gone.
    """
    photos = reranker.photos
    for ranking in rankings:
        rows: list[int] = []
        hits: list[Hit] = []
        for hit in ranking.hits:
            row = photos.row_of_name(hit.path) if hit.id < 0 else photos.row_of_id(hit.id)
            image_id = int(photos.ids[row])
            rows.append(row)
            hits.append(replace(hit, id=image_id, path=photos.path(row) if hit.id < 0 else hit.path))
        if len(set(rows)) != len(rows):
            raise InputError(f"query {os.fsdecode(ranking.query)!r} has the same photo twice among its hits")
        query = ranking.query if queries_root is None else os.path.join(queries_root, ranking.query)  # noqa: PTH118
        features = reranker.query_features(query) if rows else None
        yield reranker.rerank(Ranking(ranking.query, tuple(hits)), rows, features)
