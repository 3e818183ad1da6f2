"""Optimized product quantization: the rotation after which sub-vectors lose least.

Source: Ge et al. 2013, doi:10.1109/CVPR.2013.379. The start is their parametric solution, which balances the variance
of the sub-vectors; the non-parametric one then takes turns between centroids and rotation.
"""

from __future__ import annotations

import heapq

import torch
from torch import Tensor

from imgrank.tokens import kmeans


def learn_rotation(vectors: Tensor, subvectors: int, *, seed: int = 0, iterations: int = 8, steps: int = 4) -> Tensor:
    """Return the (hidden, hidden) float32 orthonormal matrix to multiply vectors with before they are cut.

    An iteration costs two products of n x hidden with hidden x hidden numbers, a singular value decomposition of
    hidden x hidden, and `steps` steps of k-means.

    Args:
        vectors: (n, hidden) float32, n at least 256.
        subvectors: parts of equal length.
        seed: of k-means.
        iterations: 0 leaves the parametric solution as it is.
        steps: of k-means in an iteration, which goes on from the centroids of the one before.
    """
    vectors = vectors - vectors.mean(dim=0)  # an offset is no business of a rotation: centroids take it up
    rotation = balanced_rotation(vectors, subvectors)
    centroids = None
    for _ in range(iterations):
        turned = vectors @ rotation
        centroids = kmeans.train(turned, subvectors, seed=seed, iterations=steps, start=centroids)
        book = kmeans.NearestCentroids(centroids)
        rotation = nearest_rotation(vectors.T @ book.vectors(book.codes(turned)))
    return rotation


def balanced_rotation(vectors: Tensor, subvectors: int) -> Tensor:
    """Return the (hidden, hidden) rotation to principal axes, dealt out so that sub-vectors have equal products of variances.

    Args:
        vectors: (n, hidden) float32 around the origin.
        subvectors: parts of equal length.
    """
    hidden = vectors.shape[1]
    variances, axes = torch.linalg.eigh(vectors.T @ vectors / len(vectors))  # rising
    # Logarithms from 0: with negative ones a sub-vector would seem emptier the more axes it has.
    sizes = variances.clamp(min=float(variances[-1]) * 1e-9 or 1).log()
    sizes = sizes - sizes[0]
    open_parts = [(0.0, part) for part in range(subvectors)]
    members: list[list[int]] = [[] for _ in range(subvectors)]
    for axis in range(hidden - 1, -1, -1):  # the largest first, each to the part that has least
        size, part = heapq.heappop(open_parts)
        members[part].append(axis)
        if len(members[part]) < hidden // subvectors:
            heapq.heappush(open_parts, (size + float(sizes[axis]), part))
    return axes[:, [axis for part in members for axis in part]].contiguous()


def nearest_rotation(products: Tensor) -> Tensor:
    """Return the orthonormal R for which X @ R is nearest to Y, of the (hidden, hidden) products X^T Y.

    Source: Schoenemann 1966, doi:10.1007/BF02289451 (the orthogonal Procrustes problem).
    """
    left, _, right = torch.linalg.svd(products)
    rotation: Tensor = left @ right
    return rotation
