"""`group`: the photos of bundles that show the same thing, as groups.

Nearest neighbours by descriptor are the candidates; a scorer looks at each pair of them once; what holds is a link, and
links make groups.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from imgrank.arrays import Floats, Ids
from imgrank.config import GroupSettings, RerankSettings
from imgrank.errors import SettingsError
from imgrank.groups import Edge, Group, Photo
from imgrank.progress import SILENT, Reporter
from imgrank.rerank.grouping import grouped
from imgrank.steps.collection import Collection
from imgrank.steps.distinct import DistinctPhotos
from imgrank.steps.neighbour_pairs import Pairs, neighbour_pairs, score_pairs
from imgrank.steps.rerank import Reranker
from imgrank.steps.second_stage import Request


@dataclass(frozen=True)
class Limits:
    """From where on a pair counts, for one scorer."""

    min_similarity: float  # to be compared
    min_score: float  # to be linked


# docs/benchmarks.md has the numbers behind those of the built-in scorers.
LIMITS = {"geometric": Limits(0.1, 0.4), "maxsim": Limits(0.1, 0.6), "mllm": Limits(0.1, 0.5)}


@dataclass(frozen=True)
class Grouping:
    """What `group_photos` found.

    Attributes:
        groups: of two photos or more, the largest first, then by their first photo.
        photos: that were looked at, copies included.
        pairs: that were compared.
        linked: pairs that hold.
        scorer: name of what compared them; None: descriptors alone.
    """

    groups: list[Group]
    photos: int
    pairs: int
    linked: int
    scorer: str | None


def group_photos(
    photos: Collection,
    settings: GroupSettings,
    second_stage: RerankSettings | None,
    request: Request | None = None,
    *,
    score_cache: Path | None = None,
    edges: bool = False,
    reporter: Reporter = SILENT,
) -> Grouping:
    """Return the photos that show the same thing.

    Files of the same content are together in any case and are compared once. Photos that were removed, or could not be
    read, are in no group.

    Args:
        photos: of one or several bundles.
        settings: which pairs count.
        second_stage: which scorer looks at pairs; None: none does, and the similarity decides.
        request: model, cache, prompt and device.
        score_cache: where a model's answers are kept, so that a run that was stopped goes on from them.
        edges: whether groups say which pairs are linked.
        reporter: told of progress.

    Raises:
        MissingGroupError: a bundle has no descriptors or no graph yet.
        SettingsError: no scorer suits what there is; or there is none, and no least similarity.
        InputError: a photo has neither tokens nor a file.
    """
    if second_stage is None and settings.min_similarity is None:
        raise SettingsError(
            "without a scorer the similarity decides, and how much is enough depends on the encoder: give "
            "--min-similarity, such as 0.5 for the built-in one"
        )
    distinct = DistinctPhotos(photos.parts)
    reranker = None
    if second_stage is not None:
        reranker = Reranker(distinct, second_stage, request, score_cache=score_cache, reporter=reporter)
    scorer = None if reranker is None else reranker.stage.scorer.name
    limits = LIMITS.get(scorer or "", Limits(0.0, 0.0))
    near = limits.min_similarity if settings.min_similarity is None else settings.min_similarity
    pairs = neighbour_pairs(
        distinct,
        settings.neighbours,
        min_similarity=near,
        mutual=settings.mutual,
        exact=settings.exact,
        reporter=reporter,
    )
    compared, scores = len(pairs), None
    if reranker is not None:
        scores = score_pairs(reranker, pairs, reporter)
        holds = scores >= (limits.min_score if settings.min_score is None else settings.min_score)
        pairs, scores = pairs.where(holds), scores[holds]
    strengths = pairs.similarities if scores is None else scores
    labels = grouped(len(distinct), pairs.first, pairs.second, strengths, settings.linkage)
    labels = labels[distinct.representatives]  # a copy goes where its content goes
    members = largest_first(labels, distinct.rows)
    return Grouping(
        groups_of(distinct, members, pairs, scores, edges), len(distinct.rows), compared, len(pairs), scorer
    )


def groups_of(
    distinct: DistinctPhotos, members: Sequence[Ids], pairs: Pairs, scores: Floats | None, edges: bool
) -> list[Group]:
    """Return the records of groups.

    Args:
        distinct: the photos.
        members: rows of each group, in the order in which the record has them.
        pairs: that are linked.
        scores: of the pairs; None: nobody looked at them.
        edges: whether records have the links.
    """
    links = _edges(distinct, members, pairs, scores) if edges else [None] * len(members)
    return [
        Group(number, tuple(_photo(distinct, row) for row in rows.tolist()), own)
        for number, (rows, own) in enumerate(zip(members, links, strict=True), 1)
    ]


def largest_first(labels: Ids, rows: Ids) -> list[Ids]:
    """Return the rows of each group of two and more: the largest first, then the one with the lowest row.

    Args:
        labels: (n,) which group a row is of.
        rows: (m,) ascending, the rows that count.
    """
    order = rows[np.argsort(labels[rows], kind="stable")]
    cuts = np.flatnonzero(np.diff(labels[order])) + 1
    members = [part for part in np.split(order, cuts) if len(part) > 1]
    return sorted(members, key=lambda part: (-len(part), int(part[0])))


def _photo(photos: Collection, row: int) -> Photo:
    hit = photos.hit(b"", 1, row, 1.0)
    return Photo(hit.id, hit.path, hit.bundle)


def _edges(
    distinct: DistinctPhotos, members: Sequence[Ids], pairs: Pairs, scores: Floats | None
) -> list[tuple[Edge, ...]]:
    """Return the links inside each group; those of files of the same content have similarity 1 and no score."""
    group = np.full(len(distinct), -1, dtype=np.int64)
    place = np.zeros(len(distinct), dtype=np.int64)
    for number, rows in enumerate(members):
        group[rows], place[rows] = number, np.arange(len(rows))
    found: list[list[Edge]] = [[] for _ in members]

    def add(one: int, other: int, similarity: float, score: float | None) -> None:
        if group[one] == group[other] >= 0:
            first, second = sorted((int(place[one]), int(place[other])))
            found[group[one]].append(Edge(first, second, similarity, score))

    for original, copy in zip(*distinct.copies(), strict=True):
        add(original, copy, 1.0, None)
    for pair in range(len(pairs)):
        score = None if scores is None else float(scores[pair])
        add(pairs.first[pair], pairs.second[pair], float(pairs.similarities[pair]), score)
    return [tuple(sorted(edges, key=lambda edge: (edge.first, edge.second))) for edges in found]
