"""`demo`: draws a collection, indexes it, searches and re-ranks it, and draws what was found."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from imgrank.arrays import Pixels
from imgrank.config import DecodeSettings, RerankSettings, SearchSettings
from imgrank.evaluation.metrics import average_precision
from imgrank.images.decode import decode
from imgrank.progress import SILENT, Reporter
from imgrank.report.contact_sheet import Cell, contact_sheet
from imgrank.results import Ranking
from imgrank.steps.build_index import IndexSummary, build_index
from imgrank.steps.embed import embed
from imgrank.steps.photos import open_photos
from imgrank.steps.rerank import Reranker
from imgrank.steps.search import Searcher
from imgrank.training.collection import CollectionFiles, draw_collection

if TYPE_CHECKING:
    from PIL.Image import Image

SEED = 7
OBJECTS, VIEWS, DISTRACTORS, QUERIES = 24, 4, 64, 8
SHOWN = 6  # hits of each query in the picture


@dataclass(frozen=True)
class DemoResult:
    """What `run_demo` made."""

    bundle: Path
    picture: Path
    index: IndexSummary
    shortlists: list[Ranking]
    rankings: list[Ranking]
    right_first: tuple[int, int]  # queries whose best hit is right: before and after re-ranking
    mean_ap: tuple[float, float]  # mAP: before and after re-ranking


def run_demo(folder: Path, reporter: Reporter = SILENT) -> DemoResult:
    """Draw photos into `folder`, index and search them, and write a picture of the result.

    Args:
        folder: made where it is missing; files of the demo in it are made again.
        reporter: hears of progress.
    """
    reporter.note(f"drawing {OBJECTS * VIEWS + DISTRACTORS} photos and {QUERIES} queries in {folder}")
    files = draw_collection(
        folder, seed=SEED, objects=OBJECTS, views=VIEWS, distractors=DISTRACTORS, queries=QUERIES
    )  # fmt: skip
    bundle = folder / "demo.h5"
    bundle.unlink(missing_ok=True)
    embed(bundle, [os.fsencode(files.photos)], reporter=reporter)
    index = build_index(bundle, reporter=reporter)
    queries = [os.fsencode(path) for path in files.queries]
    settings = SearchSettings(top_k=50)
    photos = open_photos(bundle)
    with photos.bundle:
        searcher = Searcher(photos, settings)
        shortlists = [searcher.search(query) for query in queries]
        searcher.reranker = Reranker(photos, RerankSettings(top=50), reporter=reporter)
        rankings = [searcher.search(query) for query in queries]
    picture = folder / "results.png"
    positives = _positives(files)
    _draw(rankings, positives).save(picture)
    first = (_right_first(shortlists, positives), _right_first(rankings, positives))
    mean_ap = (_mean_ap(shortlists, positives), _mean_ap(rankings, positives))
    return DemoResult(bundle, picture, index, shortlists, rankings, first, mean_ap)


def _positives(files: CollectionFiles) -> set[tuple[str, str]]:
    lines = files.qrels.read_text().splitlines()
    return {(query, image) for query, _, image, relevance in (line.split("\t") for line in lines) if relevance == "1"}


def _name(path: bytes) -> str:
    return Path(os.fsdecode(path)).name


def _right_first(rankings: Sequence[Ranking], positives: set[tuple[str, str]]) -> int:
    return sum((_name(r.query), _name(r.hits[0].path)) in positives for r in rankings if r.hits)


def _mean_ap(rankings: Sequence[Ranking], positives: set[tuple[str, str]]) -> float:
    """Return the mean over queries of the average precision; positives that were not found count as missed."""
    total = 0.0
    for ranking in rankings:
        query = _name(ranking.query)
        right = [(query, _name(hit.path)) in positives for hit in ranking.hits]
        total += average_precision(right, sum(query == asked for asked, _ in positives))
    return total / len(rankings)


def _draw(rankings: Sequence[Ranking], positives: set[tuple[str, str]]) -> Image:
    rows = []
    for ranking in rankings:
        row = [Cell(_pixels(ranking.query), "query")]
        for hit in ranking.hits[:SHOWN]:
            right = (_name(ranking.query), _name(hit.path)) in positives
            row.append(Cell(_pixels(hit.path), f"{hit.rank}: {hit.score:.3f}", right))
        rows.append(row)
    return contact_sheet(rows)


def _pixels(path: bytes) -> Pixels:
    return decode(path, DecodeSettings(), longer_side=320).pixels
