"""From pairs to groups: which things belong together, when some pairs of them do.

Knows numbers of things and pairs of them, no photos and no scorers.
"""

from __future__ import annotations

from collections import defaultdict

import numpy as np

from imgrank.arrays import Floats, Ids
from imgrank.config import Linkage

# Two groups become one where at least this share of the pairs between them is linked.
LINKED_SHARE: dict[Linkage, float] = {"single": 0.0, "average": 0.5, "complete": 1.0}


class DisjointSets:
    """Sets of the numbers 0 to n - 1 that are joined by and by; each is called by one of its members.

    Source:
        Tarjan and van Leeuwen, Worst-case analysis of set union algorithms, JACM 1984 (path halving, union by size).
    """

    def __init__(self, n: int) -> None:
        self._above = list(range(n))
        self.sizes = [1] * n  # of the sets, by the number that calls them

    def find(self, member: int) -> int:
        """Return what the set of a member is called."""
        above = self._above
        while above[member] != member:
            above[member] = above[above[member]]
            member = above[member]
        return member

    def join(self, one: int, other: int) -> int:
        """Make one of two sets, given by their names; returns the name of it, which is that of the larger one."""
        if self.sizes[one] < self.sizes[other]:
            one, other = other, one
        self._above[other] = one
        self.sizes[one] += self.sizes[other]
        return one

    def labels(self) -> Ids:
        """Return (n,) int64, for each number the lowest member of its set."""
        names = np.array([self.find(member) for member in range(len(self._above))], dtype=np.int64)
        _, lowest, sets = np.unique(names, return_index=True, return_inverse=True)
        labels: Ids = lowest[sets].astype(np.int64)
        return labels


def grouped(n: int, first: Ids, second: Ids, strengths: Floats, linkage: Linkage) -> Ids:
    """Join what is linked, the strongest links first.

    `single`: every link joins, so groups are the connected components. `average` and `complete`: a link joins the
    groups of its two ends where at least half, or all, of the pairs between these groups are linked; else they stay
    apart, unless a later link finds them changed. So a chain of links does not make one group of its two ends. This is
    greedy, one pass over the links: average linkage of 0 and 1, cut at 0.5, in the order of the strengths.

    Args:
        n: how many things there are.
        first: (p,) numbers from 0 to n - 1, one end of each link; a link is there once.
        second: (p,) the other end.
        strengths: (p,) of the links; equal ones are taken by their ends.
        linkage: see above.

    Returns:
        (n,) int64, for each thing the lowest number in its group; its own where it has none.
    """
    sets, share = DisjointSets(n), LINKED_SHARE[linkage]
    order = np.lexsort((second, first, -strengths))
    links = list(zip(first[order].tolist(), second[order].tolist(), strict=True))
    between: dict[int, dict[int, int]] = defaultdict(dict)  # set -> set -> number of links
    if share:
        for a, b in links:
            between[a][b] = between[b][a] = 1
    for a, b in links:
        one, other = sets.find(a), sets.find(b)
        if one == other or (share and between[one][other] < share * sets.sizes[one] * sets.sizes[other]):
            continue
        name = sets.join(one, other)
        if share:
            gone = other if name == one else one
            for third, count in between.pop(gone).items():
                del between[third][gone]
                if third != name:
                    between[name][third] = between[third][name] = between[name].get(third, 0) + count
    return sets.labels()


def under_leaders(n: int, first: Ids, second: Ids, order: Ids) -> Ids:
    """Give each thing to the first one, in an order of preference, that it is linked with.

    Things are looked at in that order: one that has not been given away leads, and gets all that it is linked with and
    that nobody has yet. So every member is linked with its leader, and no chain makes a group.

    Args:
        n: how many things there are.
        first: (p,) numbers from 0 to n - 1, one end of each link.
        second: (p,) the other end.
        order: (n,) the numbers from 0 to n - 1, the ones that are to lead first.

    Returns:
        (n,) int64, for each thing its leader; a leader's is itself.
    """
    linked: dict[int, list[int]] = defaultdict(list)
    for a, b in zip(first.tolist(), second.tolist(), strict=True):
        linked[a].append(b)
        linked[b].append(a)
    leaders = np.full(n, -1, dtype=np.int64)
    for leader in order.tolist():
        if leaders[leader] < 0:
            leaders[leader] = leader
            for member in linked.get(leader, ()):
                if leaders[member] < 0:
                    leaders[member] = leader
    return leaders
