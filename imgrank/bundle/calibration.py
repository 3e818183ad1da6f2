"""`/calibration/NAME`: a map from what a second stage says of a pair to a probability, one for each way of scoring.

This module does not know what the arrays mean: `imgrank.rerank.calibration` makes and checks maps.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy.typing as npt

from imgrank.bundle import layout
from imgrank.bundle.attributes import set_text, text_attribute
from imgrank.bundle.checked import CheckedArrays, view_arrays, write_arrays
from imgrank.bundle.provenance import Provenance, read_provenance, write_provenance
from imgrank.bundle.storage import ReadFile
from imgrank.errors import DamagedBundleError

_INCOMING = "calibration-incoming"
_WAY = "way"


def write_calibration(
    root: h5py.File, name: str, arrays: Mapping[str, npt.NDArray[Any]], provenance: Provenance, way: str
) -> None:
    """Put a calibration in the place of one of that name, inside a transaction.

    Args:
        root: the bundle.
        name: of the calibration, as a cache may be called.
        arrays: of `layout.CALIBRATION_ARRAYS`.
        provenance: what scored, and what was measured.
        way: what tells this way of scoring apart from others.
    """
    # Written before the old one is unlinked: HDF5 would else put it into bytes that a reader may still be reading.
    group = write_arrays(root, _INCOMING, arrays)
    write_provenance(group, layout.CALIBRATION_VERSION, provenance)
    set_text(group, _WAY, way)
    own = root.require_group(layout.CALIBRATION)
    if name in own:
        del own[name]
    root.move(_INCOMING, f"{layout.CALIBRATION}/{name}")


def delete_calibration(root: h5py.File, name: str) -> None:
    """Take a calibration out, inside a transaction; it need not be sound."""
    del root[layout.CALIBRATION][name]


@dataclass(frozen=True, eq=False)
class CalibrationTable:
    """`/calibration/NAME` of a frozen bundle."""

    path: Path
    name: str
    provenance: Provenance
    way: str
    arrays: CheckedArrays

    @property
    def part(self) -> str:
        """Return its HDF5 path."""
        return f"/{layout.CALIBRATION}/{self.name}"


def parse_calibration(path: Path, file: ReadFile, group: h5py.Group, name: str) -> CalibrationTable:
    """Check and locate a calibration.

    Raises:
        FormatVersionError: a newer imgrank wrote it.
        DamagedBundleError: its attributes or arrays are not what they should be.
    """
    provenance = read_provenance(path, group, layout.CALIBRATION_VERSION)
    advice = calibration_advice(path, name)
    arrays = view_arrays(file, group, layout.CALIBRATION_ARRAYS, advice)
    for key, view in arrays.columns.items():
        if not 0 < len(view) <= layout.MAX_KNOTS:
            raise DamagedBundleError(path, f"{group.name}/{key}", f"has {len(view)} rows; {advice}")
    return CalibrationTable(path, name, provenance, text_attribute(path, group, _WAY), arrays)


def calibration_advice(path: Path, name: str) -> str:
    """Return what to do about a damaged calibration."""
    return f"take it out with `imgrank calibrate {path} --remove {name}`, and learn it again"
