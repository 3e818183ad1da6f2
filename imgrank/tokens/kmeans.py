"""Nearest centroids and k-means of many sub-vectors at once, on a CPU or a GPU.

A vector of m * width numbers is m sub-vectors of `width` numbers, and each of the m has 256 centroids of its own. This
module knows neither what the vectors are nor where centroids are kept.

The nearest centroid c of x is the one with the largest x . c - |c|^2 / 2, the product of (c, -|c|^2 / 2) with (x, 1).
So all there is to do are small products and the place of the largest of 256 numbers. What is subtracted from x and c
alike, a middle of them, changes no distance and leaves float32 more bits for it.

A GPU gets a few large operations of torch. A CPU gets many that fit a cache, in threads that take the next when they
are ready: those of torch would share each operation and wait for the last of them, every time, which takes several
times as long where something else runs on the same cores. They are operations of numpy where it has them, as each of
torch's gives the interpreter to another thread, and waits to have it back.
"""

from __future__ import annotations

import itertools
import os
import threading
from collections import deque
from collections.abc import Callable, Iterable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor

from imgrank.arrays import Floats

CENTROIDS = 256  # a code is one byte

_GPU_ROWS, _GPU_SCORES = 4096, 2**26  # what keeps a GPU busy
_CPU_SCORES = 3 * 2**18  # a thread's share of a cache
_THREAD = 2**12  # sub-vectors that take half a millisecond; for less it is not worth to wake another thread
# OpenBLAS splits larger products among threads of its own, which wait for each other as torch's do.
_CPU_PRODUCT = 2**18

