"""`calibrate`: judged queries in, a map from what the second stage says to a probability out, kept in the bundle.

Pairs are those of shortlists, since it is candidates of shortlists that get a probability later.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from imgrank.arrays import Floats
from imgrank.bundle import file
from imgrank.bundle.calibration import delete_calibration, write_calibration
from imgrank.bundle.provenance import Provenance, digest_of
from imgrank.config import CalibrationSettings, DecodeSettings, RerankSettings, SearchSettings
from imgrank.errors import ImageError, InputError, SettingsError
from imgrank.evaluation.qrels import Qrels
from imgrank.evaluation.reliability import Quality, Reliability, quality, reliability
from imgrank.images.content import read_digest
from imgrank.images.scan import display
from imgrank.prefetch import prefetch
from imgrank.progress import SILENT, Reporter
from imgrank.rerank.calibration import sigmoid
from imgrank.rerank.calibration_fit import check_fit, cross_fit, fit
from imgrank.steps.calibration import CalibrationFacts, facts_of, way_of
from imgrank.steps.features import LocalSource, VisualSource
from imgrank.steps.judgements import junk_rows, relevant_rows
from imgrank.steps.photos import BundlePhotos
from imgrank.steps.rerank import Reranker, Work
from imgrank.steps.search import Searcher, Shortlist
from imgrank.steps.second_stage import Request, SecondStage


@dataclass(frozen=True, eq=False)
class CalibrationReport:
    """What `calibrate` learned.

    Attributes:
        name: of the calibration in the bundle.
        model: that scored.
        facts: how it was learned, and how good it is before and after.
        table_before: reliability of the evidence, taken for a probability.
        table: reliability of the calibrated probabilities, for queries that the map was not learned from.
        skipped: queries that could not be read.
        work: what the second stage did.
    """

    name: str
    model: str
    facts: CalibrationFacts
    table_before: Reliability
    table: Reliability
    skipped: int
    work: Work

    def record(self) -> dict[str, Any]:
        """Return it as plain values."""
        facts = {key: value for key, value in asdict(self.facts).items() if not key.startswith(_MEASURED)}
        tables = (("before", self.facts.before, self.table_before), ("after", self.facts.after, self.table))
        measured = {side: {**asdict(numbers), "bins": bin_records(table)} for side, numbers, table in tables}
        return {"name": self.name, "model": self.model, **facts, "skipped": self.skipped, **measured}


_MEASURED = ("ece", "brier", "log_loss")


def bin_records(table: Reliability) -> list[dict[str, Any]]:
    """Return the bins of a reliability table as plain values; an empty one has no `predicted` and `observed`."""
    bins = len(table.counts)
    rows = zip(table.counts.tolist(), table.predicted.tolist(), table.observed.tolist(), strict=True)
    return [
        {"from": place / bins, "to": (place + 1) / bins, "count": count}
        | ({"predicted": predicted, "observed": observed} if count else {})
        for place, (count, predicted, observed) in enumerate(rows)
    ]


@dataclass(frozen=True, eq=False)
class Evidence:
    """What the second stage says of judged pairs.

    Attributes:
        values: (n,) float32, logits or match scores.
        same: (n,) bool, whether both photos show the same thing.
        queries: (n,) int64, number of the query of each pair.
    """

    values: Floats
    same: npt.NDArray[np.bool_]
    queries: npt.NDArray[np.int64]

    def digest(self) -> str:
        """Return what tells it apart from other evidence."""
        return digest_of(array.tobytes() for array in (self.values, self.same, self.queries))


def calibrate(
    bundle: Path,
    qrels: Qrels,
    settings: CalibrationSettings | None = None,
    scoring: RerankSettings | None = None,
    request: Request | None = None,
    *,
    queries_root: bytes | None = None,
    encoder: str | None = None,
    score_cache: Path | None = None,
    decode: DecodeSettings | None = None,
    root: Path | None = None,
    strict: bool = False,
    reporter: Reporter = SILENT,
) -> CalibrationReport:
    """Learn a calibration of one way of scoring and keep it, in the place of an earlier one of the same way.

    Args:
        bundle: with descriptors and a graph.
        qrels: judgements. A photo of a shortlist that is not judged counts as different; one of relevance below 0 is
            left out, and so is the query itself where the bundle has it, by its place or by its content.
        settings: how it is learned.
        scoring: the scorer, and how a model is asked; what is about the order of hits does not matter.
        request: model, cache, prompt and device.
        queries_root: folder that the names of queries are below; None: they are photos of the bundle, else paths from
            the working directory.
        encoder: where the encoder of the bundle lies, if it moved.
        score_cache: where logits are kept between runs; None keeps none.
        decode: limits and workers.
        root: folder of the photos, where it is not the one the bundle states.
        strict: a query that cannot be read is an error.
        reporter: hears of progress.

    Raises:
        MissingExtraError: scikit-learn is not installed.
        InputError: too few pairs, or a photo that is judged to be right is not in the bundle.
    """
    check_fit()
    settings, request = settings or CalibrationSettings(), request or Request()
    if settings.folds < 2 or settings.bins < 1 or settings.top < 1:
        raise SettingsError("a calibration takes 2 folds, 1 bin and 1 candidate at least")
    scoring = replace(scoring or RerankSettings(), top=settings.top, top_only=None, time_budget=None)
    limits = decode or DecodeSettings()
    with file.Writer(bundle) as writer, file.read(bundle) as opened:
        photos = BundlePhotos(opened, limits, None if root is None else os.fsencode(root))
        judged, skipped = judged_queries(photos, qrels, queries_root, strict=strict, reporter=reporter)
        reranker = Reranker(photos, scoring, request, score_cache=score_cache, reporter=reporter, calibrate=False)
        most = max((len(one.own) for one in judged), default=0)
        searcher = Searcher(
            photos, SearchSettings(top_k=settings.top + most), reranker=reranker, encoder=encoder, device=request.device
        )
        evidence, unread = _gather(judged, searcher, reranker, settings.top, strict, reporter)
        model, revision = _model_of(reranker.stage)
        scorer = reranker.stage.scorer.name
        facts = CalibrationFacts(
            **asdict(settings),
            scorer=scorer,
            asked=_asked(scoring, request) if scorer == "mllm" else "",
            evidence="logit" if scorer == "mllm" else "score",
            queries=len(np.unique(evidence.queries)),
            pairs=len(evidence.values),
            same=int(np.count_nonzero(evidence.same)),
        )
        facts, before, after, arrays = learn(evidence, facts)
        way = way_of(reranker.stage)
        name = f"{scorer}-{way[:8]}"
        provenance = Provenance(model, revision, facts.to_json(), evidence.digest())
        with writer.transaction() as h5:
            write_calibration(h5, name, arrays, provenance, way)
    return CalibrationReport(name, model, facts, before, after, skipped + unread, reranker.work)


def learn(
    evidence: Evidence, facts: CalibrationFacts
) -> tuple[CalibrationFacts, Reliability, Reliability, dict[str, npt.NDArray[Any]]]:
    """Fit a map to all pairs, and measure it on queries it was not fitted on.

    Args:
        evidence: of judged pairs.
        facts: settings, and what the evidence is.

    Returns:
        The facts with what was measured; the reliability before and after; what the bundle keeps.

    Raises:
        InputError: there is too little to learn from.
    """
    values, same = evidence.values.astype(np.float64), evidence.same
    crossed = cross_fit(values, same, evidence.queries, facts.method, folds=facts.folds, seed=facts.seed)
    stated = sigmoid(values) if facts.evidence == "logit" else np.clip(values, 0.0, 1.0)
    before, after = (reliability(side, same, facts.bins) for side in (stated, crossed.predicted))
    facts = _with(facts, *(quality(side, same, facts.bins) for side in (stated, crossed.predicted)))
    arrays = fit(values, same, facts.method).arrays() | {
        "bin-count": after.counts.astype("<u8"),
        "bin-predicted": after.predicted,
        "bin-observed": after.observed,
    }
    return facts, before, after, arrays


def _with(facts: CalibrationFacts, before: Quality, after: Quality) -> CalibrationFacts:
    return replace(
        facts,
        **{f"{key}_before": value for key, value in asdict(before).items()},
        **asdict(after),
    )


def remove_calibration(bundle: Path, name: str) -> None:
    """Take a calibration out of a bundle, also one that is damaged.

    Raises:
        InputError: there is none of that name.
    """
    with file.Writer(bundle) as writer:
        faults: dict[str, Any] = {}
        with file.read(bundle, faults) as opened:
            broken = {part.rpartition("/")[2] for part in faults if part.startswith("/calibration/")}
            there = sorted({*opened.calibrations, *broken})
        if name not in there:
            raise InputError(f"{bundle} has no calibration {name!r}; there is: {', '.join(there) or 'none'}")
        with writer.transaction() as h5:
            delete_calibration(h5, name)


def list_calibrations(bundle: Path) -> list[dict[str, Any]]:
    """Return what the calibrations of a bundle say of themselves, by name.

    Raises:
        DamagedBundleError: one cannot be understood.
    """
    with file.read(bundle) as opened:
        return [
            {"name": name, "model": table.provenance.model, **asdict(facts_of(table))}
            for name, table in sorted(opened.calibrations.items())
        ]


@dataclass(frozen=True)
class JudgedQuery:
    """A query, and rows of photos of the bundle.

    Attributes:
        path: that opens it.
        right: show what it shows.
        junk: count neither way.
        own: are the query itself, by place or by content.
    """

    path: bytes
    right: frozenset[int]
    junk: frozenset[int]
    own: frozenset[int]


def judged_queries(
    photos: BundlePhotos,
    qrels: Qrels,
    queries_root: bytes | None = None,
    *,
    strict: bool = False,
    reporter: Reporter = SILENT,
) -> tuple[list[JudgedQuery], int]:
    """Find the photos that queries and judgements name; the arguments are those of `calibrate`.

    Returns:
        The queries by name; how many were skipped, because their files could not be read.

    Raises:
        InputError: a photo that is judged to be right is not in the bundle.
        ImageError: a file cannot be read, with `strict`.
    """
    found, skipped = [], 0
    for name in sorted(qrels):
        row = photos.row_stored_as(name) if queries_root is None else None
        path = photos.location(row) if row is not None else os.path.join(queries_root or b"", name)  # noqa: PTH118
        right = relevant_rows(photos, qrels[name])
        try:
            digest = read_digest(path, display(path)).digest
        except ImageError as error:
            _skip(error, strict, reporter)
            skipped += 1
            continue
        own = frozenset(photos.rows_like(path, digest).tolist())
        found.append(JudgedQuery(path, right, junk_rows(photos, qrels[name]), own))
    return found, skipped


def _gather(
    judged: list[JudgedQuery], searcher: Searcher, reranker: Reranker, top: int, strict: bool, reporter: Reporter
) -> tuple[Evidence, int]:
    """Score the shortlists of queries; returns also how many queries could not be decoded."""

    def shortlists() -> Iterator[tuple[JudgedQuery, Shortlist | ImageError]]:
        for one in judged:
            try:
                (found,) = searcher.shortlists(one.path)
                yield one, found
            except ImageError as error:
                yield one, error

    values: list[Floats] = []
    same: list[bool] = []
    queries: list[int] = []
    skipped = 0
    with reporter.bar(len(judged), "calibrate", "query") as advance:
        for number, (one, found) in enumerate(prefetch(shortlists())):
            if isinstance(found, ImageError):
                _skip(found, strict, reporter)
                skipped += 1
            else:
                rows = [row for row in found.rows if row not in one.own][:top]
                rows = [row for row in rows if row not in one.junk]
                values.append(reranker.scores(rows, found.looks[0]).evidence)
                same += [row in one.right for row in rows]
                queries += [number] * len(rows)
            advance(1)
    joined: Floats = np.concatenate([np.zeros(0, np.float32), *values])
    return Evidence(joined, np.array(same, dtype=np.bool_), np.array(queries, dtype=np.int64)), skipped


def _skip(error: ImageError, strict: bool, reporter: Reporter) -> None:
    if strict:
        raise error
    reporter.skipped(error)


def _model_of(stage: SecondStage) -> tuple[str, str]:
    source = stage.bundles[0].source
    if isinstance(source, VisualSource):
        return source.model.name, source.model.revision
    assert isinstance(source, LocalSource)  # there is no other
    return source.provenance.model, source.provenance.model_revision


def _asked(scoring: RerankSettings, request: Request) -> str:
    """Return in words what a language model was asked; the key of the calibration has all of it."""
    question = scoring.task if request.prompt_file is None else f"prompt of {request.prompt_file.name}"
    return f"{question}, both orders" if scoring.symmetric else question


def plot(report: CalibrationReport, path: Path) -> None:
    """Write a reliability diagram, before and after.

    Raises:
        MissingExtraError: matplotlib is not installed.
    """
    from imgrank.report.reliability import Curve, plot_reliability

    curves = [
        Curve(
            f"{side}, calibration error {table.error:.3f}",
            [(one["predicted"], one["observed"], one["count"]) for one in bin_records(table) if one["count"]],
        )
        for side, table in (("before", report.table_before), ("after", report.table))
    ]
    plot_reliability(curves, path)
