"""Whole arrays with a CRC32 over the bytes of each: a graph, a projection, codebooks, a proof."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from imgrank.arrays import crc32
from imgrank.bundle import layout
from imgrank.bundle.attributes import int_attribute, text_attribute
from imgrank.bundle.storage import ReadFile
from imgrank.bundle.table import ColumnView, append, child_of, create_columns, view_columns
from imgrank.errors import DamagedBundleError


def write_arrays(parent: h5py.Group, name: str, arrays: Mapping[str, npt.NDArray[Any]]) -> h5py.Group:
    """Write arrays into a new group, inside a transaction, and return the group."""
    group = parent.create_group(name)
    for key, array in arrays.items():
        array = np.asarray(array, dtype=array.dtype.newbyteorder("<"))
        # They never grow, so a chunk need be no larger than the array.
        chunk = min(layout.LARGE_CHUNK, array.nbytes)
        create_columns(group, [layout.Column(key, array.dtype.str, array.shape[1:], chunk)])
        append(group[key], array)
        group[key].attrs["crc32"] = np.uint32(crc32(array))
    return group


@dataclass(frozen=True, eq=False)
class CheckedArrays:
    """A group of arrays in a frozen bundle."""

    path: Path
    name: str  # HDF5 path, for messages
    columns: dict[str, ColumnView]
    checksums: dict[str, int]
    advice: str  # what to do when one is damaged
    facts: str = ""  # JSON that belongs to them

    @property
    def size(self) -> int:
        """Return their bytes."""
        return sum(len(view) * view.row_bytes for view in self.columns.values())

    def read(self, names: Collection[str] | None = None) -> dict[str, npt.NDArray[Any]]:
        """Read some arrays, or all of them.

        Raises:
            DamagedBundleError: one does not match its checksum.
        """
        wanted = self.columns if names is None else names
        arrays = {name: view.read() for name, view in self.columns.items() if name in wanted}
        for name, array in arrays.items():
            if crc32(array) != self.checksums[name]:
                reason = f"does not match its checksum; the file was damaged: {self.advice}"
                raise DamagedBundleError(self.path, f"{self.name}/{name}", reason)
        return arrays


def view_arrays(file: ReadFile, group: h5py.Group, types: Mapping[str, tuple[str, int]], advice: str) -> CheckedArrays:
    """Check and locate the arrays of a group.

    Args:
        file: the frozen file.
        group: that holds them; arrays that are not there are left out.
        types: dtype and axes by name.
        advice: what to do when one is damaged.

    Raises:
        DamagedBundleError: one is of another type or shape.
    """
    path = file.path
    views: dict[str, ColumnView] = {}
    checksums: dict[str, int] = {}
    for name, (dtype, axes) in types.items():
        dataset = child_of(path, group, name)
        if dataset is None:
            continue
        if not isinstance(dataset, h5py.Dataset) or dataset.ndim != axes:
            raise DamagedBundleError(path, f"{group.name}/{name}", f"is not an array of {axes} axes")
        views |= view_columns(file, group, [layout.Column(name, dtype, dataset.shape[1:])])
        checksums[name] = int_attribute(path, dataset, "crc32")
    return CheckedArrays(path, group.name, views, checksums, advice, text_attribute(path, group, "facts", ""))
