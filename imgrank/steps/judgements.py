"""Judgements of names, as rows of a bundle."""

from __future__ import annotations

from collections.abc import Mapping

from imgrank.steps.photos import BundlePhotos


def relevant_rows(photos: BundlePhotos, judged: Mapping[bytes, int]) -> frozenset[int]:
    """Return the rows of the photos that show what a query shows.

    Args:
        photos: of the bundle.
        judged: photo -> relevance, of one query.

    Raises:
        InputError: one of them is not in the bundle.
    """
    return frozenset(photos.row_of_name(name) for name, relevance in judged.items() if relevance > 0)


def junk_rows(photos: BundlePhotos, judged: Mapping[bytes, int]) -> frozenset[int]:
    """Return the rows of photos that count neither way: their relevance is below 0. Those of no row are passed over."""
    found = (photos.find(name) for name, relevance in judged.items() if relevance < 0)
    return frozenset(row for row in found if row is not None)
