"""The Pareto curve of quality against cost."""

from __future__ import annotations

from collections.abc import Sequence


def on_front(costs: Sequence[float], qualities: Sequence[float]) -> list[bool]:
    """Return for each choice whether no other is at least as good and costs no more.

    Of choices that are equal in both, the first is on the curve.
    """
    best, found = float("-inf"), [False] * len(costs)
    for place in sorted(range(len(costs)), key=lambda place: (costs[place], -qualities[place])):
        found[place] = qualities[place] > best
        best = max(best, qualities[place])
    return found
