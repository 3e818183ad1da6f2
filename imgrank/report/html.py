"""A page of results: each query with its hits, in one file that needs nothing else.

The page has no script, and its Content-Security-Policy lets a browser load nothing but the pictures that are in it. It
is written query by query, so that its length costs no memory. Knows pictures and records; not how the hits were found.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator
from html import escape
from pathlib import Path
from typing import TextIO

from imgrank.report.shown import Picture, Shown
from imgrank.results import Hit
from imgrank.version import __version__


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
        stream.write(_head(title))

    def add(self, shown: Shown) -> None:
        """Write a query and its hits."""
        self._queries.append(shown.query[0].name)
        self.hits += len(shown.hits)
        for piece in _section(shown, len(self._queries)):
            self._stream.write(piece)

    def finish(self) -> None:
        """Write the end of the page."""
        self._stream.write(_foot(self._queries, self.hits))


def _head(title: str) -> str:
    style = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(policy)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n<meta name="referrer" content="no-referrer">\n'
        f"<title>{escape(title)}: hits</title>\n<style>{style}</style>\n</head>\n<body>\n"
        f'<header><h1>{escape(title)}</h1><a href="#queries">All queries</a></header>\n<main>\n'
    )


def _foot(queries: list[str], hits: int) -> str:
    listed = "\n".join(f'<li><a href="#q{number}">{escape(name)}</a></li>' for number, name in enumerate(queries, 1))
    return (
        f'</main>\n<footer>\n<nav id="queries" aria-label="Queries"><h2>{_count(len(queries), "query", "queries")}, '
        f"{_count(hits, 'hit', 'hits')}</h2>\n<ol>\n{listed}\n</ol></nav>\n"
        f'<p class="quiet">Made by imgrank {escape(__version__)}</p>\n</footer>\n</body>\n</html>\n'
    )


def _section(shown: Shown, number: int) -> Iterator[str]:
    hits = shown.ranking.hits
    scorer = next((hit.scorer for hit in hits if hit.scorer), None)
    looked = sum(hit.scorer is not None for hit in hits)
    how = f", {looked} of them re-ranked ({escape(scorer)})" if scorer else ""
    counted = _count(len(hits), "hit", "hits") if hits else "No hits"
    yield (
        f'<section aria-labelledby="q{number}">\n<div class="about">'
        f'<h2 id="q{number}">{escape(shown.query[0].name)}</h2><p class="quiet">{counted}{how}</p></div>\n'
        '<div class="query">\n'
    )
    for picture in shown.query:
        name = f"<figcaption>{escape(picture.name)}</figcaption>" if len(shown.query) > 1 else ""
        yield f"<figure>{_picture(picture, f'Query: {picture.name}')}{name}</figure>\n"
    yield '</div>\n<ol class="hits">\n'
    for hit, picture in zip(hits, shown.hits, strict=True):
        yield _hit(hit, picture)
    yield "</ol>\n</section>\n"


def _hit(hit: Hit, picture: Picture) -> str:
    facts = "".join(f"<dt>{escape(name)}</dt><dd>{escape(value)}</dd>" for name, value in _facts(hit))
    return (
        f'<li value="{hit.rank}"><figure>{_picture(picture, f"Hit {hit.rank}: {picture.name}")}<figcaption>'
        f'<p class="top"><span class="rank">{hit.rank}</span>{_movement(hit)}'
        f'<span class="score">{hit.score:.4f}</span></p>'
        f'<p class="name">{escape(picture.name)}</p><dl>{facts}</dl></figcaption></figure></li>\n'
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


def _picture(picture: Picture, alt: str) -> str:
    if picture.thumbnail is None:
        text = escape(f"{picture.name}: no picture ({picture.reason})")
        return f'<div class="mat"><p class="gone">{text}</p></div>'
    small = picture.thumbnail
    data = base64.b64encode(small.data).decode()
    return (
        f'<div class="mat"><img src="data:image/jpeg;base64,{data}" width="{small.width}" height="{small.height}" '
        f'alt="{escape(alt)}" decoding="async"></div>'
    )


def _count(count: int, one: str, many: str) -> str:
    return f"{count} {one if count == 1 else many}"
