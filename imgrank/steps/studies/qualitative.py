"""`study qualitative`: pairs of a query and a photo that one method ranks better than another, as a page (Fig. 6)."""

from __future__ import annotations

import heapq
import os
from collections import Counter
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from imgrank.errors import SettingsError
from imgrank.evaluation.datasets.base import Task
from imgrank.evaluation.gains import gain, places, rise
from imgrank.images.scan import display, printable
from imgrank.progress import SILENT, Reporter
from imgrank.report.pairs_page import Block, Pair, write_pairs_page
from imgrank.report.shown import Picture
from imgrank.rerank.base import PairScores
from imgrank.results import Hit, Ranking, short
from imgrank.steps.evaluate import compare, grades_of
from imgrank.steps.pictures import Pictures
from imgrank.steps.studies.frame import Row, Study
from imgrank.steps.studies.method import FIRST_STAGE, Method
from imgrank.steps.studies.trials import Case, Trials, fused

_MANY = 20_000  # rows of wrong photos, before those that are not shown anyway are dropped
_COLUMNS = (
    *("task", "query", "photo", "relevance", "rank_before", "rank_after", "wrong_before", "wrong_after", "gain"),
    *("similarity", "p_before", "p_after", "score_before", "score_after"),
)
_HEADINGS = (  # relevant, sign of the gain, heading, what it holds
    (True, 1, "Right photos that gained", "The gain is that of 1 / (1 + wrong photos above it)."),
    (True, -1, "Right photos that lost", "The loss is that of 1 / (1 + wrong photos above it)."),
    (False, 1, "Wrong photos that climbed", "In order of 1 / rank after less 1 / rank before: new mistakes."),
    (False, -1, "Wrong photos that sank", "In order of 1 / rank before less 1 / rank after: mistakes that are gone."),
)


def qualitative_study(
    trials: Trials,
    methods: Sequence[Method],
    measures: Sequence[str],
    pairs: int,
    reporter: Reporter = SILENT,
) -> Study:
    """Return a study of single pairs.

    The table has every pair of a query and a right photo, and the wrong photos that moved most. A right photo gains
    what `imgrank.evaluation.gains.gain` says, a wrong one `rise`.

    Args:
        trials: queries with their shortlists.
        methods: the baseline, and what is held against it.
        measures: for the sentence on the whole; the first one counts.
        pairs: at most so many on the page: of right photos that gained, that lost, and of wrong ones likewise.
        reporter: told of pictures that cannot be shown.

    Raises:
        SettingsError: there are more or fewer than two methods.
    """
    if len(methods) != 2:
        raise SettingsError(f"{len(methods)} methods: give two, first the baseline, then what is held against it")
    before, after = methods
    study = _Pairs(trials, (before, after), measures[0], pairs, reporter)
    return Study(
        "qualitative",
        _COLUMNS,
        {
            "trials": trials.facts(),
            "methods": [method.facts() for method in methods],
            "measures": [measures[0]],
            "pairs": pairs,
        },
        {method.label: study.part(method) for method in methods},
        notes=study.notes,
        table=study.rows,
        page=study.write,
    )


