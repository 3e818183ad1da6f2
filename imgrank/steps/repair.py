"""`check --repair`: a bundle without what was lost, and with what can be computed again."""

from __future__ import annotations

import os
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from imgrank.bundle import file, layout
from imgrank.errors import BundleError, DamagedBundleError
from imgrank.progress import SILENT, Reporter
from imgrank.steps.build_index import build_index
from imgrank.steps.check import CheckReport, check
from imgrank.steps.copy_rows import Source, as_it_is, copy_bundle

_REWRITES = frozenset(
    "part-unreadable image-checksum image-paths descriptor-checksum descriptor-values descriptor-norm cache-offsets "
    "cache-checksum cache-codebooks cache-proof cache-settings calibration-damaged thumbnail-damaged".split()
)
_REINDEXES = frozenset({"graph-damaged", "graph-stale"})


@dataclass(frozen=True)
class Repair:
    """What `repair` did.

    Attributes:
        backup: copy of the bundle as it was; None where nothing was changed.
        dropped: rows of photos that were lost.
        caches: that were lost.
        calibrations: that were lost.
        after: what is left to find.
    """

    backup: Path | None
    dropped: int
    caches: list[str]
    calibrations: list[str]
    after: CheckReport


def repair(bundle: Path, report: CheckReport, *, reporter: Reporter = SILENT) -> Repair:
    """Mend what `check` found: drop what is lost, build what is derived, after a backup.

    Photos whose own row or descriptor is damaged are dropped; `imgrank index` on their folder computes them again.
    Tokens and thumbnails that are damaged are dropped; re-ranking and looking then read those photos. So are damaged
    calibrations.

    Args:
        bundle: the file.
        report: of a `check` that was not fast.
        reporter: hears of progress.

    Raises:
        DamagedBundleError: what is left is no bundle: restore a copy.
    """
    codes = {finding.code for finding in report.findings}
    if "unreadable" in codes or "journal-foreign" in codes:
        raise DamagedBundleError(bundle, "file", "cannot be repaired: nothing of it can be read; restore a copy")
    if not codes & (_REWRITES | _REINDEXES):
        return Repair(None, 0, [], [], report)
    with file.Writer(bundle, migrating=True):
        backup = _back_up(bundle)
        if codes & _REWRITES:
            _rewrite(bundle, report, reporter)
    if not codes & _REWRITES:
        build_index(bundle, reporter=reporter)
    lost = sorted(report.lost), sorted(report.lost_calibrations)
    return Repair(backup, len(report.damaged), *lost, check(bundle, reporter=reporter))


def _back_up(bundle: Path) -> Path:
    """Copy a bundle to a name that is free; its journal was copied in when the writer took the lock."""
    number = 1
    while os.path.lexists(backup := bundle.with_name(f"{bundle.name}.backup-{number}")):
        number += 1
    shutil.copy2(bundle, backup)
    return backup


def _rewrite(bundle: Path, report: CheckReport, reporter: Reporter) -> None:
    faults: dict[str, BundleError] = {}
    with file.read(bundle, faults) as opened:
        if f"/{layout.DESCRIPTORS}" in faults:
            raise DamagedBundleError(
                bundle, f"/{layout.DESCRIPTORS}", "cannot be repaired: no descriptor can be read; index into a new file"
            )
        images = opened.images
        kept = np.ones(len(images), dtype=bool)
        kept[sorted(report.damaged)] = False
        rows = np.flatnonzero(kept)
        copy_bundle(
            bundle,
            [Source(opened, rows, images.columns["id"].read()[rows].astype(np.int64), as_it_is)],
            root=images.root,
            caches=sorted(set(opened.token_tables) - report.lost),
            calibrations=sorted(set(opened.calibrations) - report.lost_calibrations),
            bundle_id=opened.bundle_id,
            next_id=images.next_id,
            damaged_tokens=report.damaged_tokens,
            without_proof=report.lost_proofs,
            damaged_thumbnails=report.damaged_thumbnails,
            with_graph=opened.graph_table is not None or f"/{layout.GRAPH}" in faults,
            reporter=reporter,
        )
