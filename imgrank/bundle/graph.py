"""`/graph`: the links of a neighbour graph as plain integer arrays, without the vectors.

This module does not know what the arrays mean: `imgrank.index` makes and checks them.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from imgrank.arrays import crc32
from imgrank.bundle import layout
from imgrank.bundle.provenance import Provenance, write_provenance
from imgrank.bundle.table import ColumnView, append, create_columns
from imgrank.errors import DamagedBundleError

_INCOMING = "graph-incoming"


def write_graph(root: h5py.File, arrays: Mapping[str, npt.NDArray[Any]], provenance: Provenance) -> None:
    """Put a graph in the place of the old one, inside a transaction.

    The new arrays are written before the old ones are unlinked: HDF5 would else put them into the old ones' bytes,
    which a reader that opened the file earlier may still be reading.
    """
    group = root.create_group(_INCOMING)
    for name, array in arrays.items():
        if array.ndim == 0:
            group.attrs[name] = array
            continue
        column = layout.Column(name, array.dtype.newbyteorder("<").str, array.shape[1:], layout.LARGE_CHUNK)
        create_columns(group, [column])
        append(group[name], array)
        group[name].attrs["crc32"] = np.uint32(crc32(array))
    write_provenance(group, layout.GRAPH_VERSION, provenance)
    if layout.GRAPH in root:
        del root[layout.GRAPH]
    root.move(_INCOMING, layout.GRAPH)


@dataclass(frozen=True, eq=False)
class GraphTable:
    """`/graph` of a frozen bundle."""

    path: Path
    provenance: Provenance
    columns: dict[str, ColumnView]
    numbers: dict[str, int]  # what is a single number, kept as attributes
    checksums: dict[str, int]

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Read all arrays; numbers come as arrays without axes.

        Raises:
            DamagedBundleError: one does not match its checksum.
        """
        arrays = {name: view.read() for name, view in self.columns.items()}
        for name, array in arrays.items():
            if crc32(array) != self.checksums[name]:
                raise DamagedBundleError(
                    self.path,
                    f"/graph/{name}",
                    "does not match its checksum; run `imgrank index` to build it again",
                )
        return arrays | {name: np.array(number, dtype=np.int64) for name, number in self.numbers.items()}
