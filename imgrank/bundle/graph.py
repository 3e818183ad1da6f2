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

from imgrank.arrays import Floats
from imgrank.bundle import layout
from imgrank.bundle.checked import CheckedArrays, write_arrays
from imgrank.bundle.provenance import Provenance, write_provenance

_INCOMING = "graph-incoming"
VECTORS = "vectors"  # of the nodes, where the graph is not over the descriptors themselves


def write_graph(root: h5py.File, arrays: Mapping[str, npt.NDArray[Any]], provenance: Provenance) -> None:
    """Put a graph in the place of the old one, inside a transaction.

    The new arrays are written before the old ones are unlinked: HDF5 would else put them into the old ones' bytes,
    which a reader that opened the file earlier may still be reading.
    """
    group = write_arrays(root, _INCOMING, {name: array for name, array in arrays.items() if array.ndim})
    for name, array in arrays.items():
        if not array.ndim:
            group.attrs[name] = array
    write_provenance(group, layout.GRAPH_VERSION if VECTORS in arrays else layout.PLAIN_GRAPH_VERSION, provenance)
    if layout.GRAPH in root:
        del root[layout.GRAPH]
    root.move(_INCOMING, layout.GRAPH)


@dataclass(frozen=True, eq=False)
class GraphTable:
    """`/graph` of a frozen bundle."""

    path: Path
    provenance: Provenance
    checked: CheckedArrays
    numbers: dict[str, int]  # what is a single number, kept as attributes

    @property
    def augmented(self) -> bool:
        """Return whether the graph is over vectors of its own."""
        return VECTORS in self.checked.columns

    def arrays(self) -> dict[str, npt.NDArray[Any]]:
        """Read all arrays but the vectors; numbers come as arrays without axes.

        Raises:
            DamagedBundleError: one does not match its checksum.
        """
        links = self.checked.read(set(self.checked.columns) - {VECTORS})
        return links | {name: np.array(number, np.int64) for name, number in self.numbers.items()}

    def vectors(self) -> Floats | None:
        """Read the vectors that the graph is over, (g, dim) float32 by node; None: the descriptors.

        Raises:
            DamagedBundleError: they do not match their checksum.
        """
        return self.checked.read({VECTORS})[VECTORS] if self.augmented else None
