"""`export descriptors`: the descriptors of a bundle in, a numpy file and the list of its rows out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from imgrank.arrays import Floats, Ids, crc32
from imgrank.bundle import file
from imgrank.errors import DamagedBundleError
from imgrank.progress import SILENT, Reporter
from imgrank.records import OK
from imgrank.results import tsv_field
from imgrank.steps.outputs import check_free, check_output, replacing

LIST_HEADER = b"id\tpath\n"
_BLOCK = 16 * 2**20  # bytes of descriptors in memory


@dataclass(frozen=True)
class DescriptorExport:
    """What `export_descriptors` wrote."""

    vectors: Path
    listing: Path
    rows: int
    dim: int
    encoder: str  # as the bundle states it; "unknown" where nobody named it
    revision: str
    bytes: int  # of both files


def list_beside(vectors: Path) -> Path:
    """Return where the list of the rows of a numpy file lies."""
    return vectors.with_suffix(".tsv")


def export_descriptors(
    bundle: Path, output: Path, *, force: bool = False, reporter: Reporter = SILENT
) -> DescriptorExport:
    """Write the descriptors of the photos with status ok, in row order, block by block.

    Memory does not grow with the bundle but for 9 bytes a photo.

    Args:
        bundle: with descriptors.
        output: OUT.npy gets (n, dim) float32, unit rows, in C order; OUT.tsv beside it their ids and paths, under a
            header. Paths are those that the bundle stores, relative to its root, escaped as `imgrank.results` does.
        force: replace files that are there.
        reporter: hears of progress.

    Raises:
        SettingsError: a file is there already, or the name does not end in .npy.
        MissingGroupError: nothing has been embedded.
        DamagedBundleError: a row fails its checksum.
    """
    listing = list_beside(output)
    check_output(output, ".npy", force=force)
    check_free(listing, force=force)
    with file.read(bundle) as opened:
        table, images = opened.descriptors, opened.images
        ok, ids = images.statuses() == OK, images.ids()
        rows = int(np.count_nonzero(ok))
        header = {"descr": "<f4", "fortran_order": False, "shape": (rows, table.dim)}
        with (
            reporter.bar(rows, "export", "photo") as advance,
            replacing(output) as vectors_new,  # takes its name last: where it is, the list is
            replacing(listing) as listing_new,
            vectors_new.open("wb") as vectors,
            listing_new.open("wb") as lines,
        ):
            np.lib.format.write_array_header_1_0(vectors, header)
            lines.write(LIST_HEADER)
            for start, stop in _blocks(len(table), table.dim):
                chosen = np.flatnonzero(ok[start:stop])
                vectors.write(_checked(opened, start, stop)[chosen].data)
                paths = images.paths(start, stop)
                lines.writelines(_line(ids, start + row, paths[row]) for row in chosen.tolist())
                advance(len(chosen))
        made_by = table.provenance
    size = output.stat().st_size + listing.stat().st_size
    return DescriptorExport(output, listing, rows, table.dim, made_by.model, made_by.model_revision, size)


def _blocks(rows: int, dim: int) -> Iterator[tuple[int, int]]:
    each = max(1, _BLOCK // (4 * dim))
    return ((start, min(start + each, rows)) for start in range(0, rows, each))


def _checked(opened: file.Bundle, start: int, stop: int) -> Floats:
    vectors = opened.descriptors.read(start, stop)
    checksums = opened.descriptors.columns["crc32"].read(start, stop)
    for place, (row, checksum) in enumerate(zip(vectors, checksums.tolist(), strict=True)):
        if crc32(row) != checksum:
            reason = "its checksum does not match; the file was damaged: restore a copy, or embed the photos again"
            raise DamagedBundleError(opened.path, f"/descriptors row {start + place}", reason)
    return vectors


def _line(ids: Ids, row: int, path: bytes) -> bytes:
    return b"%d\t%s\n" % (int(ids[row]), tsv_field(path))
