"""What one ranking does for single photos that another one does not.

A right photo is held against the wrong photos above it, and not against other right ones: two right photos that change
places are no gain of the one and no loss of the other.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass


@dataclass(frozen=True)
class Place:
    """Where a photo stands in a ranking.

    Attributes:
        rank: from 1, among the photos that count.
        wrong: how many wrong photos stand above it.
    """

    rank: int
    wrong: int


def places(grades: Sequence[int]) -> list[Place | None]:
    """Return the place of each photo of a ranking; None for those that do not count.

    Args:
        grades: (n,) of each photo, best first: above 0 right, 0 wrong, below 0 not counted (junk).
    """
    found: list[Place | None] = []
    rank = wrong = 0
    for grade in grades:
        if grade < 0:
            found.append(None)
            continue
        rank += 1
        found.append(Place(rank, wrong))
        wrong += grade == 0
    return found


def gain(before: Place | None, after: Place | None) -> float:
    """Return what a right photo gains: 1 / (1 + wrong photos above it) after, less the same before.

    Returns:
        in [-1, 1]; a photo that is not in a ranking has 0 there.
    """
    return _without_wrong(after) - _without_wrong(before)


def _without_wrong(place: Place | None) -> float:
    return 0.0 if place is None else 1.0 / (1 + place.wrong)


def rise(before: Place | None, after: Place | None) -> float:
    """Return how far a wrong photo comes to the front: 1 / rank after, less 1 / rank before.

    Returns:
        in [-1, 1]; a photo that is not in a ranking has 0 there.
    """
    return (0.0 if after is None else 1.0 / after.rank) - (0.0 if before is None else 1.0 / before.rank)
