"""What all pages are made of: one file without script, whose style and pictures are in it.

The Content-Security-Policy lets a browser load nothing else. Everything that may come from a file name is escaped here
or by who calls.
"""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Sequence
from html import escape
from pathlib import Path

from imgrank.report.shown import Picture
from imgrank.version import __version__


def head(title: str, kind: str, links: Sequence[tuple[str, str]]) -> str:
    """Return the beginning of a page, up to where its sections go.

    Args:
        title: of the page, as its heading shows it.
        kind: what the page holds, for the window's title.
        links: (id of an element, text) of what can be gone to from the top.
    """
    style = Path(__file__).with_name("page.css").read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(style.encode()).digest()).decode()
    policy = f"default-src 'none'; img-src data:; style-src 'sha256-{digest}'; base-uri 'none'; form-action 'none'"
    anchors = "".join(f'<a href="#{escape(place)}">{escape(text)}</a>' for place, text in links)
    return (
        '<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n'
        f'<meta http-equiv="Content-Security-Policy" content="{escape(policy)}">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        '<meta name="color-scheme" content="light dark">\n<meta name="referrer" content="no-referrer">\n'
        f"<title>{escape(title)}: {escape(kind)}</title>\n<style>{style}</style>\n</head>\n<body>\n"
        f"<header><h1>{escape(title)}</h1>{anchors}</header>\n<main>\n"
    )


def query_list(names: Sequence[str], heading: str) -> str:
    """Return links to the queries of a page, whose headings have the ids q1, q2, ..."""
    listed = "\n".join(f'<li><a href="#q{number}">{escape(name)}</a></li>' for number, name in enumerate(names, 1))
    return f'<nav id="queries" aria-label="Queries"><h2>{escape(heading)}</h2>\n<ol>\n{listed}\n</ol></nav>\n'


def foot(before: str = "") -> str:
    """Return the end of a page; `before` is HTML that stands in its footer."""
    return (
        f'</main>\n<footer>\n{before}<p class="quiet">Made by imgrank {escape(__version__)}</p>\n</footer>\n'
        "</body>\n</html>\n"
    )


def picture_of(picture: Picture, alt: str, *, named: bool = False) -> str:
    """Return a photo on its mat, or its name and why it cannot be shown; not its name where it is `named` beside it."""
    if picture.thumbnail is None:
        name = "" if named else f"{picture.name}: "
        text = escape(f"{name}no picture ({picture.reason})")
        return f'<div class="mat"><p class="gone">{text}</p></div>'
    small = picture.thumbnail
    data = base64.b64encode(small.data).decode()
    return (
        f'<div class="mat"><img src="data:image/jpeg;base64,{data}" width="{small.width}" height="{small.height}" '
        f'alt="{escape(alt)}" decoding="async"></div>'
    )


def counted(count: int, one: str, many: str) -> str:
    """Return a number with its noun."""
    return f"{count} {one if count == 1 else many}"


def facts_of(facts: Sequence[tuple[str, str]]) -> str:
    """Return names and values as a list."""
    return f"<dl>{''.join(f'<dt>{escape(name)}</dt><dd>{escape(value)}</dd>' for name, value in facts)}</dl>"