class _Pairs:
    def __init__(
        self, trials: Trials, methods: tuple[Method, Method], measure: str, pairs: int, reporter: Reporter
    ) -> None:
        self._trials, self._methods, self._measure, self._most = trials, methods, measure, pairs
        self._reporter = reporter
        self.notes: list[str] = []

    def part(self, method: Method) -> Callable[[], list[Row]]:
        """Return what scores the candidates of each query."""
        return lambda: [
            {"query": os.fsdecode(case.query), "p": [short(value) for value in scores.values]}
            for case, scores in ([] if method.settings is None else self._trials.scores(method))
        ]

    def rows(self, parts: Mapping[str, list[Row]]) -> list[Row]:
        """Make the table, and say on the whole what it shows."""
        said = [self._scores(method, parts[method.label]) for method in self._methods]
        rankings = [
            [
                case.ranking if method.settings is None else fused(case, scores, method.settings.lam)
                for case, scores in zip(self._trials.cases, one, strict=True)
            ]
            for method, one in zip(self._methods, said, strict=True)
        ]
        sides = [self._trials.evaluations(some, [self._measure]) for some in rankings]
        rows = []
        for task in self._trials.dataset.tasks:
            one = compare(sides[0][task.name], sides[1][task.name], self._measure)
            where = f"{task.name}: " if task.name else ""
            self.notes.append(
                f"{where}{one.measure} {one.means[0]:.4f} → {one.means[1]:.4f}, difference {one.difference:+.4f} "
                f"[{one.interval[0]:+.4f}, {one.interval[1]:+.4f}], p {one.p:.4f}, over "
                f"{len(sides[0][task.name].values)} queries."
            )
            right: list[Row] = []
            wrong: list[Row] = []
            for row in self._of_task(task, said, rankings):
                (right if row["relevance"] > 0 else wrong).append(row)
                if len(wrong) > _MANY:
                    wrong = self._moved(wrong)
            gained, lost = (sum(sign * row["gain"] > 0 for row in right) for sign in (1, -1))
            lacking = sum(row["rank_before"] is None and row["rank_after"] is None for row in right)
            self.notes.append(
                f"{where}Of {len(right)} pairs of a query and a right photo, {gained} gained, {lost} lost, "
                f"{len(right) - gained - lost} stayed; {lacking} are in neither ranking."
            )
            rows += right + self._moved(wrong)
        return rows

    def _scores(self, method: Method, part: Sequence[Row]) -> list[PairScores]:
        if method.settings is None:
            return [PairScores(np.zeros(0, dtype=np.float32)) for _ in self._trials.cases]
        return [PairScores(np.array(row["p"], dtype=np.float32)) for row in part]

    def _of_task(
        self, task: Task, said: Sequence[Sequence[PairScores]], rankings: Sequence[Sequence[Ranking]]
    ) -> Iterator[Row]:
        """Yield each right photo, and each wrong one that moved, for the queries of a task."""
        for place, case in enumerate(self._trials.cases):
            judged = task.qrels.get(case.query, {})
            if not any(grade > 0 for grade in judged.values()):
                continue
            sides = [
                _side(case, some[place], scores[place], judged) for some, scores in zip(rankings, said, strict=True)
            ]
            right = [name for name, grade in judged.items() if grade > 0]
            for name in dict.fromkeys((*right, *sides[0], *sides[1])):
                (one, was, p_was), (hit, now, p_now) = (side.get(name, (None, None, None)) for side in sides)
                grade = judged.get(name, 0)
                known = hit or one
                change = gain(was, now) if grade > 0 else rise(was, now)
                if grade <= 0 and not change:
                    continue
                yield {
                    "task": task.name,
                    "query": os.fsdecode(case.query),
                    "photo": os.fsdecode(name),
                    "relevance": grade,
                    "rank_before": None if was is None else was.rank,
                    "rank_after": None if now is None else now.rank,
                    "wrong_before": None if was is None else was.wrong,
                    "wrong_after": None if now is None else now.wrong,
                    "gain": change,
                    "similarity": None if known is None else short(known.similarity),
                    "p_before": p_was,
                    "p_after": p_now,
                    "score_before": None if one is None else short(one.score),
                    "score_after": None if hit is None else short(hit.score),
                }

    def _moved(self, rows: Sequence[Row]) -> list[Row]:
        return [row for sign in (1, -1) for row in _largest(rows, sign, self._most)]

    def write(self, rows: Sequence[Row], path: Path) -> None:
        """Write the page."""
        lacking: Counter[str] = Counter()
        blocks = []
        for task in self._trials.dataset.tasks:
            own = [row for row in rows if row["task"] == task.name]
            for relevant, sign, heading, about in _HEADINGS:
                chosen = _largest([row for row in own if (row["relevance"] > 0) == relevant], sign, self._most)
                title = f"{task.name}: {heading}" if task.name else heading
                blocks.append(Block(title, about, self._pairs(chosen, lacking)))
        title = " → ".join(printable(method.label) for method in self._methods)
        with path.open("w", encoding="utf-8") as stream:
            write_pairs_page(stream, title, self.notes, blocks)
        if lacking:
            why = ", ".join(f"{count} {reason}" for reason, count in lacking.most_common())
            self._reporter.note(f"{lacking.total()} pictures of the page cannot be shown: {why}")

    def _pairs(self, rows: Sequence[Row], lacking: Counter[str]) -> list[Pair]:
        judged = self._trials.judged
        pictures = Pictures(judged.photos)
        cases = {case.query: case for case in self._trials.cases}
        queries: dict[bytes, Picture] = {}
        asked, names, numbers = [], [], []
        for row in rows:
            case, name = cases[os.fsencode(row["query"])], os.fsencode(row["photo"])
            if case.query not in queries:
                queries[case.query] = _query(pictures, case)
            found = {hit.path: number for hit, number in zip(case.ranking.hits, case.rows, strict=True)}
            asked.append(queries[case.query])
            names.append(name)
            numbers.append(found.get(name, judged.row_of(name)))
        photos = pictures.of_rows(numbers, names)
        for picture in (*asked, *photos):
            if picture.thumbnail is None:
                lacking[picture.reason] += 1
        return [
            Pair(
                query,
                photo,
                row["relevance"] > 0,
                (row["rank_before"], row["rank_after"]),
                row["gain"],
                (row["gain"] > 0) == (row["relevance"] > 0),
                list(self._facts(row)),
            )
            for row, query, photo in zip(rows, asked, photos, strict=True)
        ]

    def _facts(self, row: Row) -> Iterator[tuple[str, str]]:
        yield "wrong photos above", f"{_number(row['wrong_before'])} → {_number(row['wrong_after'])}"
        if row["similarity"] is not None:
            yield "similarity", _number(row["similarity"])
        words = [_word(method) for method in self._methods]
        if words[0] == words[1]:
            yield words[0], f"{_number(row['p_before'])} → {_number(row['p_after'])}"
        else:
            for word, value in zip(words, (row["p_before"], row["p_after"]), strict=True):
                if word:
                    yield word, _number(value)
        yield "score", f"{_number(row['score_before'])} → {_number(row['score_after'])}"


