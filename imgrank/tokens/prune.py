"""DivPrune: keep the tokens that differ most from each other."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager

import numpy as np

from imgrank.arrays import Floats, Ids
from imgrank.tokens.base import Amount, Groups, Positions, check_tokens
from imgrank.tokens.cosines import Product, cosines


class DivPrune:
    """Greedy max-min diversity by cosine distance; deterministic, and blind to the query.

    The first token is the one whose nearest other token is farthest; then, until enough are kept, the token whose
    nearest kept token is farthest. Equal distances go to the lowest index. Equal tokens are at distance exactly 0
    and share one set of distances, so that rounding cannot rank them; an all-zero token is at distance 1 from
    every other but its equals.

    Source:
        Alvar et al. 2025, arXiv:2503.02175. The rules for ties and zero tokens are ours.
    """

    def __init__(self, amount: Amount, product: Product | None = None) -> None:
        """Set how many tokens are kept, and what computes their dot products: numpy, or a `torch_product`."""
        self._amount, self._product = amount, product

    def reduce(self, vectors: Floats, positions: Positions, grid: tuple[int, int]) -> Groups:
        """Return the kept tokens; see `Reducer.reduce`. All are kept where there are not more than asked."""
        check_tokens(vectors, positions, grid)
        return Groups(most_diverse(vectors, self._amount.of(len(vectors)), self._product))


def most_diverse(vectors: Floats, k: int, product: Product | None = None) -> Ids:
    """Return the `k` rows that DivPrune chooses, rising.

    Args:
        vectors: (n, hidden) numbers.
        k: from 1; n or more keeps all.
        product: what multiplies them; numpy where not given.

    Returns:
        (min(k, n),) int64.

    Raises:
        InputError: a number is not finite.
    """
    n = len(vectors)
    if k >= n:
        return np.arange(n, dtype=np.int64)
    similarities = cosines(vectors, product)  # (n, n)
    np.fill_diagonal(similarities, -np.inf)
    nearest = similarities.max(axis=1)  # similarity to the nearest other token
    np.fill_diagonal(similarities, np.inf)  # from here on a kept token is its own nearest: never chosen again
    chosen = np.empty(k, dtype=np.int64)
    chosen[0] = nearest.argmin()  # argmin takes the first of equals
    nearest = similarities[chosen[0]]  # similarity to the nearest kept token
    for i in range(1, k):
        chosen[i] = nearest.argmin()
        np.maximum(nearest, similarities[chosen[i]], out=nearest)
    chosen.sort()
    return chosen


def torch_product(device: str) -> Product:
    """Return a product for `DivPrune` that torch computes in full float32.

    It is worth its transfers on a GPU; its last bits differ from numpy's, which can matter between tokens that are
    equally diverse but for rounding.

    Args:
        device: a name that `devices.pick_device` gave.
    """
    import torch

    def product(vectors: Floats) -> Floats:
        # torch.tensor copies, and so takes arrays that are not writable, unlike from_numpy.
        rows = torch.tensor(vectors, dtype=torch.float32, device=device)
        with _full_float32():
            products = rows @ rows.T
        # No library promises both halves the same rounding.
        upper = products.triu() + products.triu(1).T
        similarities: Floats = upper.cpu().numpy()
        return similarities

    return product


@contextmanager
def _full_float32() -> Iterator[None]:
    """Compute float32 matrix products as such, also where the program allows TF32 (CUDA) or bfloat16 (CPU)."""
    import torch

    with ExitStack() as restore:
        if hasattr(torch.backends, "fp32_precision"):
            # torch 2.9 and later: the older setting cannot be read where a program has set these.
            for backend in ("cuda", "mkldnn"):
                matmul = getattr(torch.backends, backend).matmul
                restore.callback(setattr, matmul, "fp32_precision", matmul.fp32_precision)
                matmul.fp32_precision = "ieee"
        else:
            restore.callback(torch.set_float32_matmul_precision, torch.get_float32_matmul_precision())
            torch.set_float32_matmul_precision("highest")
        yield
