"""A page of results: each query with its hits, in one file that needs nothing else.

The page has no script, and its Content-Security-Policy lets a browser load nothing but the pictures that are in it. It
is written query by query, so that its length costs no memory. Knows pictures and records; not how the hits were found.
"""

from __future__ import annotations

from collections.abc import Iterator
from html import escape
from typing import TextIO

from imgrank.report.document import counted, facts_of, foot, head, picture_of, query_list
from imgrank.report.shown import Picture, Shown
from imgrank.results import Hit


class Page:
    """Writes a page.

    Args:
        stream: text in UTF-8.
        title: of the page: what was searched.
    """

    def __init__(self, stream: TextIO, title: str) -> None:
        self._stream = stream
        self._queries: list[str] = []
        self.hits = 0
        stream.write(head(title, "hits", [("queries", "All queries")]))

    def add(self, shown: Shown) -> None:
        """Write a query and its hits."""
        self._queries.append(shown.query[0].name)
        self.hits += len(shown.hits)
        for piece in _section(shown, len(self._queries)):
            self._stream.write(piece)

    def finish(self) -> None:
        """Write the end of the page."""
        queries = counted(len(self._queries), "query", "queries")
        listed = query_list(self._queries, f"{queries}, {counted(self.hits, 'hit', 'hits')}")
        self._stream.write(foot(listed))


def _section(shown: Shown, number: int) -> Iterator[str]:
    hits = shown.ranking.hits
    scorer = next((hit.scorer for hit in hits if hit.scorer), None)
    looked = sum(hit.scorer is not None for hit in hits)
    how = f", {looked} of them re-ranked ({escape(scorer)})" if scorer else ""
    many = counted(len(hits), "hit", "hits") if hits else "No hits"
    yield (
        f'<section aria-labelledby="q{number}">\n<div class="about">'
        f'<h2 id="q{number}">{escape(shown.query[0].name)}</h2><p class="quiet">{many}{how}</p></div>\n'
        '<div class="query">\n'
    )
    for picture in shown.query:
        name = f"<figcaption>{escape(picture.name)}</figcaption>" if len(shown.query) > 1 else ""
        yield f"<figure>{picture_of(picture, f'Query: {picture.name}')}{name}</figure>\n"
    yield '</div>\n<ol class="hits">\n'
    for hit, picture in zip(hits, shown.hits, strict=True):
        yield _hit(hit, picture)
    yield "</ol>\n</section>\n"


def _hit(hit: Hit, picture: Picture) -> str:
    return (
        f'<li value="{hit.rank}"><figure>{picture_of(picture, f"Hit {hit.rank}: {picture.name}")}<figcaption>'
        f'<p class="top"><span class="rank">{hit.rank}</span>{_movement(hit)}'
        f'<span class="score">{hit.score:.4f}</span></p>'
        f'<p class="name">{escape(picture.name)}</p>{facts_of(list(_facts(hit)))}</figcaption></figure></li>\n'
    )


def _facts(hit: Hit) -> Iterator[tuple[str, str]]:
    yield "similarity", f"{hit.similarity:.4f}"
    for name in ("probability", "calibrated", "logit", "disagreement"):
        value = getattr(hit, name)
        if value is not None:
            yield name, f"{value:.2f}" if name in ("logit", "disagreement") else f"{value:.4f}"
    if hit.scorer is not None:
        yield "scorer", hit.scorer
    if hit.former_rank is not None:
        yield "rank before", str(hit.former_rank)
    if hit.collapsed:
        yield "copies", str(len(hit.collapsed))
    yield "id", str(hit.id)


def _movement(hit: Hit) -> str:
    """Say by how many places re-ranking moved the hit."""
    up = 0 if hit.former_rank is None else hit.former_rank - hit.rank
    if up == 0:
        return ""
    sign, kind = ("▲", "up") if up > 0 else ("▼", "down")
    return f'<span class="move {kind}" aria-hidden="true">{sign} {abs(up)}</span>'
