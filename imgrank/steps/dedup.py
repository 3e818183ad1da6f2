"""`dedup`: the photos of bundles that are copies of each other, and which of them to keep."""

from __future__ import annotations

import os
from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from imgrank.arrays import Floats, Ids
from imgrank.config import COPY_SIMILARITY, DedupSettings, Keep, RerankSettings
from imgrank.errors import SettingsError
from imgrank.groups import Group
from imgrank.progress import SILENT, Reporter
from imgrank.records import ImageRecord
from imgrank.rerank.grouping import under_leaders
from imgrank.rerank.scorers import OverlayScorer
from imgrank.steps.collection import Collection
from imgrank.steps.distinct import DistinctPhotos
from imgrank.steps.group import groups_of, largest_first
from imgrank.steps.neighbour_pairs import Pairs, neighbour_pairs, score_pairs
from imgrank.steps.rerank import Reranker

# What is kept has the least key; path and id decide between equals.
_KEYS: dict[Keep, Callable[[ImageRecord], tuple[int, ...]]] = {
    "largest": lambda record: (-record.width * record.height, -record.size, record.mtime_ns),
    "oldest": lambda record: (record.mtime_ns, -record.width * record.height, -record.size),
    "newest": lambda record: (-record.mtime_ns, -record.width * record.height, -record.size),
    "first": lambda record: (),
}


@dataclass(frozen=True)
class Duplicates:
    """What `dedup` found.

    Attributes:
        groups: of two photos or more, the one to keep first; the largest group first.
        photos: that were looked at.
        bytes: that the files of the others take.
    """

    groups: list[Group]
    photos: int
    bytes: int

    @property
    def extra(self) -> int:
        """Return how many photos are copies of one that is kept."""
        return sum(len(group.photos) - 1 for group in self.groups)


def dedup(
    photos: Collection, settings: DedupSettings, *, edges: bool = False, reporter: Reporter = SILENT
) -> Duplicates:
    """Return the photos that are copies of each other; nothing is changed.

    Files of the same content are copies. Others are where one lies on the other (`imgrank.local.overlay`) or, if that
    is asked for, where their descriptors are similar enough. Every photo of a group is a copy of its first one, the one
    to keep: photos are looked at in the order in which one would keep them, and each one that is no copy of an earlier
    one gets all its copies. So a chain of copies of copies is no group.

    Args:
        photos: of the bundle.
        settings: what is a copy, and what is kept.
        edges: whether groups say which pairs are copies.
        reporter: told of progress.

    Raises:
        MissingGroupError: the bundle has no descriptors or no graph yet, and more than contents is compared.
        SettingsError: by similarity, and no least similarity.
        InputError: a photo has neither local features in the bundle nor a file.
    """
    if settings.by == "similarity" and settings.min_similarity is None:
        raise SettingsError(
            "how similar copies are depends on the encoder: give --min-similarity, such as 0.75 for the built-in one"
        )
    distinct = DistinctPhotos(photos.parts)
    pairs, scores = _copies(distinct, settings, reporter)
    representatives = distinct.representatives
    originals, copies = distinct.copies()
    rows = np.unique(np.concatenate([pairs.first, pairs.second, originals, copies]))
    best_first, records = _in_order(distinct, rows, settings.keep)
    # Files of one content are one thing, which goes by the best of them.
    contents, first_seen = np.unique(representatives[best_first], return_index=True)
    places = [np.searchsorted(contents, ends) for ends in (pairs.first, pairs.second)]
    leaders = under_leaders(len(contents), places[0], places[1], np.argsort(first_seen))
    labels = np.arange(len(distinct), dtype=np.int64)
    labels[rows] = contents[leaders[np.searchsorted(contents, representatives[rows])]]
    order = np.zeros(len(distinct), dtype=np.int64)
    order[best_first] = np.arange(len(best_first))
    members = [part[np.argsort(order[part])] for part in largest_first(labels, rows)]
    size = sum(records[row].size for part in members for row in part[1:].tolist())
    return Duplicates(groups_of(distinct, members, pairs, scores, edges), len(distinct.rows), size)


def _copies(distinct: DistinctPhotos, settings: DedupSettings, reporter: Reporter) -> tuple[Pairs, Floats | None]:
    """Return the pairs of different files that are copies, and their scores where they have some."""
    if settings.by == "content":
        none = np.zeros(0, dtype=np.int64)
        return Pairs(none, none, np.zeros(0, dtype=np.float32)), None
    near = COPY_SIMILARITY if settings.min_similarity is None else settings.min_similarity
    pairs = neighbour_pairs(distinct, settings.neighbours, min_similarity=near, exact=settings.exact, reporter=reporter)
    if settings.by == "similarity":
        return pairs, None
    reranker = Reranker(distinct, RerankSettings(scorer="geometric"), reporter=reporter)
    reranker.stage = replace(reranker.stage, scorer=OverlayScorer())  # of the same local features
    scores = score_pairs(reranker, pairs, reporter)
    holds = scores >= settings.threshold
    return pairs.where(holds), scores[holds]


def _in_order(photos: Collection, rows: Ids, keep: Keep) -> tuple[Ids, dict[int, ImageRecord]]:
    """Return rows, the one that one would keep first of all at the start, and their records."""
    records: dict[int, ImageRecord] = {}
    files: dict[int, tuple[bool, bool]] = {}
    for part, places, own in photos.split(rows):
        its = photos.parts[part]
        records |= dict(zip(rows[places].tolist(), its.bundle.images.records(own), strict=True))
        for row, place in zip(rows[places].tolist(), own.tolist(), strict=True):
            files[row] = _lost(its.location(place), records[row].size), os.path.islink(its.location(place))  # noqa: PTH114
    key = _KEYS[keep]

    def wanted(row: int) -> tuple[object, ...]:
        # What is not on the disk is no reason to delete what is; and a link goes after the file that it leads to.
        lost, is_link = files[row]
        return lost, key(records[row]), is_link, b"" if keep == "first" else records[row].path, row

    return np.array(sorted(rows.tolist(), key=wanted), dtype=np.int64), records


def _lost(path: bytes, size: int) -> bool:
    """Return whether a photo is not on the disk, or its file has another size than when it was indexed."""
    try:
        return os.stat(path).st_size != size  # noqa: PTH116  # bytes
    except OSError:
        return True
