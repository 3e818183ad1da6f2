"""`migrate`: a bundle of an older format version in, the same in the current one out."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from imgrank.bundle import file, layout
from imgrank.progress import SILENT, Reporter
from imgrank.steps.copy_rows import Source, as_it_is, copy_bundle

CURRENT = layout.FORMAT_VERSION


def migrate(bundle: Path, *, reporter: Reporter = SILENT) -> int:
    """Write a bundle anew in the current format, and put the new file in its place; nothing of it is left out.

    Args:
        bundle: the file; one of the current version is left as it is.
        reporter: hears of progress.

    Returns:
        The version that it had.

    Raises:
        InputError: the disk has no room for it.
        DamagedBundleError: a row does not match its checksum; the bundle is as it was.
    """
    with file.Writer(bundle, migrating=True), file.read(bundle) as opened:
        if opened.version < CURRENT:
            copy_bundle(
                bundle,
                [Source(opened, np.arange(len(opened.images)), opened.images.ids(), as_it_is)],
                root=opened.images.root,
                caches=sorted(opened.token_tables),
                bundle_id=opened.bundle_id,
                next_id=opened.images.next_id,
                reporter=reporter,
            )
        return opened.version
