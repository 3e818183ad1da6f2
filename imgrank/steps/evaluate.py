"""`eval`: rankings and judgements in, measures out, for each query and on the whole."""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

from imgrank.config import SearchSettings
from imgrank.errors import ImageError, InputError
from imgrank.evaluation.datasets.base import Dataset, Task
from imgrank.evaluation.measures import measure
from imgrank.evaluation.metrics import Judged
from imgrank.evaluation.qrels import Qrels
from imgrank.evaluation.uncertainty import bootstrap_interval, randomization_p
from imgrank.images.scan import display
from imgrank.progress import Reporter
from imgrank.results import Ranking, encode_hits
from imgrank.steps.judged_photos import OWN, JudgedPhotos
from imgrank.steps.outputs import replacing
from imgrank.steps.rerank import Reranker
from imgrank.steps.search import Searcher


@dataclass
class Evaluation:
    """What rankings are worth.

    Attributes:
        measures: names, in the order asked for.
        values: query -> a number for each measure; queries in the order of the judgements.
        missing: judged queries without a ranking; they count as 0.
        without_positives: judged queries that nothing is right for; they are left out.
        unjudged: rankings of queries that are not judged; they are left out.
        by_last_name: names were compared by their last part, because no whole one fitted.
    """

    measures: tuple[str, ...]
    values: dict[bytes, tuple[float, ...]] = field(default_factory=dict)
    missing: list[bytes] = field(default_factory=list)
    without_positives: list[bytes] = field(default_factory=list)
    unjudged: list[bytes] = field(default_factory=list)
    by_last_name: bool = False

    def column(self, name: str) -> np.ndarray:
        """Return (q,) the values of one measure."""
        place = self.measures.index(name)
        return np.array([values[place] for values in self.values.values()])

    def summary(self) -> dict[str, dict[str, float]]:
        """Return for each measure its mean over queries and the 95 % bootstrap interval of that."""
        rows = {}
        for name in self.measures:
            low, high = bootstrap_interval(self.column(name))
            rows[name] = {"mean": float(self.column(name).mean()), "low": low, "high": high}
        return rows


def evaluate(rankings: Iterable[Ranking], qrels: Qrels, measures: Sequence[str]) -> Evaluation:
    """Score rankings by judgements.

    A photo of relevance above 0 is right, one of 0 or without judgement wrong, one below 0 is junk: taken out of the
    ranking before anything is counted. So is the query itself, found in its own ranking, unless it is judged. Names of
    photos are compared as they stand; where no query of the rankings is judged, by their last part.

    Args:
        rankings: of different queries.
        qrels: judgements.
        measures: names, see `imgrank.evaluation.measures`.

    Raises:
        InputError: no ranking is of a judged query, a ranking has a photo twice, or nothing is right for any query.
        SettingsError: there is no such measure.
    """
    marked = _Marked(qrels, measures)
    for ranking in rankings:
        marked.add(ranking)
    return marked.evaluation()


class _Marked:
    """Judges rankings as they come, and keeps the numbers: the rankings of a benchmark do not fit into memory."""

    def __init__(self, qrels: Qrels, measures: Sequence[str]) -> None:
        self._qrels, self._measures = qrels, tuple(measures)
        self._functions = [measure(name) for name in measures]
        self._values: dict[bytes, tuple[float, ...]] = {}
        self._unjudged: list[bytes] = []
        self._waiting: dict[bytes, Ranking] = {}  # kept until a query is judged: names may have to be cut

    def add(self, ranking: Ranking) -> None:
        """Judge one ranking."""
        query = ranking.query
        if query not in self._qrels:
            self._unjudged.append(query)
            if not self._values:
                self._waiting[query] = ranking
            return
        self._waiting.clear()
        self._values[query] = self._judge(ranking)

    def _judge(self, ranking: Ranking) -> tuple[float, ...]:
        judged = self._qrels[ranking.query]
        seen = _judged(ranking, judged, _positive(judged))
        return tuple(function(seen) for function in self._functions)

    def evaluation(self) -> Evaluation:
        """Return what all rankings are worth."""
        if not (self._values or self._waiting):
            raise InputError("there is no ranking to evaluate; is the run empty?")
        if not self._values:
            found, qrels = _by_last_name(self._waiting, self._qrels)
            cut = _Marked(qrels, self._measures)
            for ranking in found.values():
                cut.add(ranking)
            return replace(cut.evaluation(), by_last_name=True)
        result = Evaluation(self._measures, unjudged=self._unjudged)
        for query, judged in self._qrels.items():
            if not len(_positive(judged)):
                result.without_positives.append(query)
                continue
            if query not in self._values:
                result.missing.append(query)
            result.values[query] = self._values.get(query) or self._judge(Ranking(query, ()))
        if not result.values:
            raise InputError("the judgements have no query with a relevant photo; are they of this data set?")
        return result


