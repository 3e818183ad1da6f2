"""Nearest centroids and k-means of many sub-vectors at once, on a CPU or a GPU.

A vector of m * width numbers is m sub-vectors of `width` numbers, and each of the m has 256 centroids of its own. This
module knows neither what the vectors are nor where centroids are kept.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

CENTROIDS = 256  # a code is one byte

# Vectors and scores worked on at once: on a CPU what its caches hold, on a GPU what keeps it busy.
_CPU_ROWS, _CPU_SCORES = 256, 2**20
_GPU_ROWS, _GPU_SCORES = 4096, 2**26


class NearestCentroids:
    """Finds the nearest of 256 centroids for every sub-vector, and turns the answers back into vectors.

    The nearest centroid c of x is the one of the largest x . c - |c|^2 / 2; of equally near ones it is the lowest. What
    is computed in float32 are products with the mean of the centroids taken off both sides, so that sub-vectors far
    from the origin lose no bits.

    Args:
        centroids: (m, 256, width) float32; it also chooses the device.
    """

    def __init__(self, centroids: Tensor) -> None:
        self._table = centroids.reshape(-1, centroids.shape[2])
        self._means = centroids.mean(dim=1, keepdim=True)  # (m, 1, width)
        self._weights = _weights(centroids - self._means)

    def codes(self, vectors: Tensor) -> Tensor:
        """Return the (n, m) uint8 numbers of the centroids nearest to (n, m * width) float32 vectors."""
        weights, n = self._weights, len(vectors)
        m, width = len(weights), self._table.shape[1]
        rows, scores = _portion(vectors, n)
        block = max(1, len(scores) // (CENTROIDS * rows))  # sub-vectors at once
        turned = vectors.new_empty(m, rows, width)
        points = vectors.new_ones(m, width + 1, rows)
        codes = torch.empty(n, m, dtype=torch.uint8, device=vectors.device)
        for start in range(0, n, rows):
            some = vectors[start : start + rows]
            count = len(some)
            # In two steps, which take half as long as a subtraction that turns the axes.
            torch.sub(some.view(count, m, width).transpose(0, 1), self._means, out=turned[:, :count])
            points[:, :width, :count] = turned[:, :count].transpose(1, 2)
            for first in range(0, m, block):
                part = slice(first, first + block)
                _, found = _nearest(weights[part], points[part, :, :count], scores)
                codes[start : start + count, part] = found.T
        return codes

    def vectors(self, codes: Tensor) -> Tensor:
        """Return the (n, m * width) float32 vectors that (n, m) codes stand for."""
        n, m = codes.shape
        starts = torch.arange(0, m * CENTROIDS, CENTROIDS, dtype=torch.int32, device=codes.device)
        return self._table.index_select(0, (codes + starts).view(-1)).view(n, -1)


def train(
    vectors: Tensor, m: int, *, seed: int, iterations: int, start: Tensor | None = None,
    note: Callable[[int], None] = lambda done: None,
) -> Tensor:  # fmt: skip
    """Return the centroids that Lloyd's k-means finds, the same ones for the same seed and device.

    A centroid that nothing is nearest to moves to one of the sub-vectors that are farthest from theirs.

    Args:
        vectors: (n, m * width) float32, n at least 256; rows may be strided.
        m: sub-vectors of a vector.
        seed: chooses the 256 vectors that k-means starts from.
        iterations: at most; sub-vectors whose answers no longer change end sooner.
        start: (m, 256, width) centroids to start from in place of the seed's.
        note: called with the number of sub-vectors done.

    Returns:
        (m, 256, width) float32.
    """
    n, width = len(vectors), vectors.shape[1] // m
    if start is None:
        chosen = torch.randperm(n, generator=torch.Generator().manual_seed(seed))[:CENTROIDS]
        start = vectors[chosen.to(vectors.device)].view(CENTROIDS, m, width).transpose(0, 1)
    centroids = vectors.new_empty(m, CENTROIDS, width)
    rows, scores = _portion(vectors, n)
    block = max(1, len(scores) // (CENTROIDS * rows))
    for first in range(0, m, block):
        part = slice(first, first + block)
        some = vectors[:, first * width : (first + block) * width].unflatten(1, (-1, width))  # (n, block, width)
        means = some.mean(dim=0)[:, None]  # (block, 1, width)
        points = vectors.new_ones(len(means), width + 1, n)
        points[:, :width] = some.permute(1, 2, 0) - means.transpose(1, 2)
        centroids[part] = _lloyd(points, start[part] - means, iterations, rows, scores) + means
        note(min(first + block, m))
    return centroids


def _lloyd(points: Tensor, centroids: Tensor, iterations: int, rows: int, scores: Tensor) -> Tensor:
    """Return (m, 256, width) centroids of (m, width + 1, n) points, whose last row is 1."""
    m, width, n = len(points), centroids.shape[2], points.shape[2]
    best = points.new_empty(m, n)
    codes = torch.full((m, n), -1, device=points.device)
    for _ in range(iterations):
        before = codes.clone()
        weights = _weights(centroids)
        for start in range(0, n, rows):
            part = slice(start, start + rows)
            best[:, part], codes[:, part] = _nearest(weights, points[:, :, part], scores)
        if torch.equal(codes, before):
            break
        sums = _sums(points, codes, scores)  # (m, width + 1, 256); its last row counts
        counts = sums[:, width:]
        means = (sums[:, :width] / counts.clamp(min=1)).transpose(1, 2)
        empty = counts[:, 0] == 0
        centroids = torch.where(empty[:, :, None], centroids, means)
        for i in empty.any(dim=1).nonzero()[:, 0].tolist():
            distances = points[i, :width].square().sum(dim=0) - 2 * best[i]
            homeless = empty[i].nonzero()[:, 0]
            farthest = distances.topk(min(len(homeless), n)).indices
            centroids[i, homeless] = points[i, :width, farthest].T
    return centroids


def _portion(like: Tensor, n: int) -> tuple[int, Tensor]:
    """Return how many of n vectors to take at once, and room for the scores."""
    rows, scores = (_CPU_ROWS, _CPU_SCORES) if like.device.type == "cpu" else (_GPU_ROWS, _GPU_SCORES)
    return max(1, min(n, rows)), like.new_empty(scores)


def _weights(centroids: Tensor) -> Tensor:
    """Return (m, 256, width + 1) float32: c and -|c|^2 / 2, the product of which with (x, 1) is largest where c is near."""
    return torch.cat([centroids, centroids.square().sum(dim=2, keepdim=True) / -2], dim=2)


def _nearest(weights: Tensor, points: Tensor, room: Tensor) -> tuple[Tensor, Tensor]:
    """Return the largest products, (m, n) float32, and which of the 256 they are of, (m, n) int64.

    Args:
        weights: (m, 256, width + 1).
        points: (m, width + 1, n).
        room: at least m * 256 * n float32, overwritten.
    """
    m, n = len(points), points.shape[2]
    scores = room[: m * CENTROIDS * n].view(m, CENTROIDS, n)
    torch.bmm(weights, points, out=scores)
    return _pooled(scores) if scores.device.type == "cpu" else _reduced(scores)


def _reduced(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Return the largest of (m, 256, n) scores along the second axis, and the lowest place of it."""
    largest, places = scores.max(dim=1)
    return largest, places


