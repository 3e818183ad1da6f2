"""A page of queries that two runs answer differently: the first photos of each, with what is right and what is wrong.

Knows pictures, ranks and numbers; not what they were measured by.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from html import escape
from typing import Literal, TextIO

from imgrank.report.document import counted, foot, head, picture_of, query_list
from imgrank.report.shown import Picture

Kind = Literal["right", "wrong", "junk", "the query"]


@dataclass(frozen=True)
class Placed:
    """A photo of a ranking.

    Attributes:
        picture: of it.
        rank: among the photos that count; None: it does not count.
        kind: what judgements say of it; the last two do not count.
        score: of the run.
    """

    picture: Picture
    rank: int | None
    kind: Kind
    score: float


@dataclass(frozen=True)
class Side:
    """What one run says to a query.

    Attributes:
        value: of the measure.
        first: photos of the ranking, in its order.
        found: ranks of the right photos that are in the ranking.
        lacking: how many right photos are not.
    """

    value: float
    first: Sequence[Placed]
    found: Sequence[int]
    lacking: int


@dataclass(frozen=True)
class Moved:
    """A query that moved."""

    name: str
    query: Sequence[Picture]  # a part of a photo after the whole
    sides: tuple[Side, Side]


@dataclass(frozen=True)
class Mean:
    """A row of the table of means: a measure, both means, their difference, its interval, and p."""

    measure: str
    first: float
    second: float
    low: float
    high: float
    p: float


class MovedPage:
    """Writes a page, query by query.

    Args:
        stream: text in UTF-8.
        runs: what both are called.
    """

    def __init__(self, stream: TextIO, runs: tuple[str, str]) -> None:
        self._stream, self._runs = stream, runs
        self._queries: list[str] = []
        self._measure = ""
        stream.write(head(f"{runs[0]} → {runs[1]}", "queries that moved", [("queries", "All queries")]))

    def task(self, name: str, queries: int, means: Sequence[Mean]) -> None:
        """Begin the queries of a task.

        Args:
            name: of the task; empty where there is one.
            queries: how many were counted.
            means: of each measure; queries are ordered by the first.
        """
        self._measure = means[0].measure
        heading = f"<h2>{escape(name)}</h2>" if name else ""
        rows = "".join(_mean(one) for one in means)
        first, second = map(escape, self._runs)
        self._stream.write(
            f'<div class="means">{heading}<table><thead><tr><th scope="col">{counted(queries, "query", "queries")}</th>'
            f'<th scope="col">{first}</th><th scope="col">{second}</th><th scope="col">difference</th>'
            f'<th scope="col">95 % interval</th><th scope="col">p</th></tr></thead><tbody>{rows}</tbody></table>'
            "</div>\n"
        )

    def nothing(self) -> None:
        """Say that no query of the task is shown."""
        self._stream.write('<section><p class="quiet">No query moved.</p></section>\n')

    def add(self, moved: Moved) -> None:
        """Write a query."""
        self._queries.append(moved.name)
        for piece in self._section(moved, len(self._queries)):
            self._stream.write(piece)

    def finish(self) -> None:
        """Write the end of the page."""
        listed = query_list(self._queries, counted(len(self._queries), "query", "queries"))
        self._stream.write(foot(listed))

    def _section(self, moved: Moved, number: int) -> Iterator[str]:
        before, after = (side.value for side in moved.sides)
        yield (
            f'<section aria-labelledby="q{number}">\n<div class="about"><h2 id="q{number}">{escape(moved.name)}</h2>'
            f'<p class="quiet">{escape(self._measure)} {before:.4f} → {after:.4f} '
            f"{signed(after - before)}</p></div>\n"
            '<div class="query">\n'
        )
        for picture in moved.query:
            name = f"<figcaption>{escape(picture.name)}</figcaption>" if len(moved.query) > 1 else ""
            yield f"<figure>{picture_of(picture, f'Query: {picture.name}')}{name}</figure>\n"
        yield '</div>\n<div class="runs">\n'
        for run, side in zip(self._runs, moved.sides, strict=True):
            yield (
                f'<div class="run"><div class="run-head"><h3>{escape(run)}</h3><p class="quiet">'
                f"<b>{escape(self._measure)} {side.value:.4f}</b>; {_ranks(side)}</p></div>\n"
            )
            if side.first:
                yield f'<ol class="strip">\n{"".join(map(_placed, side.first))}</ol></div>\n'
            else:
                yield '<p class="gone">This run has no photo for it.</p></div>\n'
        yield "</div>\n</section>\n"


def signed(value: float) -> str:
    """Return a difference with its sign, in the colour of better or worse."""
    kind = "up" if value > 0 else "down" if value < 0 else "quiet"
    return f'<span class="{kind}">{value:+.4f}</span>'


def _mean(one: Mean) -> str:
    return (
        f'<tr><th scope="row">{escape(one.measure)}</th><td>{one.first:.4f}</td><td>{one.second:.4f}</td>'
        f"<td>{signed(one.second - one.first)}</td><td>[{one.low:+.4f}, {one.high:+.4f}]</td><td>{one.p:.4f}</td></tr>"
    )


def _ranks(side: Side) -> str:
    found = [str(rank) for rank in side.found[:12]] + (["..."] if len(side.found) > 12 else [])
    ranks = "rank" if len(found) == 1 else "ranks"
    where = f"right at {ranks} {', '.join(found)}" if found else "no right photo found"
    return f"{where}; {side.lacking} not found" if found and side.lacking else where


def _placed(placed: Placed) -> str:
    name, rank = placed.picture.name, "–" if placed.rank is None else str(placed.rank)
    alt = f"{'Not ranked' if placed.rank is None else f'Rank {rank}'}, {placed.kind}: {name}"
    frame = "left-out" if placed.rank is None else placed.kind
    return (
        f'<li class="{frame}"><figure>{picture_of(placed.picture, alt, named=True)}'
        f'<figcaption><p class="top"><span class="rank">{rank}</span><span class="kind">{placed.kind}</span></p>'
        f'<p class="name">{escape(name)}</p><p class="quiet">{placed.score:.4f}</p></figcaption></figure></li>\n'
    )