def _positive(judged: Mapping[bytes, int]) -> np.ndarray:
    """Return (r,) the relevance of the relevant photos of a query."""
    return np.array([grade for grade in judged.values() if grade > 0], dtype=np.int64)


def _judged(ranking: Ranking, judged: dict[bytes, int], grades: np.ndarray) -> Judged:
    names = [hit.path for hit in ranking.hits]
    if len(set(names)) != len(names):
        raise InputError(f"query {display(ranking.query)} has the same photo twice among its hits")
    kept = [
        (grade, hit.score) for hit, grade in zip(ranking.hits, grades_of(ranking, judged), strict=True) if grade >= 0
    ]
    relevance, scores = ([pair[place] for pair in kept] for place in (0, 1))
    return Judged(np.array(relevance, dtype=np.int64), np.array(scores, dtype=np.float64), grades)


def grades_of(ranking: Ranking, judged: Mapping[bytes, int]) -> list[int]:
    """Return the relevance of each hit; below 0: it is taken out, as junk or as the query itself."""
    return [
        -1 if hit.path == ranking.query and hit.path not in judged else judged.get(hit.path, 0) for hit in ranking.hits
    ]


def in_common_names(found: dict[bytes, Ranking], qrels: Qrels) -> tuple[dict[bytes, Ranking], Qrels, bool]:
    """Return rankings and judgements with names that fit each other, in the same order.

    Returns:
        both as they are, where a query of the rankings is judged; else with all names cut to what follows the last
        slash; and whether they were cut.

    Raises:
        InputError: they do not fit then either.
    """
    if any(query in qrels for query in found):
        return found, qrels, False
    return *_by_last_name(found, qrels), True


def _by_last_name(found: dict[bytes, Ranking], qrels: Qrels) -> tuple[dict[bytes, Ranking], Qrels]:
    """Return rankings and judgements with names cut to what follows the last slash."""
    short = {os.path.basename(query): ranking for query, ranking in found.items()}  # noqa: PTH119  # bytes
    cut: Qrels = {}
    for query, judged in qrels.items():
        names = {os.path.basename(name): grade for name, grade in judged.items()}  # noqa: PTH119
        cut.setdefault(os.path.basename(query), {}).update(names)  # noqa: PTH119
    if not any(query in cut for query in short):
        raise InputError(
            f"no query of the run is judged: it has {display(next(iter(found)))}, the judgements "
            f"{display(next(iter(qrels)))}; are they of the same data set?"
        )
    if len(short) != len(found) or len(cut) != len(qrels):
        raise InputError("queries have the same file name in several folders; use the same paths in the judgements")
    return {query: _short(query, ranking) for query, ranking in short.items()}, cut


def _short(query: bytes, ranking: Ranking) -> Ranking:
    hits = tuple(replace(hit, path=os.path.basename(hit.path)) for hit in ranking.hits)  # noqa: PTH119
    return Ranking(query, hits)


