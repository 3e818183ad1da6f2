"""Trials over the drawn collection, for tests of studies."""

from pathlib import Path
from typing import Any

from imgrank.evaluation.qrels import read_qrels
from imgrank.steps.collection import open_collection
from imgrank.steps.judged_photos import JudgedPhotos, own_dataset
from imgrank.steps.second_stage import Request
from imgrank.steps.studies.method import Method, parse_method
from imgrank.steps.studies.trials import Trials, TrialSettings


def write_judgements(folder: Path) -> Path:
    """Write judgements of the drawn queries with the names that a bundle in the folder gives its photos."""
    lines = [line.split("\t") for line in (folder / "qrels.tsv").read_text().splitlines()]
    path = folder / "judged.tsv"
    path.write_text("".join(f"{query}\t0\tphotos/{photo}\t{grade}\n" for query, _, photo, grade in lines))
    return path


def trials_in(folder: Path, score_cache: Path | None = None, **settings: Any) -> Trials:
    """Return trials of the drawn queries, which are files."""
    dataset = own_dataset(read_qrels(write_judgements(folder)), "trec")
    judged = JudgedPhotos(open_collection([folder / "db.h5"]), dataset, folder / "queries")
    return Trials(judged, TrialSettings(**{"top": 6} | settings), score_cache=score_cache)


def method(line: str, top: int = 6) -> Method:
    return parse_method(line, top=top, request=Request(device="cpu"))


def precision_by_hand(ranked: list[bytes], right: set[bytes]) -> float:
    """Average precision, by a loop over names."""
    found, total = 0, 0.0
    for rank, name in enumerate(ranked, 1):
        if name in right:
            found += 1
            total += found / rank
    return total / len(right)


def right_of(trials: Trials, query: bytes) -> set[bytes]:
    return {name for name, grade in trials.dataset.tasks[0].qrels[query].items() if grade > 0}