def _pooled(scores: Tensor) -> tuple[Tensor, Tensor]:
    """Do as `_reduced`, ten times as fast on a CPU.

    Max pooling keeps the place of the largest number with vector instructions where the axis after the pooled one is
    contiguous, "channels last"; torch's own max along an axis takes one number after the other.
    """
    m, _, n = scores.shape
    images = scores.view(m, CENTROIDS, 1, n).permute(0, 3, 1, 2)  # n channels, 256 high, 1 wide
    largest, places = torch.nn.functional.max_pool2d_with_indices(images, (CENTROIDS, 1))
    return largest.view(m, n), places.view(m, n)


def _sums(points: Tensor, codes: Tensor, room: Tensor) -> Tensor:
    """Return the (m, width, 256) sums of the (m, width, n) points of each of the (m, n) codes."""
    m, width, n = points.shape
    sums = points.new_zeros(m, width, CENTROIDS)
    if points.device.type == "cpu":
        return sums.scatter_add_(2, codes[:, None].expand(m, width, n), points)
    # On a GPU scatter_add_ adds in another order each time; a product does not.
    rows = len(room) // (m * CENTROIDS)
    numbers = torch.arange(CENTROIDS, device=points.device)
    for start in range(0, n, rows):
        part = slice(start, start + rows)
        members = room[: m * CENTROIDS * codes[:, part].shape[1]].view(m, -1, CENTROIDS)
        members.copy_(codes[:, part, None] == numbers)
        sums.baddbmm_(points[:, :, part], members)
    return sums
