"""Cosines between all tokens of an image, such that rounding cannot rank copies of a token."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from imgrank.arrays import Floats, Ids, unit_rows
from imgrank.errors import InputError

# (n, hidden) float32 to a new array of the (n, n) float32 dot products of its rows, symmetric bit by bit.
Product = Callable[[Floats], Floats]

# Float32 cosines of equal tokens of any sensible hidden size come out within this of 1.
_MAY_BE_EQUAL = 1e-4
# Between these, the squared length of a row has lost nothing to overflow or underflow.
_SMALLEST_SQUARE, _LARGEST_SQUARE = 1e-20, 1e30


def cosines(vectors: Floats, product: Product | None = None) -> Floats:
    """Return the cosines between the rows, symmetric bit by bit.

    Args:
        vectors: (n, hidden) numbers.
        product: what multiplies them; numpy where not given.

    Returns:
        (n, n) float32, a new array. Equal rows have cosine exactly 1, and the same cosines to all others; a zero row
        has cosine 0 to every other but its equals. Other numbers, and the diagonal, are right to rounding only.

    Raises:
        InputError: a number is not finite.
    """
    product = product or _numpy_product
    vectors = np.ascontiguousarray(vectors, dtype=np.float32)
    with np.errstate(over="ignore", under="ignore", invalid="ignore"):  # looked at below
        similarities = product(vectors)
    squares = similarities.diagonal()
    if not ((squares > _SMALLEST_SQUARE) & (squares < _LARGEST_SQUARE)).all():
        check_finite(vectors)
        vectors = unit_rows(vectors)  # slower, and at home in the whole range of float32
        similarities = product(vectors)
        squares = similarities.diagonal()
    lengths = np.sqrt(squares)
    scales = np.divide(1, lengths, out=np.zeros_like(lengths), where=lengths > 0)
    similarities *= np.outer(scales, scales)  # in one factor: two in turn would not round symmetrically
    close = np.count_nonzero(similarities > 1 - _MAY_BE_EQUAL, axis=1) > 1  # one is the row itself
    first = first_equal(vectors, np.flatnonzero(close | (lengths == 0)))
    if (first != np.arange(len(first))).any():
        # Copies of a token get products that differ in the last bits, by where they stand in the matrix.
        similarities = similarities[np.ix_(first, first)]
        similarities[first[:, None] == first] = 1
    return similarities


def first_equal(vectors: Floats, rows: Ids) -> Ids:
    """Return, for each row of `vectors`, the lowest one with the same numbers: itself, unless it is a copy.

    Args:
        vectors: (n, hidden) numbers.
        rows: those that may have copies, rising; the others are not looked at.

    Returns:
        (n,) int64.
    """
    first = np.arange(len(vectors), dtype=np.int64)
    seen: dict[bytes, int] = {}
    for i in rows.tolist():
        first[i] = seen.setdefault((vectors[i] + 0.0).tobytes(), i)  # + 0.0 turns -0.0 into 0.0
    return first


def check_finite(vectors: Floats) -> None:
    """Refuse tokens that cannot be compared.

    Raises:
        InputError: a number is not finite.
    """
    if not np.isfinite(vectors).all():
        raise InputError("visual tokens hold numbers that are not finite; run the model with a wider --dtype")


def _numpy_product(vectors: Floats) -> Floats:
    similarities: Floats = vectors @ vectors.T  # numpy computes a half of it and mirrors that
    return similarities
