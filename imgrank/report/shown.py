"""What is shown of one query: its ranking, and a picture for each photo in it."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from imgrank.records import Thumbnail
from imgrank.results import Ranking


@dataclass(frozen=True)
class Picture:
    """A photo to look at, or why there is none."""

    name: str  # of the photo, as messages show it
    thumbnail: Thumbnail | None
    reason: str = ""  # where there is no thumbnail: "missing", "changed", ...


@dataclass(frozen=True)
class Shown:
    """One query and its hits."""

    ranking: Ranking
    query: Sequence[Picture]  # the photo or photos that were asked with; a part of a photo after the whole
    hits: Sequence[Picture]  # in the order of the ranking
