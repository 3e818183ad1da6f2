"""`compact`: a bundle without the rows that were removed and the space that nothing uses; the graph is built anew."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np

from imgrank.bundle import file
from imgrank.progress import SILENT, Reporter
from imgrank.steps.copy_rows import Source, as_it_is, copy_bundle
from imgrank.steps.photos import REMOVED


@dataclass(frozen=True)
class CompactSummary:
    """What `compact` did."""

    kept: int  # rows
    dropped: int  # rows that were removed
    bytes_before: int
    bytes: int


def compact(bundle: Path, *, reporter: Reporter = SILENT) -> CompactSummary:
    """Write a bundle anew with what is used of it, and put the new file in its place; ids stay.

    Caches that were not finished are left out. Needs as much room again while it works. Readers that opened the bundle
    before keep the old file.

    Raises:
        InputError: the disk has no room for it.
        DamagedBundleError: a row does not match its checksum; the bundle is as it was.
    """
    before = bundle.stat().st_size if bundle.exists() else 0
    with file.Writer(bundle), file.read(bundle) as opened:
        images = opened.images
        rows = np.flatnonzero(images.statuses() != REMOVED)
        copy_bundle(
            bundle,
            [Source(opened, rows, images.ids()[rows], as_it_is)],
            root=images.root,
            caches=sorted(opened.token_tables),
            bundle_id=opened.bundle_id,
            next_id=images.next_id,
            reporter=reporter,
        )
    return CompactSummary(len(rows), len(images) - len(rows), before, bundle.stat().st_size)
