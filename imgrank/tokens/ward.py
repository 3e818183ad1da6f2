"""Averaging the clusters that Ward's hierarchical clustering finds."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from imgrank.arrays import Floats, Ids
from imgrank.tokens.averages import averaged
from imgrank.tokens.base import Amount, Groups, Positions, check_tokens
from imgrank.tokens.cosines import cosines


class Ward:
    """Average clusters of tokens of similar direction: of two clusters at a time, those whose union varies least.

    Distances are Euclidean, between the tokens scaled to unit length (an all-zero token stays zero), so their squares
    are 2 - 2 cosine; the averages are of the tokens as they are. There are exactly as many clusters as asked: copies
    of a token share one unless there are fewer different tokens. A cluster stands at its member nearest to the mean
    (see `averaged`).

    Source:
        Clavié et al. 2024, arXiv:2409.14683, and `HierarchicalTokenPooler` of ColPali, which give Ward's method the
        rows of the matrix of cosine distances as points; here the points are the tokens.
    """

    def __init__(self, amount: Amount) -> None:
        """Set how many clusters there are."""
        self._amount = amount

    def reduce(self, vectors: Floats, positions: Positions, grid: tuple[int, int]) -> Groups:
        """Return the clusters; see `Reducer.reduce`. All tokens stay where there are not more than asked."""
        check_tokens(vectors, positions, grid)
        n = len(vectors)
        k = self._amount.of(n)
        if k >= n:
            return Groups(np.arange(n))
        return averaged(vectors, ward(_squared_distances(vectors), k))


def ward(distances: npt.NDArray[np.float64], k: int) -> Ids:
    """Return the cluster of each point where Ward's tree is cut into `k`.

    Args:
        distances: as `merges`; overwritten.
        k: from 1 to n.

    Returns:
        (n,) int64: the lowest point of its cluster.
    """
    n = len(distances)
    lower, upper, heights = merges(distances)
    labels = np.arange(n)
    cheapest = np.argsort(heights, kind="stable")[: n - k]  # stable: parents stay behind children of their height
    labels[upper[cheapest]] = lower[cheapest]
    for point in range(n):  # merged into lower ones only, whose labels are done
        labels[point] = labels[labels[point]]
    return labels


def merges(distances: npt.NDArray[np.float64]) -> tuple[Ids, Ids, npt.NDArray[np.float64]]:
    """Return Ward's tree.

    Args:
        distances: (n, n) squared Euclidean distances, symmetric bit by bit; overwritten. The diagonal does not matter.

    Returns:
        (n - 1,) each: the lowest points of the two clusters of a merge, lower first, and its height, twice what it
        adds to the sum of the squared distances to the means. Children come before parents, and are never higher;
        otherwise the merges are in no order of height.

    Source:
        Murtagh 1983, doi:10.1093/comjnl/26.4.354 (chains of nearest neighbours, O(n²) time and memory), with the
        update formula of Lance and Williams 1967 for Ward's method.
    """
    n = len(distances)
    # The row of a cluster is that of its lowest point; all others are infinite, and of size 0.
    np.fill_diagonal(distances, np.inf)
    sizes = np.ones(n)
    lower, upper, heights = np.empty(n - 1, dtype=np.int64), np.empty(n - 1, dtype=np.int64), np.empty(n - 1)
    chain: list[int] = []
    for step in range(n - 1):
        if not chain:
            chain.append(int(np.flatnonzero(sizes)[0]))
        while True:
            last = chain[-1]
            nearest = int(distances[last].argmin())
            # Among equals the one before, or the chain would never end.
            if len(chain) > 1 and distances[last, chain[-2]] <= distances[last, nearest]:
                break
            chain.append(nearest)
        a, b = sorted((chain.pop(), chain.pop()))
        height = distances[a, b]
        lower[step], upper[step], heights[step] = a, b, height
        to_a, to_b, with_a, with_b = distances[a], distances[b], sizes[a] + sizes, sizes[b] + sizes
        merged = (with_a * to_a + with_b * to_b - sizes * height) / (with_a + sizes[b])
        # True but for rounding, and why chains stay valid and no merge is below those inside it.
        np.maximum(merged, np.minimum(to_a, to_b), out=merged)
        merged[a] = np.inf
        distances[a] = distances[:, a] = merged
        distances[b] = distances[:, b] = np.inf
        sizes[a], sizes[b] = sizes[a] + sizes[b], 0
    return lower, upper, heights


def _squared_distances(vectors: Floats) -> npt.NDArray[np.float64]:
    """Return the (n, n) squared distances between the rows at unit length: exactly 0 between equal rows."""
    squares = np.asarray(vectors.any(axis=1), dtype=np.float64)  # 1, and 0 for a zero row
    distances = squares[:, None] + squares - 2 * cosines(vectors)
    return np.asarray(np.maximum(distances, 0))
