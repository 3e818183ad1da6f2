"""Pairs of photos of a collection that are near each other by descriptor, each once, and what a scorer says of them."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import pairwise

import numpy as np
import numpy.typing as npt

from imgrank.arrays import Floats, Ids
from imgrank.config import SearchSettings
from imgrank.progress import SILENT, Reporter
from imgrank.steps.collection import Collection
from imgrank.steps.rerank import Reranker
from imgrank.steps.shortlist import Shortlister

_BLOCK = 1024  # descriptors in memory as queries


@dataclass(frozen=True, eq=False)
class Pairs:
    """Unordered pairs of rows of a collection, none twice.

    Attributes:
        first: (p,) int64, ascending; the lower row of each pair.
        second: (p,) int64, the higher row.
        similarities: (p,) float32, cosines of the descriptors.
    """

    first: Ids
    second: Ids
    similarities: Floats

    def __len__(self) -> int:
        return len(self.first)

    def where(self, chosen: npt.NDArray[np.bool_]) -> Pairs:
        """Return some of the pairs, by a (p,) mask."""
        return Pairs(self.first[chosen], self.second[chosen], self.similarities[chosen])


def neighbour_pairs(
    photos: Collection,
    neighbours: int,
    *,
    min_similarity: float,
    mutual: bool = False,
    exact: bool = False,
    reporter: Reporter = SILENT,
) -> Pairs:
    """Return the pairs of each photo that may be found with its nearest neighbours among them.

    Photos without a direction (their descriptor is all zeros) have none.

    Args:
        photos: `Collection.searched` says which may be found.
        neighbours: of each photo, at least 1.
        min_similarity: of a pair.
        mutual: only pairs in which each photo is among the neighbours of the other.
        exact: compare every two photos instead of following the graphs.
        reporter: told of progress.

    Raises:
        MissingGroupError: a bundle has no descriptors, or no graph.
        StaleGroupError: a graph is older than its descriptors.
    """
    shortlister = Shortlister(photos, SearchSettings(neighbours + 1, exact=exact))
    total = sum(int(np.count_nonzero(photos.searched(part))) for part in range(len(photos.parts)))
    lower, higher = [np.zeros(0, dtype=np.int64)], [np.zeros(0, dtype=np.int64)]
    similarities = [np.zeros(0, dtype=np.float32)]
    with reporter.bar(total, "neighbours", "photo") as advance:
        for row, descriptor in _queries(photos):
            advance(1)
            if not descriptor.any():
                continue
            near = shortlister.search(descriptor, neighbours + 1)
            others, cosines = near.rows[0], near.similarities[0]
            # Photos with the same descriptor may go before the photo itself, which is then not in its own list.
            kept = np.flatnonzero(others != row)[:neighbours]
            kept = kept[cosines[kept] >= min_similarity]
            lower.append(np.minimum(others[kept], row))
            higher.append(np.maximum(others[kept], row))
            similarities.append(cosines[kept])
    return _once(len(photos), np.concatenate(lower), np.concatenate(higher), np.concatenate(similarities), mutual)


def score_pairs(reranker: Reranker, pairs: Pairs, reporter: Reporter = SILENT) -> Floats:
    """Return the (p,) float32 scores in [0, 1] of pairs: the lower row of each is the query, and each is scored once.

    Raises:
        InputError: a photo has neither tokens nor a file.
    """
    scores = np.zeros(len(pairs), dtype=np.float32)
    bounds = np.flatnonzero(np.diff(pairs.first, prepend=-1, append=len(reranker.photos))).tolist()
    with reporter.bar(len(pairs), reranker.stage.scorer.name, "pair") as advance:
        for start, stop in pairwise(bounds):
            query = reranker.kept(int(pairs.first[start]))
            scores[start:stop] = reranker.scores(pairs.second[start:stop], query).values
            advance(stop - start)
    return scores


def _queries(photos: Collection) -> Iterator[tuple[int, Floats]]:
    """Yield (row, descriptor) of each photo that may be found."""
    for part, bundle_photos in enumerate(photos.parts):
        rows = np.flatnonzero(photos.searched(part))
        for start in range(0, len(rows), _BLOCK):
            some = rows[start : start + _BLOCK]
            descriptors = bundle_photos.bundle.descriptors.read_rows(some)
            yield from zip((photos.first_row(part) + some).tolist(), descriptors, strict=True)


def _once(n: int, lower: Ids, higher: Ids, similarities: Floats, mutual: bool) -> Pairs:
    """Keep each pair once; if `mutual`, those that were found from both ends."""
    _, places, counts = np.unique(lower * n + higher, return_index=True, return_counts=True)
    if mutual:
        places = places[counts == 2]
    return Pairs(lower[places], higher[places], similarities[places])