_Array = Any  # of numpy on a CPU, of torch on a GPU: they are used where both can do the same
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
        middles = _middles(centroids)
        self._middles, self._weights = _native(middles), _native(_weights(centroids - middles))

    def codes(self, vectors: Tensor) -> Tensor:
        """Return the (n, m) uint8 numbers of the centroids nearest to (n, m * width) float32 vectors."""
        n, m, width = len(vectors), len(self._weights), self._table.shape[1]
        codes = torch.empty(n, m, dtype=torch.uint8, device=vectors.device)
        parts, found = _native(vectors.view(n, m, width)), _native(codes)
        rows, threads = _rows(width, vectors.device), _threads_for(n * m, vectors.device)

        def find(piece: tuple[slice, slice], room: _Array) -> None:
            some, part = piece
            points = _points(parts[some, part], self._middles[part], room)
            found[some, part] = _nearest(self._weights[part], points, room).T

        blocks = _slices(m, _block(rows, -(-m * -(-n // rows) // threads), vectors.device))
        _each(find, itertools.product(_slices(n, rows), blocks), threads, vectors.device)
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
    middles = _middles(start)
    first, centroids = start - middles, vectors.new_empty(m, CENTROIDS, width)
    rows, threads = _rows(width, vectors.device), _threads_for(n * m, vectors.device)

    def improve(part: slice, room: _Array) -> None:
        points = vectors.new_empty(len(middles[part]), width + 1, n)
        for some in _slices(n, rows):
            _native(points)[:, :, some] = _points(_native(parts[some, part]), _native(middles[part]), room)
        centroids[part] = _lloyd(points, first[part], iterations, room) + middles[part]

    _each(improve, _slices(m, _block(rows, -(-m // threads), vectors.device)), threads, vectors.device)
    return centroids


def _lloyd(points: Tensor, centroids: Tensor, iterations: int, room: _Array) -> Tensor:
    """Return (m, 256, width) centroids of (m, width + 1, n) points, whose last row is 1."""
    m, width, n = len(points), centroids.shape[2], points.shape[2]
    codes = torch.empty(m, n, dtype=torch.int64, device=points.device)
    all_points, all_codes = _native(points), _native(codes)
    for _ in range(iterations):
        weights = _native(_weights(centroids))
        for some in _slices(n, _rows(width, points.device)):
            all_codes[:, some] = _nearest(weights, all_points[:, :, some], room)
        sums = _sums(points, codes, room)  # (m, width + 1, 256)
        counts = sums[:, width:]  # of the row that is 1
        empty = counts[:, 0] == 0  # (m, 256)
        before, centroids = centroids, (sums[:, :width] / counts.clamp(min=1)).transpose(1, 2)
        for i in empty.any(dim=1).nonzero()[:, 0].tolist():
            distances = (points[i, :width].T - before[i, codes[i]]).square().sum(dim=1)
            idle = empty[i].nonzero()[:, 0]
            chosen = _worst(codes[i].cpu().numpy(), distances.cpu().numpy(), len(idle))
            centroids[i, idle] = points[i, :width, chosen].T
    return centroids


def _worst(codes: npt.NDArray[np.int64], distances: Floats, count: int) -> list[int]:
    """Return the farthest of the (n,) points in each of the clusters that lose most."""
    losses = np.bincount(codes, distances, CENTROIDS)
    clusters = np.argsort(-losses, kind="stable")[:count]
    return [int(np.where(codes == cluster, distances, -1).argmax()) for cluster in clusters]


def _middles(centroids: Tensor) -> Tensor:
    """Return (m, 1, width) numbers in the middle of most of (m, 256, width): medians, which one far out cannot move."""
    return centroids.median(dim=1, keepdim=True).values


def _weights(centroids: Tensor) -> Tensor:
    """Return (m, 256, width + 1) float32: c and -|c|^2 / 2."""
    return torch.cat([centroids, centroids.square().sum(dim=2, keepdim=True) / -2], dim=2)


def _points(parts: _Array, middles: _Array, room: _Array) -> _Array:
    """Return (m, width + 1, n) float32, x above 1, of (n, m, width) sub-vectors less their (m, 1, width) middles."""
    n, m, width = parts.shape
    shape = (m, width + 1, n)
    points = np.empty(shape, dtype=np.float32) if isinstance(room, _Room) else room.new_empty(shape)
    # First the difference, and then the axes turn: whole rows are read from afar, and single numbers from near.
    points[:, :width] = (parts - middles[:, 0]).swapaxes(0, 1).swapaxes(1, 2)
    points[:, width] = 1
    return points


def _nearest(weights: _Array, points: _Array, room: _Array) -> _Array:
    """Return (m, n) int64: of which of the 256 the product is largest.

    Args:
        weights: (m, 256, width + 1).
        points: (m, width + 1, n).
        room: for at least m * 256 * n scores.
    """
    if isinstance(room, _Room):
        return room.nearest(weights, points)
    m, n = len(points), points.shape[2]
    return torch.bmm(weights, points, out=room[: m * CENTROIDS * n].view(m, CENTROIDS, n)).argmax(dim=1)


class _Room:
    """Where a thread of a CPU has its scores, and how it finds the largest."""

    def __init__(self) -> None:
        self._scores = torch.empty(_CPU_SCORES)
        self._views: dict[tuple[int, int], tuple[Floats, Tensor]] = {}

    def nearest(self, weights: Floats, points: Floats) -> npt.NDArray[np.int64]:
        """Do as `_nearest`.

        Max pooling keeps the place of the largest number without a branch, many at a time, where the numbers to choose
        from lie a row apart ("channels last"), and never splits one image among threads. numpy's argmax takes twice as
        long, torch's ten times.
        """
        m, n = len(points), points.shape[2]
        if (m, n) not in self._views:
            scores = self._scores[: CENTROIDS * m * n].view(CENTROIDS, m, n)
            image = scores.view(1, CENTROIDS, 1, m * n).permute(0, 3, 1, 2)  # m * n channels, 256 high, 1 wide
            self._views[m, n] = scores.numpy().transpose(1, 0, 2), image
        products, image = self._views[m, n]
        np.matmul(weights, points, out=products)
        _, places = torch.nn.functional.max_pool2d_with_indices(image, (CENTROIDS, 1))
        return places.numpy().reshape(m, n)


def _sums(points: Tensor, codes: Tensor, room: _Array) -> Tensor:
    """Return the (m, width, 256) sums of the (m, width, n) points of each of the (m, n) codes."""
    m, width, n = points.shape
    sums = points.new_zeros(m, width, CENTROIDS)
    if isinstance(room, _Room):
        return sums.scatter_add_(2, codes[:, None].expand(m, width, n), points)
    numbers = torch.arange(CENTROIDS, device=points.device)
    # On a GPU scatter_add_ would add in another order each time; a product does not.
    for some in _slices(n, max(1, len(room) // (m * CENTROIDS))):
        members = room[: codes[:, some].numel() * CENTROIDS].view(m, -1, CENTROIDS)
        members.copy_(codes[:, some, None] == numbers)
        sums.baddbmm_(points[:, :, some], members)
    return sums


def _in_numpy(device: torch.device) -> bool:
    return device.type == "cpu"


def _native(tensor: Tensor) -> _Array:
    """Return the same memory as an array of what the device is fast with."""
    return tensor.numpy() if _in_numpy(tensor.device) else tensor


def _rows(width: int, device: torch.device) -> int:
    """Return how many vectors to take at a time."""
    return max(16, _CPU_PRODUCT // (CENTROIDS * (width + 1)) // 16 * 16) if _in_numpy(device) else _GPU_ROWS


def _block(rows: int, share: int, device: torch.device) -> int:
    """Return how many sub-vectors of so many vectors to take at a time: at most a thread's share."""
    fitting = (_CPU_SCORES if _in_numpy(device) else _GPU_SCORES) // (CENTROIDS * rows)
    return max(1, min(fitting, share))


def _threads_for(subvectors: int, device: torch.device) -> int:
    return max(1, min(torch.get_num_threads(), subvectors // _THREAD)) if _in_numpy(device) else 1


def _slices(n: int, size: int) -> list[slice]:
    return [slice(start, min(n, start + size)) for start in range(0, n, size)]


def _each(work: Callable[[_Piece, _Array], None], pieces: Iterable[_Piece], threads: int, device: torch.device) -> None:
    """Do all pieces of work, on a CPU in so many threads; `work` also gets room for scores."""
    if not _in_numpy(device):
        room = torch.empty(_GPU_SCORES, device=device)
        for piece in pieces:
            work(piece, room)
        return
    waiting = deque(pieces)

    def do() -> None:
        while True:
            try:
                piece = waiting.popleft()
            except IndexError:
                return
            work(piece, _own_room())

    if threads == 1:
        do()
        return
    for done in [_pool(os.getpid(), torch.get_num_threads()).submit(do) for _ in range(threads)]:
        done.result()


@cache
def _pool(process: int, number: int) -> ThreadPoolExecutor:
    """Return threads that stay: to start them takes as long as to code a photo. A forked process has its own."""
    return ThreadPoolExecutor(number, thread_name_prefix="imgrank-kmeans")


_thread = threading.local()


def _own_room() -> _Room:
    if not hasattr(_thread, "room"):
        _thread.room = _Room()
    room: _Room = _thread.room
    return room
