"""Nearest centroids and k-means of many sub-vectors at once, on a CPU or a GPU.

A vector of m * width numbers is m sub-vectors of `width` numbers, and each of the m has 256 centroids of its own. This
module knows neither what the vectors are nor where centroids are kept.

The nearest centroid c of x is the one with the largest x . c - |c|^2 / 2, the product of (c, -|c|^2 / 2) with (x, 1).
So all there is to do are small products and the place of the largest of 256 numbers. What is subtracted from x and c
alike, the middle of them, changes no distance and leaves float32 more bits for it.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from imgrank.arrays import Floats

CENTROIDS = 256  # a code is one byte

# OpenBLAS splits larger products among threads of its own, which wait for each other; ours do not.
_PRODUCT = 2**18
_CPU_SCORES = 3 * 2**18  # of a thread: what its share of the cache holds
_GPU_ROWS, _GPU_SCORES = 4096, 2**26  # what keeps a GPU busy

_Piece = TypeVar("_Piece")


class NearestCentroids:
    """Finds the nearest of 256 centroids for every sub-vector, and turns the answers back into vectors.

    Of equally near centroids it is the lowest; "equal" is meant in float32. What comes out does not depend on how many
    threads there are.

    Args:
        centroids: (m, 256, width) float32; it also chooses the device.
    """

    def __init__(self, centroids: Tensor) -> None:
        self._table = centroids.reshape(-1, centroids.shape[2])
        self._middles = _middles(centroids)
        self._weights = _weights(centroids - self._middles)

    def codes(self, vectors: Tensor) -> Tensor:
        """Return the (n, m) uint8 numbers of the centroids nearest to (n, m * width) float32 vectors."""
        n, m, width = len(vectors), len(self._weights), self._table.shape[1]
        parts = vectors.view(n, m, width)
        codes = torch.empty(n, m, dtype=torch.uint8, device=vectors.device)
        rows = _rows(width, vectors.device)
        block = _block(m, rows, vectors.device, -(-n // rows))

        def find(piece: tuple[slice, slice], room: Tensor) -> None:
            some, part = piece
            points = _points(parts[some, part], self._middles[part])
            codes[some, part] = _nearest(self._weights[part], points, room)[1].T

        _each(find, itertools.product(_slices(n, rows), _slices(m, block)), vectors.device)
        return codes

    def vectors(self, codes: Tensor) -> Tensor:
        """Return the (n, m * width) float32 vectors that (n, m) codes stand for."""
        n, m = codes.shape
        starts = torch.arange(0, m * CENTROIDS, CENTROIDS, dtype=torch.int32, device=codes.device)
        return self._table.index_select(0, (codes + starts).view(-1)).view(n, -1)


def train(vectors: Tensor, m: int, *, seed: int, iterations: int, start: Tensor | None = None) -> Tensor:
    """Return the centroids that Lloyd's k-means finds, the same ones for the same seed and device.

    It starts from 256 of the vectors. A centroid that nothing is nearest to moves to the farthest sub-vector of those
    that one of the most lossy centroids has.

    Args:
        vectors: (n, m * width) float32, n at least 256; rows may lie apart.
        m: sub-vectors of a vector.
        seed: chooses the vectors to start from.
        iterations: how often sub-vectors find their nearest centroids, and these move to their middle.
        start: (m, 256, width) centroids to start from in place of the seed's.

    Returns:
        (m, 256, width) float32.

    Source:
        Lloyd 1982, doi:10.1109/TIT.1982.1056489.
    """
    n, width = len(vectors), vectors.shape[1] // m
    parts = vectors.view(n, m, width)
    if start is None:
        chosen = torch.randperm(n, generator=torch.Generator().manual_seed(seed))[:CENTROIDS]
        start = parts[chosen.to(vectors.device)].transpose(0, 1)
    start, middles, centroids = start - _middles(start), _middles(start), vectors.new_empty(m, CENTROIDS, width)
    rows = _rows(width, vectors.device)
    block = _block(m, rows, vectors.device)

    def improve(part: slice, room: Tensor) -> None:
        points = parts.new_empty(len(middles[part]), width + 1, n)
        for some in _slices(n, rows):
            points[:, :, some] = _points(parts[some, part], middles[part])
        centroids[part] = _lloyd(points, start[part], iterations, rows, room) + middles[part]

    _each(improve, _slices(m, block), vectors.device)
    return centroids


def _lloyd(points: Tensor, centroids: Tensor, iterations: int, rows: int, room: Tensor) -> Tensor:
    """Return (m, 256, width) centroids of (m, width + 1, n) points, whose last row is 1, taken so many at a time."""
    m, width, n = len(points), centroids.shape[2], points.shape[2]
    largest = points.new_empty(m, n)
    codes = torch.empty(m, n, dtype=torch.int64, device=points.device)
    for _ in range(iterations):
        weights = _weights(centroids)
        for some in _slices(n, rows):
            largest[:, some], codes[:, some] = _nearest(weights, points[:, :, some], room)
        sums = _sums(points, codes, room)
        counts = sums[:, width:]  # of the row that is 1
        empty = counts[:, 0] == 0  # (m, 256)
        middles = (sums[:, :width] / counts.clamp(min=1)).transpose(1, 2)
        centroids = torch.where(empty[:, :, None], centroids, middles)
        for i in empty.any(dim=1).nonzero()[:, 0].tolist():
            distances = points[i, :width].square().sum(dim=0) - 2 * largest[i]
            idle = empty[i].nonzero()[:, 0]
            chosen = _worst(codes[i].cpu().numpy(), distances.cpu().numpy(), len(idle))
            centroids[i, idle] = points[i, :width, chosen].T
    return centroids


def _worst(codes: npt.NDArray[np.int64], distances: Floats, count: int) -> list[int]:
    """Return the farthest of the (n,) points in each of the clusters that lose most."""
    losses = np.bincount(codes, distances, CENTROIDS)
    clusters = np.argsort(-losses, kind="stable")[:count]
    return [int(np.where(codes == cluster, distances, -np.inf).argmax()) for cluster in clusters]


def _rows(width: int, device: torch.device) -> int:
    """Return how many vectors to take at a time."""
    return max(16, _PRODUCT // (CENTROIDS * (width + 1)) // 16 * 16) if device.type == "cpu" else _GPU_ROWS


def _block(m: int, rows: int, device: torch.device, pieces: int = 1) -> int:
    """Return how many sub-vectors of those vectors to take at a time, so that all threads have some of the pieces."""
    if device.type != "cpu":
        return max(1, _GPU_SCORES // (CENTROIDS * rows))
    return max(1, min(_CPU_SCORES // (CENTROIDS * rows), -(-m * pieces // torch.get_num_threads())))


def _slices(n: int, size: int) -> list[slice]:
    return [slice(start, min(n, start + size)) for start in range(0, n, size)]


def _each(work: Callable[[_Piece, Tensor], None], pieces: Iterable[_Piece], device: torch.device) -> None:
    """Do all pieces of work, on a CPU with as many threads as torch would take; each gets room for its scores.

    Threads that take the next piece when they are ready lose little where something else runs beside them. Those of
    torch share each operation and wait for the last of them, every time.
    """
    if device.type != "cpu":
        room = torch.empty(_GPU_SCORES, device=device)
        for piece in pieces:
            work(piece, room)
        return
    waiting = deque(pieces)

    def do() -> None:
        room = _own_room()
        while (piece := _taken(waiting)) is not None:
            work(piece, room)

    threads = min(torch.get_num_threads(), len(waiting))
    if threads <= 1:
        do()
        return
    pool = _pool(os.getpid(), torch.get_num_threads())
    for done in [pool.submit(do) for _ in range(threads)]:
        done.result()


def _taken(waiting: deque[_Piece]) -> _Piece | None:
    try:
        return waiting.popleft()
    except IndexError:
        return None


@cache
def _pool(process: int, threads: int) -> ThreadPoolExecutor:
    """Return threads that stay: to start them takes as long as to code a photo. A forked process has its own."""
    return ThreadPoolExecutor(threads, thread_name_prefix="imgrank-kmeans")


_thread = threading.local()


def _own_room() -> Tensor:
    if not hasattr(_thread, "room"):
        _thread.room = torch.empty(_CPU_SCORES)
    room: Tensor = _thread.room
    return room


def _middles(centroids: Tensor) -> Tensor:
    """Return the (m, 1, width) medians of (m, 256, width): unlike means, the same bits with any number of threads."""
    return centroids.median(dim=1, keepdim=True).values


def _weights(centroids: Tensor) -> Tensor:
    """Return (m, 256, width + 1) float32: c and -|c|^2 / 2."""
    return torch.cat([centroids, centroids.square().sum(dim=2, keepdim=True) / -2], dim=2)


def _points(parts: Tensor, middles: Tensor) -> Tensor:
    """Return (m, width + 1, n) float32: x and 1, of (n, m, width) sub-vectors less their (m, 1, width) middles."""
    n, m, width = parts.shape
    points = parts.new_ones(m, width + 1, n)
    # First the difference, and then the axes turn: whole rows are read from afar, and single numbers from near.
    points[:, :width] = (parts - middles.transpose(0, 1)).permute(1, 2, 0)
    return points


def _nearest(weights: Tensor, points: Tensor, room: Tensor) -> tuple[Tensor, Tensor]:
    """Return the largest products, (m, n) float32, and of which of the 256 they are, (m, n) int64.

    Args:
        weights: (m, 256, width + 1).
        points: (m, width + 1, n).
        room: at least m * 256 * n float32, overwritten.
    """
    return _nearest_here(weights, points, room) if room.device.type == "cpu" else _nearest_plain(weights, points, room)


def _nearest_plain(weights: Tensor, points: Tensor, room: Tensor) -> tuple[Tensor, Tensor]:
    m, n = len(points), points.shape[2]
    scores = torch.bmm(weights, points, out=room[: m * CENTROIDS * n].view(m, CENTROIDS, n))
    largest, places = scores.max(dim=1)
    return largest, places


def _nearest_here(weights: Tensor, points: Tensor, room: Tensor) -> tuple[Tensor, Tensor]:
    """Do the same on a CPU in the thread that calls, several times as fast.

    numpy's products are OpenBLAS's, which has kernels for small ones. Max pooling keeps the place of the largest number
    with vector instructions, where the numbers to choose from lie one row apart ("channels last"); torch's own max
    along an axis takes one after the other. One image is never split among threads.
    """
    m, n = len(points), points.shape[2]
    scores = room[: CENTROIDS * m * n].view(CENTROIDS, m, n)
    np.matmul(weights.numpy(), points.numpy(), out=scores.numpy().transpose(1, 0, 2))
    image = scores.view(1, CENTROIDS, 1, m * n).permute(0, 3, 1, 2)  # m * n channels, 256 high, 1 wide
    largest, places = torch.nn.functional.max_pool2d_with_indices(image, (CENTROIDS, 1))
    return largest.view(m, n), places.view(m, n)


def _sums(points: Tensor, codes: Tensor, room: Tensor) -> Tensor:
    """Return the (m, width, 256) sums of the (m, width, n) points of each of the (m, n) codes."""
    m, width, n = points.shape
    sums = points.new_zeros(m, width, CENTROIDS)
    if points.device.type == "cpu":
        return sums.scatter_add_(2, codes[:, None].expand(m, width, n), points)
    # On a GPU scatter_add_ adds in another order each time; a product does not.
    return _sums_plain(points, codes, room)


def _sums_plain(points: Tensor, codes: Tensor, room: Tensor) -> Tensor:
    m, width, n = points.shape
    sums = points.new_zeros(m, width, CENTROIDS)
    numbers = torch.arange(CENTROIDS, device=points.device)
    for some in _slices(n, max(1, len(room) // (m * CENTROIDS))):
        members = room[: codes[:, some].numel() * CENTROIDS].view(m, -1, CENTROIDS)
        members.copy_(codes[:, some, None] == numbers)
        sums.baddbmm_(points[:, :, some], members)
    return sums
