"""Checks of descriptors and queries, and the one routine that computes the similarities every index reports.

A matrix product may give the same pair other last bits in another batch or block. The indexes therefore use
matrix products (or hnswlib's distances) only to find candidates; `rescore` computes what is reported, from the
two vectors alone. So exact search, graph search, single queries and batches report the same bits for a pair.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from imgrank.arrays import Floats, Ids
from imgrank.errors import InputError, SettingsError

# Rows kept in half precision stay well inside; a row that was never normalised does not.
NORM_TOLERANCE = 1e-2
ROWS_PER_BLOCK = 16384


def rescore(descriptors: Floats, query: Floats, rows: Ids) -> Floats:
    """Return the similarity of one query with some rows, each bit of it a function of the two vectors alone.

    The products of float32 numbers are exact in float64; they are summed along each row in an order that
    depends on dim only, and rounded to float32 once.

    Args:
        descriptors: (n, dim) float32.
        query: (dim,) float32.
        rows: (k,) rows of `descriptors`, in any order.

    Returns:
        (k,) float32.
    """
    wide_query = query.astype(np.float64)
    similarities = np.empty(len(rows), dtype=np.float32)
    for start in range(0, len(rows), ROWS_PER_BLOCK):
        block = rows[start : start + ROWS_PER_BLOCK]
        # C order matters: along the last, contiguous axis numpy sums each row by itself.
        products = np.array(descriptors[block], dtype=np.float64, order="C")
        products *= wide_query
        similarities[start : start + len(block)] = products.sum(axis=1)
    return similarities


def best_first(rows: Ids, similarities: Floats, k: int) -> tuple[Ids, Floats]:
    """Sort by similarity, highest first, ties by lowest row, and keep the first `k`."""
    order = np.lexsort((rows, -similarities))[:k]
    return rows[order], similarities[order]


def searchable_rows(descriptors: Floats, valid: npt.NDArray[np.bool_] | None = None) -> npt.NDArray[np.bool_]:
    """Tell which rows can be found: those marked valid that are not all zero.

    Args:
        descriptors: (n, dim) float32; unit rows, but rows that are not valid may hold anything.
        valid: (n,) False for rows to leave out, such as photos that could not be decoded; None: all valid.

    Returns:
        (n,) bool, a new array.

    Raises:
        InputError: the shapes disagree, or a valid row is neither zero nor of length 1 (or not finite).
    """
    if descriptors.ndim != 2:
        raise InputError(f"descriptors must be (n, dim), not of shape {descriptors.shape}")
    if valid is not None and valid.shape != (len(descriptors),):
        raise InputError(f"{len(descriptors)} descriptors but a mask of shape {valid.shape}")
    mask = np.ones(len(descriptors), dtype=bool) if valid is None else valid.astype(bool)
    for start in range(0, len(descriptors), ROWS_PER_BLOCK):
        part = mask[start : start + ROWS_PER_BLOCK]  # a view
        lengths = _squared_lengths(descriptors[start : start + ROWS_PER_BLOCK])
        bad = np.flatnonzero(part & (lengths != 0) & ~(np.abs(lengths - 1) <= NORM_TOLERANCE))
        if len(bad):
            raise InputError(_not_unit("descriptor row", start + int(bad[0]), lengths[bad[0]]))
        part &= lengths != 0
    return mask


def check_queries(queries: Floats, dim: int, k: int) -> Floats:
    """Return the queries as a contiguous (q, dim) float32 array, or refuse them.

    Raises:
        InputError: not (q, dim), or a row is not finite or not of length 1 (an all-zero query matches nothing).
        SettingsError: `k` is below 1.
    """
    if k < 1:
        raise SettingsError(f"cannot return {k} neighbours; ask for at least 1")
    queries = np.ascontiguousarray(queries, dtype=np.float32)
    if queries.ndim != 2 or queries.shape[1] != dim:
        raise InputError(
            f"queries of shape {queries.shape} against descriptors of {dim} numbers; "
            "embed the query with the model of the collection"
        )
    lengths = _squared_lengths(queries)
    bad = np.flatnonzero(~(np.abs(lengths - 1) <= NORM_TOLERANCE))
    if len(bad):
        raise InputError(_not_unit("query", int(bad[0]), lengths[bad[0]]))
    return queries


def _squared_lengths(rows: Floats) -> npt.NDArray[np.float64]:
    with np.errstate(over="ignore", invalid="ignore"):  # rows that are not valid may hold anything
        lengths: npt.NDArray[np.float64] = np.einsum("ij,ij->i", rows, rows, dtype=np.float64)
    return lengths


def _not_unit(what: str, row: int, squared: np.floating) -> str:
    if np.isfinite(squared):
        return f"{what} {row} has length {float(np.sqrt(squared)):.4g}, not 1; normalise it first"
    return f"{what} {row} holds numbers that are not finite; compute it again in a wider --dtype"