def _side(
    case: Case, ranking: Ranking, scores: PairScores, judged: Mapping[bytes, int]
) -> dict[bytes, tuple[Hit, Any, float | None]]:
    """Return of each photo that counts in a ranking: its hit, its place, and what the second stage said of it."""
    said = {hit.path: short(value) for hit, value in zip(case.ranking.hits, scores.values, strict=False)}
    grades = grades_of(ranking, judged)
    return {
        hit.path: (hit, place, said.get(hit.path))
        for hit, place in zip(ranking.hits, places(grades), strict=True)
        if place is not None
    }


def _largest(rows: Sequence[Row], sign: int, most: int) -> list[Row]:
    """Return the rows that gained most, or with sign -1 lost most; of equal ones those that moved further go first."""

    def key(row: Row) -> tuple[Any, ...]:
        moved = abs((row["rank_after"] or 0) - (row["rank_before"] or 0))
        return -sign * row["gain"], -moved, row["query"], row["photo"]

    return heapq.nsmallest(most, (row for row in rows if sign * row["gain"] > 0), key=key)


def _query(pictures: Pictures, case: Case) -> Picture:
    """Return what was asked with: of a part of a photo, that part."""
    if isinstance(case.photo, int):
        return pictures.of_rows([case.photo], [case.query])[0]
    *_, asked = pictures.of_query(case.photo)
    return Picture(display(case.query), asked.thumbnail, asked.reason)


def _word(method: Method) -> str:
    """Return what a method's second stage gives; empty: it has none."""
    if method.settings is None:
        return ""
    return "probability" if method.settings.scorer == "mllm" else "match score"


def _number(value: float | int | None) -> str:
    if value is None:
        return "–"
    return str(value) if isinstance(value, int) else f"{value:.4f}"


def usual_pair(usual: Sequence[str]) -> list[str]:
    """Return what is compared where nobody says: the first stage, and the last of the usual methods."""
    return [FIRST_STAGE, usual[-1]]
