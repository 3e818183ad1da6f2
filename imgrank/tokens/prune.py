"""DivPrune: keep the tokens that differ most from each other."""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from imgrank.arrays import Floats, Ids, unit_rows
from imgrank.errors import InputError, SettingsError
from imgrank.tokens.base import check_tokens

# Float32 cosines of equal tokens of any sensible hidden size come out within this of 1.
_MAY_BE_EQUAL = 1e-4
# Between these, the squared length of a row has lost nothing to overflow or underflow.
_SMALLEST_SQUARE, _LARGEST_SQUARE = 1e-20, 1e30


class DivPrune:
    """Greedy max-min diversity by cosine distance; deterministic, and blind to the query.

    The first token is the one whose nearest other token is farthest; then, until enough are kept, the token whose
    nearest kept token is farthest. Equal distances go to the lowest index. Equal tokens are at distance exactly 0
    and share one set of distances, so that rounding cannot rank them; an all-zero token is at distance 1 from
    every other but its equals.

    Source:
        Alvar et al. 2025, arXiv:2503.02175. The rules for ties and zero tokens are ours.
    """

    def __init__(self, keep: int) -> None:
        """Set the number of tokens kept of each image.

        Raises:
            SettingsError: `keep` is below 1.
        """
        if keep < 1:
            raise SettingsError(f"cannot keep {keep} tokens of an image; keep at least 1")
        self._keep = keep

    def keep(self, vectors: Floats, positions: npt.NDArray[np.integer], grid: tuple[int, int]) -> Ids:
        """Return the kept tokens, rising; see `Pruner.keep`. All are kept where there are not more than asked."""
        check_tokens(vectors, positions, grid)
        return most_diverse(vectors, self._keep)


def most_diverse(vectors: Floats, k: int) -> Ids:
    """Return the `k` rows that DivPrune chooses, rising.

    Args:
        vectors: (n, hidden) numbers.
        k: from 1; n or more keeps all.

    Returns:
        (min(k, n),) int64.

    Raises:
        InputError: a number is not finite.
    """
    n = len(vectors)
    if k >= n:
        return np.arange(n, dtype=np.int64)
    similarities = _cosines(np.ascontiguousarray(vectors, dtype=np.float32))  # (n, n)
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


def _cosines(vectors: Floats) -> Floats:
    """Return the (n, n) float32 cosines of the rows: symmetric bit by bit, 1 for equal rows, 0 for zero rows."""
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):  # looked at below
        similarities: Floats = vectors @ vectors.T
    squares = similarities.diagonal()
    if not ((squares > _SMALLEST_SQUARE) & (squares < _LARGEST_SQUARE)).all():
        if not np.isfinite(vectors).all():
            raise InputError("visual tokens hold numbers that are not finite; run the model with a wider --dtype")
        vectors = unit_rows(vectors)  # slower, and at home in the whole range of float32
        similarities = vectors @ vectors.T
        squares = similarities.diagonal()
    lengths = np.sqrt(squares)
    scales = np.divide(1, lengths, out=np.zeros_like(lengths), where=lengths > 0)
    similarities *= np.outer(scales, scales)  # in one factor: two in turn would not round symmetrically
    first = _first_equal(vectors, similarities, lengths)
    if (first != np.arange(len(first))).any():
        # Copies of a token get products that differ in the last bits, by where they stand in the matrix.
        similarities = similarities[np.ix_(first, first)]
        similarities[first[:, None] == first] = 1
    return similarities


def _first_equal(vectors: Floats, similarities: Floats, lengths: Floats) -> Ids:
    """Return, for each row, the lowest row with the same numbers: itself, unless it is a copy."""
    first = np.arange(len(vectors))
    close = np.count_nonzero(similarities > 1 - _MAY_BE_EQUAL, axis=1) > 1  # one is the row itself
    seen: dict[bytes, int] = {}
    for i in np.flatnonzero(close | (lengths == 0)).tolist():
        first[i] = seen.setdefault((vectors[i] + 0.0).tobytes(), i)  # + 0.0 turns -0.0 into 0.0
    return first
