"""Averaging the clusters that k-means finds."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from imgrank.arrays import Floats, Ids
from imgrank.errors import SettingsError
from imgrank.tokens.averages import averaged
from imgrank.tokens.base import Amount, Groups, Positions, check_tokens
from imgrank.tokens.cosines import check_finite, first_equal
from imgrank.tokens.prune import most_diverse


class KMeans:
    """Average the clusters of Lloyd's k-means over the tokens of an image, by Euclidean distance.

    It starts from the tokens that DivPrune would choose among the different ones, so nothing is drawn by chance.
    Equal distances go to the cluster of the lower token it started from. A cluster that loses all its tokens gets
    the one farthest from its own centroid, of those that are not alone. Copies of a token stay together: where there
    are fewer different tokens than asked, there are fewer clusters. A cluster stands at its member nearest to the
    mean (see `averaged`).
    """

    def __init__(self, amount: Amount, iterations: int = 10) -> None:
        """Set how many clusters there are, and how often tokens are assigned to them at most.

        Raises:
            SettingsError: `iterations` is below 1.
        """
        if iterations < 1:
            raise SettingsError(f"cannot cluster tokens in {iterations} iterations; give at least 1")
        self._amount, self._iterations = amount, iterations

    def reduce(self, vectors: Floats, positions: Positions, grid: tuple[int, int]) -> Groups:
        """Return the clusters; see `Reducer.reduce`. All tokens stay where there are not more than asked."""
        check_tokens(vectors, positions, grid)
        n = len(vectors)
        k = self._amount.of(n)
        if k >= n:
            return Groups(np.arange(n))
        check_finite(vectors)
        copies_of = first_equal(vectors, np.arange(n))
        tokens, inverse, weights = np.unique(copies_of, return_inverse=True, return_counts=True)
        starts = most_diverse(vectors[tokens], k)
        labels = lloyd(_centred(vectors[tokens], weights), weights, starts, self._iterations)
        return averaged(vectors, labels[inverse])


def lloyd(points: Floats, weights: Ids, starts: Ids, iterations: int) -> Ids:
    """Return the cluster of each point, after Lloyd's iterations.

    Args:
        points: (n, hidden) float32, whose squares must not overflow.
        weights: (n,) from 1: how many copies of each point there are.
        starts: (k,) the points at which clusters start, k from 1 to n.
        iterations: from 1, of assigning points; fewer where nothing changes any more.

    Returns:
        (n,) int64, 0 to k - 1, each at least once.
    """
    weighted = points * weights[:, None].astype(np.float32)
    centroids = points[starts]
    labels = np.full(len(points), -1)
    for _ in range(iterations):
        before = labels
        # |x|² is left out of |x|² - 2xc + |c|²: it is the same for every cluster, and costs precision.
        distances = np.einsum("ij,ij->i", centroids, centroids) - 2 * (points @ centroids.T)
        labels = distances.argmin(axis=1)
        _fill_empty(points, centroids, labels)
        if (labels == before).all():
            break
        inside = labels == np.arange(len(starts))[:, None]  # (k, n)
        centroids = (inside.astype(np.float32) @ weighted) / (inside @ weights)[:, None].astype(np.float32)
    return labels


def _fill_empty(points: Floats, centroids: Floats, labels: Ids) -> None:
    """Move a point into each cluster that has none, the one farthest from its centroid first."""
    counts = np.bincount(labels, minlength=len(centroids))
    if counts.all():
        return
    distances = np.square(points - centroids[labels]).sum(axis=1)
    for cluster in np.flatnonzero(counts == 0):
        point = np.where(counts[labels] > 1, distances, -1).argmax()  # with n points from k, one is not alone
        counts[labels[point]] -= 1
        labels[point], counts[cluster] = cluster, 1


def _centred(tokens: Floats, weights: npt.NDArray[np.int64]) -> Floats:
    """Return tokens moved to mean 0 and scaled by a power of two: the same clusters, and nothing overflows."""
    _, exponent = np.frexp(np.abs(tokens).max())
    scaled = np.ldexp(tokens, -exponent)
    centred: Floats = (scaled - np.average(scaled, axis=0, weights=weights)).astype(np.float32)
    return centred
