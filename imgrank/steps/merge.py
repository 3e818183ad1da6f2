"""`merge`: several bundles of one encoder in, one with all of their photos out."""

from __future__ import annotations

import os
from collections.abc import Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from itertools import pairwise
from pathlib import Path

import numpy as np

from imgrank.arrays import Ids
from imgrank.bundle import file
from imgrank.bundle.tokens import TokenTable
from imgrank.errors import SettingsError
from imgrank.progress import SILENT, Reporter
from imgrank.steps.copy_rows import PathOf, Source, copy_bundle, same_thumbnails
from imgrank.steps.one_encoder import check_one_encoder
from imgrank.steps.outputs import check_free
from imgrank.steps.paths import is_below
from imgrank.steps.photos import REMOVED


@dataclass
class MergeSummary:
    """What `merge` did.

    Attributes:
        images: rows of the new bundle.
        twice: photos that a bundle named earlier had already.
        renumbered: bundles whose photos have other ids now.
        left_out: name of a cache -> why it was not taken over.
        calibrations: that the new bundle has, learned on shortlists of the first bundle.
        thumbnails_lost: some bundle has thumbnails, and the others have none or others.
    """

    images: int = 0
    twice: int = 0
    renumbered: list[Path] = field(default_factory=list)
    left_out: dict[str, str] = field(default_factory=dict)
    calibrations: list[str] = field(default_factory=list)
    thumbnails_lost: bool = False


def merge(bundles: Sequence[Path], target: Path, *, force: bool = False, reporter: Reporter = SILENT) -> MergeSummary:
    """Write the photos of several bundles into a new one.

    A photo that several of them have, of one absolute path and content, is taken from the first. Ids are kept where
    those of the bundles do not overlap, as after `split`; otherwise all but those of the first bundle are new. Caches
    of tokens are taken over where every bundle has one of that name, made in the same way; so are thumbnails.
    Calibrations are those of the first bundle, as in a search of all of them together.

    Args:
        bundles: two or more.
        target: the new bundle; not one of them.
        force: write over a file that is there.
        reporter: hears of progress.

    Raises:
        MismatchError: their descriptors were made by different encoders.
        SettingsError: the target is one of them or is there already, or one comes twice.
        InputError: the disk has no room.
    """
    _check_distinct(bundles, target)
    check_free(target, force=force, bundle=True)
    summary = MergeSummary()
    with ExitStack() as stack:
        stack.enter_context(file.Writer(target))
        opened = [stack.enter_context(file.read(path)) for path in bundles]
        check_one_encoder(opened)
        home = os.fsencode(target.absolute().parent.resolve())
        roots = [os.path.realpath(one.root) for one in opened]
        common = os.path.commonpath(roots)
        sources = _sources(opened, roots, common, summary)
        summary.calibrations = sorted(opened[0].calibrations)
        pictured = any(one.thumbnail_table is not None for one in opened)
        summary.thumbnails_lost = pictured and not same_thumbnails(opened)
        summary.images = sum(len(source.rows) for source in sources)
        copy_bundle(
            target,
            sources,
            root=os.path.relpath(common, home) if is_below(common, home) else common,
            caches=_common_caches(opened, summary),
            reporter=reporter,
        )
    return summary


def _check_distinct(bundles: Sequence[Path], target: Path) -> None:
    if len(bundles) < 2:
        raise SettingsError("merge takes two bundles or more")
    seen: set[Path] = set()
    for path in bundles:
        real = path.resolve()
        if real in seen:
            raise SettingsError(f"{path} is named twice")
        seen.add(real)
    if target.resolve() in seen:
        raise SettingsError(f"{target} is one of the bundles; write to another file")


def _sources(opened: list[file.Bundle], roots: list[bytes], common: bytes, summary: MergeSummary) -> list[Source]:
    taken: set[tuple[bytes, bytes]] = set()
    chosen: list[Ids] = []
    for one, root in zip(opened, roots, strict=True):
        rows = []
        paths, digests = one.images.paths(), one.images.columns["digest"].read()
        for row in np.flatnonzero(one.images.statuses() != REMOVED).tolist():
            path = os.path.normpath(os.path.join(root, paths[row]))  # noqa: PTH118  # bytes
            photo = (path, digests[row].tobytes())
            if photo in taken:
                summary.twice += 1
            else:
                rows.append(row)
                taken.add(photo)
        chosen.append(np.array(rows, dtype=np.int64))
    ids = [one.images.ids()[rows] for one, rows in zip(opened, chosen, strict=True)]
    bounds = [(int(some[0]), int(some[-1])) for some in ids if len(some)]
    if any(last >= first for (_, last), (first, _) in pairwise(bounds)):
        following = opened[0].images.next_id
        for place in range(1, len(ids)):
            ids[place] = following + np.arange(len(ids[place]))
            following += len(ids[place])
            summary.renumbered.append(opened[place].path)

    def moved(root: bytes) -> PathOf:
        prefix = os.path.relpath(root, common)
        return lambda path: os.path.normpath(os.path.join(prefix, path))  # noqa: PTH118  # bytes

    return [
        Source(one, rows, some, moved(root)) for one, rows, some, root in zip(opened, chosen, ids, roots, strict=True)
    ]


def _common_caches(opened: list[file.Bundle], summary: MergeSummary) -> list[str]:
    names = sorted({name for one in opened for name in one.token_tables})
    kept = []
    for name in names:
        tables = [one.token_tables.get(name) for one in opened]
        lacking = [one.path for one, table in zip(opened, tables, strict=True) if table is None]
        if lacking:
            summary.left_out[name] = f"{lacking[0]} has none of that name"
            continue
        there = [table for table in tables if table is not None]
        other = next((table for table in there[1:] if not _alike(there[0], table)), None)
        if other is not None:
            summary.left_out[name] = f"{there[0].path} and {other.path} made it in different ways"
        else:
            kept.append(name)
    return kept


def _alike(one: TokenTable, other: TokenTable) -> bool:
    """Return whether the rows of two caches can stand in one."""
    same = (one.kind, one.codec, one.token_columns) == (other.kind, other.codec, other.token_columns) and (
        one.provenance.model_revision,
        one.provenance.settings,
    ) == (other.provenance.model_revision, other.provenance.settings)
    if not same or (one.codebooks is None) != (other.codebooks is None):
        return False
    if one.codebooks is None or other.codebooks is None:
        return True
    ours, theirs = one.codebooks.read(), other.codebooks.read()
    return ours.keys() == theirs.keys() and all(np.array_equal(ours[key], theirs[key]) for key in ours)
