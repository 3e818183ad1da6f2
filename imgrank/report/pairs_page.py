"""A page of pairs, a query and a photo each, that two methods rank differently.

Knows pictures, names and numbers; not how the pairs were chosen.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from typing import TextIO

from imgrank.report.document import counted, facts_of, foot, head, picture_of
from imgrank.report.shown import Picture


@dataclass(frozen=True)
class Pair:
    """A query and a photo.

    Attributes:
        query: what was asked with.
        photo: what is ranked.
        right: whether it shows the same thing.
        ranks: before and after; None: not found.
        change: by how much it gained, or came to the front.
        better: whether the change is for the better.
        facts: names and values.
    """

    query: Picture
    photo: Picture
    right: bool
    ranks: tuple[int | None, int | None]
    change: float
    better: bool
    facts: Sequence[tuple[str, str]]


@dataclass(frozen=True)
class Block:
    """Pairs under a heading; `about` says which they are."""

    heading: str
    about: str
    pairs: Sequence[Pair]


def write_pairs_page(stream: TextIO, title: str, notes: Sequence[str], blocks: Sequence[Block]) -> None:
    """Write a page.

    Args:
        stream: text in UTF-8.
        title: of the page: the two methods.
        notes: what is to be known of all pairs.
        blocks: at least one.
    """
    stream.write(head(title, "pairs", [(f"b{number}", block.heading) for number, block in enumerate(blocks, 1)]))
    stream.write(f'<div class="notes">{"".join(f"<p>{escape(note)}</p>" for note in notes)}</div>\n')
    for number, block in enumerate(blocks, 1):
        many = counted(len(block.pairs), "pair", "pairs") if block.pairs else "No pair"
        stream.write(
            f'<section class="block" aria-labelledby="b{number}">\n<div class="about"><h2 id="b{number}">'
            f'{escape(block.heading)}</h2><p class="quiet">{many}. {escape(block.about)}</p></div>\n'
            '<ol class="pairs">\n'
        )
        for pair in block.pairs:
            stream.write(_pair(pair))
        stream.write("</ol>\n</section>\n")
    stream.write(foot())


def _pair(pair: Pair) -> str:
    kind = "right" if pair.right else "wrong"
    before, after = ("not found" if rank is None else str(rank) for rank in pair.ranks)
    query, photo = pair.query.name, pair.photo.name
    return (
        f'<li class="{kind}"><figure><div class="sides"><div class="query">{picture_of(pair.query, f"Query: {query}")}'
        f"</div>{picture_of(pair.photo, f'{kind.capitalize()} photo: {photo}')}</div><figcaption>"
        f'<p class="top"><span class="rank">{before} → {after}</span><span class="quiet">rank</span>'
        f'<span class="score {"up" if pair.better else "down"}">{pair.change:+.3f}</span></p>'
        f'<p class="names"><span>{escape(query)}</span><span>{escape(photo)}</span></p>'
        f"{facts_of(pair.facts)}</figcaption></figure></li>\n"
    )
