"""`split`: one bundle in, several out, each with a part of the photos."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

from imgrank.bundle import file
from imgrank.errors import SettingsError
from imgrank.progress import SILENT, Reporter
from imgrank.steps.copy_rows import Source, as_it_is, copy_bundle
from imgrank.steps.outputs import check_free
from imgrank.steps.paths import choose_root
from imgrank.steps.photos import REMOVED


def split(
    bundle: Path, shards: int, *, folder: Path | None = None, force: bool = False, reporter: Reporter = SILENT
) -> list[Path]:
    """Write the photos of a bundle into several, in order, with their ids; the bundle stays as it is.

    Args:
        bundle: the file.
        shards: how many; they differ in size by one photo at most.
        folder: where they go; None: beside the bundle.
        force: write over files that are there.
        reporter: hears of progress.

    Returns:
        Their paths, `NAME-01-of-04.h5` and so on.

    Raises:
        SettingsError: there are fewer photos than shards, or one is there already.
        InputError: the disk has no room.
    """
    width = max(2, len(str(shards)))
    folder = bundle.parent if folder is None else folder
    targets = [folder / f"{bundle.stem}-{n:0{width}}-of-{shards:0{width}}{bundle.suffix}" for n in range(1, shards + 1)]
    for target in targets:
        check_free(target, force=force, bundle=True)
    with file.read(bundle) as opened:
        rows = np.flatnonzero(opened.images.statuses() != REMOVED)
        if len(rows) < shards:
            raise SettingsError(f"{bundle} has {len(rows)} photos, too few for {shards} shards")
        ids = opened.images.ids()
        for target, part in zip(targets, np.array_split(rows, shards), strict=True):
            with file.Writer(target):
                copy_bundle(
                    target,
                    [Source(opened, part, ids[part], as_it_is)],
                    root=choose_root(target, [], Path(os.fsdecode(opened.root))),
                    caches=sorted(opened.token_tables),
                    reporter=reporter,
                )
    return targets
