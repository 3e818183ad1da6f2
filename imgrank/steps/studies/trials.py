"""What studies work on: the queries of a data set with their shortlists, re-ranked by one method or another."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from imgrank.config import SearchSettings
from imgrank.encode.base import Encoder
from imgrank.errors import ImageError, InputError
from imgrank.evaluation.datasets.base import Dataset
from imgrank.progress import SILENT, Reporter
from imgrank.rerank.base import PairScores
from imgrank.rerank.fuse import fuse
from imgrank.results import Ranking
from imgrank.steps.bundle_encoder import load_bundle_encoder
from imgrank.steps.evaluate import Evaluation, evaluate_tasks
from imgrank.steps.features import VisualSource
from imgrank.steps.judged_photos import JudgedPhotos
from imgrank.steps.rerank import Reranker
from imgrank.steps.search import Query, Searcher
from imgrank.steps.studies.method import Method

if TYPE_CHECKING:
    from imgrank.mllm.profiles import Profile


@dataclass(frozen=True)
class TrialSettings:
    """Which queries, and how deep.

    Attributes:
        depth: hits of each shortlist.
        top: of these, candidates of a second stage.
        exact: compare with every photo.
        sample: at most so many queries, by chance; None: all.
        seed: of that chance.
    """

    depth: int = 1000
    top: int = 50
    exact: bool = False
    sample: int | None = None
    seed: int = 0


@dataclass(frozen=True, eq=False)
class Case:
    """One query.

    Attributes:
        query: its name in the data set.
        photo: what it is read from: a row of the collection, or a name that opens.
        ranking: its shortlist, with the names that the data set has.
        rows: of its hits, in the collection.
    """

    query: bytes
    photo: bytes | int
    ranking: Ranking
    rows: list[int]


class Trials:
    """The queries of a data set and their shortlists, found once.

    Args:
        judged: the data set over bundles.
        settings: which queries, and how deep.
        encoder: see `Searcher`.
        device: for encoders.
        reporter: told of progress, and of queries that cannot be read.

    Raises:
        InputError: no query can be read.
    """

    def __init__(
        self,
        judged: JudgedPhotos,
        settings: TrialSettings,
        *,
        encoder: str | None = None,
        device: str = "auto",
        score_cache: Path | None = None,
        reporter: Reporter = SILENT,
    ) -> None:
        self.judged, self.settings = judged, settings
        self._score_cache, self._reporter = score_cache, reporter
        self._model: tuple[tuple[Any, ...], Any] | None = None
        queries = judged.queries()
        if settings.sample is not None and len(queries) > settings.sample:
            order = np.random.default_rng([0x57D1, settings.seed]).permutation(len(queries))[: settings.sample]
            queries = [queries[place] for place in sorted(order.tolist())]
        self.skipped: list[ImageError] = []
        self.cases: list[Case] = []
        self._named_encoder, self._device = encoder, device
        found = SearchSettings(max(settings.depth, settings.top), exact=settings.exact)
        searcher = (
            Searcher(judged.photos, found, encoder=self.encoder)
            if judged.asks_files
            else Searcher(judged.photos, found, stored_only=True)
        )
        with reporter.bar(len(queries), "shortlists", "query") as advance:
            for query in queries:
                self._find(searcher, query)
                advance(1)
        if not self.cases:
            raise InputError("no query could be read")
        self.dataset = _of_queries(judged.dataset, [case.query for case in self.cases])

    @cached_property
    def encoder(self) -> Encoder:
        """The encoder of the bundles, loaded when it is first asked for; raises as `load_bundle_encoder` does."""
        return load_bundle_encoder(self.judged.photos.parts[0].bundle, self._named_encoder, self._device)

    def _find(self, searcher: Searcher, query: bytes) -> None:
        asked = self.judged.asked(query)
        try:
            (shortlist,) = searcher.shortlists(asked)
        except ImageError as error:
            self.skipped.append(error)
            self._reporter.skipped(error)
            return
        photo = asked.photos[0] if isinstance(asked, Query) else asked
        assert isinstance(photo, bytes | int)
        named = self.judged.named(query, shortlist.ranking, shortlist.rows)
        rows = shortlist.rows
        if len(named.hits) != len(rows):  # the query's own photo is out
            labels = {(hit.bundle, hit.id): row for hit, row in zip(shortlist.ranking.hits, rows, strict=True)}
            rows = [labels[hit.bundle, hit.id] for hit in named.hits]
        self.cases.append(Case(query, photo, named, rows))

    def facts(self) -> dict[str, Any]:
        """Return what decides the results beside the methods: bundles, judgements, settings; as JSON."""
        bundles = []
        for part in self.judged.photos.parts:
            bundle = part.bundle
            table = bundle.descriptors
            caches = {
                name: [kept.provenance.model, kept.provenance.model_revision, kept.provenance.settings]
                for name, kept in bundle.token_tables.items()
            }
            bundles.append(
                {
                    "bundle": str(bundle.path),
                    "photos": len(part),
                    "encoder": [table.provenance.model, table.provenance.model_revision],
                    "descriptors": table.digest(bundle.images.content_digest(len(part))),
                    "caches": caches,
                }
            )
        names = hashlib.blake2b(digest_size=16)
        for task in self.dataset.tasks:
            names.update(repr((task.name, task.qrels)).encode())
        return {
            "bundles": bundles,
            "dataset": self.dataset.title,
            "judgements": names.hexdigest(),
            "queries": len(self.cases),
            "unreadable_queries": len(self.skipped),
            **vars(self.settings),
        }

    def reranker(self, method: Method, *, score_cache: bool = True, top: int | None = None) -> Reranker:
        """Load the second stage of a method; the model of the method before is kept where it is the same.

        Args:
            method: one with a second stage.
            score_cache: whether logits that are kept may be used, and new ones are kept.
            top: candidates, instead of those of the settings.
        """
        assert method.settings is not None
        settings, request = method.settings, method.request
        if top is not None:
            settings = replace(settings, top=top)
        key = (request.mllm, request.cache, request.device, settings.dtype, request.compile)
        if self._model is not None and self._model[0] == key:
            request = replace(request, loaded=self._model[1])
        else:
            self._model = None  # freed before the next one is loaded
        reranker = Reranker(
            self.judged.photos,
            settings,
            request,
            score_cache=self._score_cache if score_cache else None,
            reporter=self._reporter,
            calibrate=False,
        )
        source = reranker.stage.source
        if isinstance(source, VisualSource):
            self._model = key, source.model
        return reranker

    def profile(self, method: Method) -> Profile | None:
        """Return the template of the model that a method asks, if it was tuned to re-rank."""
        from imgrank.mllm.profiles import profile_of

        source = self.reranker(method).stage.source
        assert isinstance(source, VisualSource)
        return profile_of(source.model.name, {"model_type": source.model.family})

    def scores(self, method: Method, top: int | None = None) -> Iterator[tuple[Case, PairScores]]:
        """Yield what a method's second stage says of the candidates of each query, in shortlist order.

        A query whose photo cannot be read for it raises `ImageError`.
        """
        reranker = self.reranker(method)
        depth = self.settings.top if top is None else top
        with self._reporter.bar(len(self.cases), method.label, "query") as advance:
            for case in self.cases:
                yield case, reranker.scores(case.rows[:depth], reranker.prepare(case.photo))
                advance(1)

    def rankings(self, method: Method, top: int | None = None) -> list[Ranking]:
        """Return the ranking of each query by a method."""
        if method.settings is None:
            return [case.ranking for case in self.cases]
        lam = method.settings.lam
        return [fused(case, scores, lam) for case, scores in self.scores(method, top)]

    def evaluations(self, rankings: Sequence[Ranking], measures: Sequence[str]) -> dict[str, Evaluation]:
        """Score rankings by each task, over the queries of the trials."""
        return evaluate_tasks(rankings, self.dataset, measures)


def fused(case: Case, scores: PairScores, lam: float) -> Ranking:
    """Return the ranking of a query, its first candidates re-ordered by what was said of them."""
    return fuse(case.ranking, scores, lam=lam, scorer="study", numbers=case.rows)


def _of_queries(dataset: Dataset, queries: Sequence[bytes]) -> Dataset:
    """Return a data set with some of its queries; tasks that none of them is in are gone."""
    kept = set(queries)
    tasks = []
    for task in dataset.tasks:
        qrels = {query: judged for query, judged in task.qrels.items() if query in kept}
        if any(grade > 0 for judged in qrels.values() for grade in judged.values()):
            tasks.append(replace(task, qrels=qrels))
    return replace(dataset, tasks=tuple(tasks))


def summary_rows(results: dict[str, Evaluation]) -> list[dict[str, Any]]:
    """Return rows with task, measure, mean, the bounds of its 95 % interval, and how many queries were counted."""
    return [
        {"task": task, "measure": name, **numbers, "queries": len(result.values)}
        for task, result in results.items()
        for name, numbers in result.summary().items()
    ]


def digest_of(facts: Any) -> str:
    """Return a digest of JSON."""
    return hashlib.blake2b(json.dumps(facts, sort_keys=True).encode(), digest_size=16).hexdigest()
