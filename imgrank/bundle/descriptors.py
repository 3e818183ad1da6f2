"""`/descriptors`: one unit vector per image row; zeros where the photo could not be decoded."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt

from imgrank.arrays import Floats, Ids, crc32, crc32_of_bytes
from imgrank.bundle import layout
from imgrank.bundle.attributes import set_text
from imgrank.bundle.checked import CheckedArrays, write_arrays
from imgrank.bundle.provenance import Provenance, digest_of, write_provenance
from imgrank.bundle.table import ColumnView, append, create_columns, read_scattered
from imgrank.errors import DamagedBundleError

ProjectionArrays = tuple[Floats, Floats, Floats | None]  # mean, basis, bias


def create_descriptors(
    root: h5py.File,
    dim: int,
    provenance: Provenance,
    projection: ProjectionArrays | None = None,
    *,
    imported_from: str = "",
) -> None:
    """Make an empty `/descriptors`.

    Args:
        root: the bundle, inside a transaction.
        dim: numbers in a descriptor.
        provenance: encoder and settings.
        projection: as `DescriptorTable.projection` returns it, where descriptors went through one.
        imported_from: layout of the file that the descriptors come from, where they were not computed here.
    """
    group = root.create_group(layout.DESCRIPTORS)
    create_columns(group, layout.descriptor_columns(dim))
    arrays = {} if projection is None else dict(zip(layout.PROJECTION_ARRAYS, projection, strict=True))
    if arrays.get("bias") is None:
        arrays.pop("bias", None)
    # A reader that knows no bias would compute other descriptors of query photos, so it must stop.
    version = layout.DESCRIPTORS_VERSION if "bias" in arrays else layout.PLAIN_DESCRIPTORS_VERSION
    write_provenance(group, version, provenance)
    if imported_from:
        set_text(group, layout.IMPORTED_ATTRIBUTE, imported_from)
    if arrays:
        write_arrays(group, layout.PROJECTION, {name: array for name, array in arrays.items() if array is not None})


def append_descriptors(root: h5py.File, descriptors: Floats) -> None:
    """Add (n, dim) float32 descriptors inside a transaction; their rows are the next image rows."""
    group = root[layout.DESCRIPTORS]
    append(group["vectors"], descriptors)
    append(group["crc32"], [crc32(row.astype("<f4")) for row in descriptors])


@dataclass(frozen=True, eq=False)
class DescriptorTable:
    """`/descriptors` of a frozen bundle."""

    path: Path
    provenance: Provenance
    columns: dict[str, ColumnView]
    projection_arrays: CheckedArrays | None = None
    imported_from: str = ""  # layout of the file they come from; empty: they were computed here

    def __len__(self) -> int:
        """Return the number of rows."""
        return len(self.columns["vectors"])

    @property
    def dim(self) -> int:
        """Return the numbers in one descriptor."""
        return self.columns["vectors"].shape[1]

    def read(self, start: int = 0, stop: int | None = None) -> Floats:
        """Read rows [start, stop) as (n, dim) float32.

        Raises:
            DamagedBundleError: a row does not match its checksum, or is not finite.
        """
        vectors = self.columns["vectors"].read(start, stop)
        return self._checked(vectors, self.columns["crc32"].read(start, stop), start)

    def read_rows(self, rows: Ids) -> Floats:
        """Read scattered rows, (n,) int64, as (n, dim) float32; raises as `read` does."""
        vectors, checksums = (read_scattered(self.columns[name], rows, rows + 1) for name in ("vectors", "crc32"))
        return self._checked(vectors, checksums, rows)

    def damaged(self, start: int, stop: int) -> Ids:
        """Return the rows in [start, stop) that do not match their checksums."""
        vectors, checksums = (self.columns[name].read(start, stop) for name in ("vectors", "crc32"))
        return start + np.array(list(self._mismatches(vectors, checksums)), dtype=np.int64)

    def _mismatches(self, vectors: Floats, checksums: npt.NDArray[np.uint32]) -> Iterator[int]:
        size = self.columns["vectors"].row_bytes
        memory = vectors.reshape(-1).view(np.uint8).data
        for place, checksum in enumerate(checksums.tolist()):
            if crc32_of_bytes(memory[place * size : (place + 1) * size]) != checksum:
                yield place

    def _checked(self, vectors: Floats, checksums: npt.NDArray[np.uint32], rows: Ids | int) -> Floats:
        for place in self._mismatches(vectors, checksums):
            row = rows + place if isinstance(rows, int) else rows[place]
            reason = "its checksum does not match; the file was damaged: restore a copy, or see `imgrank check`"
            raise DamagedBundleError(self.path, f"/descriptors/vectors row {row}", reason)
        # A NaN or infinity anywhere makes the sum of its row not finite: one pass without a mask of the same size.
        if not np.isfinite(vectors.sum(axis=1, dtype=np.float64)).all():
            raise DamagedBundleError(self.path, "/descriptors/vectors", "holds NaN or infinity; the file was damaged")
        return vectors

    def projection(self) -> ProjectionArrays | None:
        """Return mean (raw_dim,), basis (raw_dim, dim) and bias (dim,) of the projection, if there is one.

        The bias is None where it has none.

        Raises:
            DamagedBundleError: an array does not match its checksum.
        """
        if self.projection_arrays is None:
            return None
        arrays = self.projection_arrays.read()
        return arrays["mean"], arrays["basis"], arrays.get("bias")

    def digest(self, images_digest: str) -> str:
        """Return what a graph over these descriptors was computed from.

        Args:
            images_digest: `ImageTable.content_digest` of the rows the graph covers.
        """
        return digest_of(
            [images_digest, self.provenance.model, self.provenance.model_revision, self.provenance.settings]
        )