def evaluate_tasks(rankings: Iterable[Ranking], dataset: Dataset, measures: Sequence[str]) -> dict[str, Evaluation]:
    """Score rankings by each task of a data set; raises as `evaluate` does.

    Returns:
        name of the task -> its evaluation.
    """
    known = set(dataset.queries)
    marked = {task.name: _Marked(task.qrels, measures) for task in dataset.tasks}
    for ranking in rankings:
        for task in dataset.tasks:
            # A query of another task is not one that nobody judged.
            if ranking.query in task.qrels or ranking.query not in known:
                marked[task.name].add(ranking)
    return {name: one.evaluation() for name, one in marked.items()}


def rankings_of(rankings: Sequence[Ranking], dataset: Dataset, task: Task) -> list[Ranking]:
    """Return the rankings that a task is about: a query of another task is not one that nobody judged."""
    known = set(dataset.queries)
    return [one for one in rankings if one.query in task.qrels or one.query not in known]


def check_missing(judged: JudgedPhotos, *, allow: bool, reporter: Reporter) -> None:
    """Tell of photos that the bundles lack: how many, and the first of them.

    Raises:
        InputError: there are some, and that is not allowed.
    """
    if not judged.missing:
        return
    some = ", ".join(map(display, judged.missing[:3])) + (", ..." if len(judged.missing) > 3 else "")
    photos = "relevant photos" if judged.dataset.title == OWN else f"photos of {judged.dataset.title}"
    what = f"{len(judged.missing)} {photos} are not in {judged.title}, or unreadable: {some}"
    if not allow:
        raise InputError(f"{what}; index them, or give --allow-missing, and they count as not found")
    reporter.note(f"{what}; they count as not found")


def searched(
    judged: JudgedPhotos,
    *,
    depth: int,
    exact: bool,
    reranker: Reranker | None,
    encoder: str | None = None,
    device: str = "auto",
) -> Iterator[Ranking | ImageError]:
    """Search for every query that something is right for; rankings carry the names of the data set.

    Args:
        judged: a data set laid over bundles.
        depth: hits of each query.
        exact: compare with every photo.
        reranker: second stage over `judged.photos`, if any.
        encoder: see `Searcher`.
        device: for encoders.
    """
    queries = judged.queries()
    searcher = Searcher(
        judged.photos,
        SearchSettings(depth, exact=exact),
        reranker=reranker,
        encoder=encoder,
        device=device,
        stored_only=not judged.asks_files,
    )
    for name, answer in zip(queries, searcher.search_all(map(judged.asked, queries)), strict=True):
        yield answer if isinstance(answer, ImageError) else judged.named(name, answer)


def saved_run(path: Path, rankings: Iterable[Ranking]) -> Iterator[Ranking]:
    """Write rankings as JSON lines while they go by; the file is there, whole, when the last one has."""
    with replacing(path) as incoming, incoming.open("wb") as file:
        for ranking in rankings:
            file.write(encode_hits(ranking, "jsonl"))
            yield ranking
        file.flush()


@dataclass(frozen=True)
class Comparison:
    """Two runs by one measure, over the queries that both sides count.

    Attributes:
        means: of each run.
        difference: of the second to the first.
        interval: 95 % bootstrap interval of the difference.
        p: of a paired randomization test.
        moved: query -> difference, the largest changes first.
    """

    measure: str
    means: tuple[float, float]
    difference: float
    interval: tuple[float, float]
    p: float
    moved: dict[bytes, float]


def compare(first: Evaluation, second: Evaluation, name: str) -> Comparison:
    """Compare two evaluations by the same judgements."""
    a, b = first.column(name), second.column(name)
    differences = b - a
    order = np.argsort(-np.abs(differences), kind="stable")
    queries = list(first.values)
    moved = {queries[place]: float(differences[place]) for place in order.tolist() if differences[place] != 0}
    return Comparison(
        name,
        (float(a.mean()), float(b.mean())),
        float(differences.mean()),
        bootstrap_interval(differences),
        randomization_p(differences),
        moved,
    )
