"""The structure of a bundle: what HDF5 says is in the file, checked, and where each part lies.

Nothing is believed: links are not followed, and every shape and type is compared with `layout` before it is used.
"""

from __future__ import annotations

import contextlib
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeVar

import h5py
import numpy as np

from imgrank.bundle import layout
from imgrank.bundle.attributes import bytes_attribute, int_attribute, text_attribute
from imgrank.bundle.calibration import CalibrationTable, parse_calibration
from imgrank.bundle.checked import view_arrays
from imgrank.bundle.descriptors import DescriptorTable
from imgrank.bundle.graph import VECTORS, GraphTable
from imgrank.bundle.images import ImageTable
from imgrank.bundle.provenance import check_version, read_provenance
from imgrank.bundle.storage import ReadFile
from imgrank.bundle.table import child_of, same_length, view_columns
from imgrank.bundle.thumbnails import ThumbnailTable
from imgrank.bundle.tokens import TokenColumn, TokenTable, is_cache_name
from imgrank.errors import BundleError, DamagedBundleError, FormatVersionError, NotABundleError

Part = TypeVar("Part")


@dataclass(frozen=True, eq=False)
class Structure:
    """The parts of a frozen bundle."""

    path: Path
    file: ReadFile
    version: int  # of the format
    bundle_id: str
    created_by: str
    images: ImageTable
    descriptor_table: DescriptorTable | None
    graph_table: GraphTable | None
    token_tables: dict[str, TokenTable]
    unfinished: dict[str, TokenTable]  # caches that are to take the place of others
    calibrations: dict[str, CalibrationTable]
    thumbnail_table: ThumbnailTable | None


@contextlib.contextmanager
def hdf5_errors(path: Path) -> Iterator[None]:
    """Turn what h5py raises on a malformed file into a typed error."""
    try:
        yield
    except (
        OSError,
        RuntimeError,
        KeyError,
        ValueError,
        TypeError,
        UnicodeDecodeError,
        OverflowError,
        RecursionError,
    ) as error:
        raise DamagedBundleError(path, "HDF5 structure", f"cannot be read ({error}); restore a copy") from error


def parse_structure(
    path: Path, file: ReadFile, root: h5py.File, faults: dict[str, BundleError] | None = None
) -> Structure:
    """Check and locate the parts of an open file.

    Args:
        path: of the bundle.
        file: frozen.
        root: the same, open in HDF5.
        faults: takes the parts, all but the photos, that cannot be read, by HDF5 path; they are then as if they were
            not there. None raises at the first.

    Raises:
        NotABundleError, FormatVersionError, DamagedBundleError: see `imgrank.bundle.file.read`.
    """
    if text_attribute(path, root, "format", "") != layout.FORMAT_NAME:
        raise NotABundleError(path, "an HDF5 file, but not an imgrank bundle (no `format` attribute)")
    version = int_attribute(path, root, "format-version")
    if version > layout.FORMAT_VERSION:
        raise FormatVersionError(path, "the bundle format", version, layout.FORMAT_VERSION)
    images = _parse_images(path, file, root)
    rows = len(images)

    def part(name: str, parse_it: Callable[[], Part | None]) -> Part | None:
        """Parse a part that the rest can do without; where faults are collected, one that fails is as if not there."""
        try:
            with hdf5_errors(path):
                return parse_it()
        except BundleError as error:
            if faults is None:
                raise
            faults[name] = error
            return None

    tables: dict[str, TokenTable] = {}
    caches = part(f"/{layout.TOKENS}", lambda: _child(path, root, layout.TOKENS))
    for name in part(f"/{layout.TOKENS}", lambda: _names(path, caches, "cache", layout.MAX_CACHES)) or []:
        table = part(f"/{layout.TOKENS}/{name}", lambda name=name: _parse_cache(path, file, caches, name, rows))  # type: ignore[misc]
        if table is not None:
            tables[name] = table
    unfinished = {name: tables.pop(name) for name in list(tables) if name.startswith(layout.UNFINISHED)}
    calibrations: dict[str, CalibrationTable] = {}
    where = f"/{layout.CALIBRATION}"
    kept = part(where, lambda: _child(path, root, layout.CALIBRATION))
    for name in part(where, lambda: _names(path, kept, "calibration", layout.MAX_CALIBRATIONS)) or []:
        one = part(f"{where}/{name}", lambda name=name: _parse_calibration(path, file, kept, name))  # type: ignore[misc]
        if one is not None:
            calibrations[name] = one
    return Structure(
        path=path,
        file=file,
        version=version,
        bundle_id=text_attribute(path, root, "bundle-id"),
        created_by=text_attribute(path, root, "created-by"),
        images=images,
        descriptor_table=part(f"/{layout.DESCRIPTORS}", lambda: _parse_descriptors(path, file, root, rows)),
        graph_table=part(f"/{layout.GRAPH}", lambda: _parse_graph(path, file, root)),
        token_tables=tables,
        unfinished=unfinished,
        calibrations=calibrations,
        thumbnail_table=part(f"/{layout.THUMBNAILS}", lambda: _parse_thumbnails(path, file, root, rows)),
    )


def _names(path: Path, group: h5py.Group | None, kind: str, most: int) -> list[str]:
    """Return the names of the caches or calibrations of a group, each of which can be one."""
    if group is None:
        return []
    if len(group) > most:
        raise DamagedBundleError(path, group.name, f"holds {len(group)} {kind}s, at most {most} can be")
    names = [str(name) for name in group]
    for name in names:
        if not is_cache_name(name.removeprefix(layout.UNFINISHED)):
            raise DamagedBundleError(path, group.name, f"has a {kind} {name!r}, which cannot be the name of one")
    return names


def _child(path: Path, parent: h5py.Group, name: str) -> h5py.Group | None:
    """Return a subgroup, None when there is none; links that lead elsewhere are refused."""
    group = child_of(path, parent, name)
    if group is not None and not isinstance(group, h5py.Group):
        raise DamagedBundleError(path, f"{parent.name.rstrip('/')}/{name}", "is not a plain group")
    return group


def _parse_images(path: Path, file: ReadFile, root: h5py.File) -> ImageTable:
    group = _child(path, root, layout.IMAGES)
    if group is None:
        raise DamagedBundleError(path, f"/{layout.IMAGES}", "missing")
    images_version = check_version(path, group, layout.IMAGES_VERSION)
    views = view_columns(file, group, layout.IMAGE_COLUMNS)
    rows = len(views["id"])
    if rows > layout.MAX_IMAGES:
        raise DamagedBundleError(path, f"/{layout.IMAGES}", f"claims {rows} images")
    per_image = {name: view for name, view in views.items() if name not in ("path-offsets", "path-bytes")}
    same_length(file, layout.IMAGES, per_image, rows)
    if len(views["path-offsets"]) != rows + 1:
        raise DamagedBundleError(path, f"/{layout.IMAGES}/path-offsets", f"should have {rows + 1} rows")
    root_path = bytes_attribute(path, group, "root", layout.MAX_ROOT)
    return ImageTable(path, root_path, int_attribute(path, group, "next-id"), views, images_version)


def _parse_descriptors(path: Path, file: ReadFile, root: h5py.File, rows: int) -> DescriptorTable | None:
    group = _child(path, root, layout.DESCRIPTORS)
    if group is None:
        return None
    provenance = read_provenance(path, group, layout.DESCRIPTORS_VERSION)
    vectors = child_of(path, group, "vectors")
    shape = vectors.shape if isinstance(vectors, h5py.Dataset) else None
    dim = shape[1] if shape is not None and len(shape) == 2 else 0
    if not 0 < dim <= layout.MAX_DIM:
        raise DamagedBundleError(path, f"/{layout.DESCRIPTORS}/vectors", f"has shape {shape}")
    views = view_columns(file, group, layout.descriptor_columns(dim))
    same_length(file, layout.DESCRIPTORS, views, rows)
    origin = text_attribute(path, group, layout.IMPORTED_ATTRIBUTE, "")
    inner = _child(path, group, layout.PROJECTION)
    if inner is None:
        return DescriptorTable(path, provenance, views, imported_from=origin)
    advice = "restore a copy, or index the photos into a new file"
    arrays = view_arrays(file, inner, layout.PROJECTION_ARRAYS, advice)
    shapes = {name: view.shape for name, view in arrays.columns.items()}
    fits = "mean" in shapes and shapes.get("basis") == (*shapes["mean"], dim)
    if not fits or shapes.get("bias", (dim,)) != (dim,):
        raise DamagedBundleError(path, inner.name, f"has arrays of shape {shapes}; {advice}")
    return DescriptorTable(path, provenance, views, arrays, origin)


def _parse_graph(path: Path, file: ReadFile, root: h5py.File) -> GraphTable | None:
    group = _child(path, root, layout.GRAPH)
    if group is None:
        return None
    provenance = read_provenance(path, group, layout.GRAPH_VERSION)
    types: dict[str, tuple[str, int]] = {}
    for name in list(group)[:32]:  # a graph is a handful of arrays
        dataset = child_of(path, group, name)
        kinds = "f" if name == VECTORS else "iu"
        if not isinstance(dataset, h5py.Dataset) or dataset.ndim not in (1, 2) or dataset.dtype.kind not in kinds:
            raise DamagedBundleError(path, f"/{layout.GRAPH}/{name}", "is not an array of such numbers")
        types[name] = (dataset.dtype.str, dataset.ndim) if name != VECTORS else ("<f4", 2)
    checked = view_arrays(file, group, types, "run `imgrank index` to build it again")
    own = {layout.VERSION_ATTRIBUTE, *layout.PROVENANCE_ATTRIBUTES}
    numbers = {name: int_attribute(path, group, name) for name in list(group.attrs)[:64] if name not in own}
    return GraphTable(path, provenance, checked, numbers)


def _parse_cache(path: Path, file: ReadFile, caches: h5py.Group, name: str, rows: int) -> TokenTable:
    where = f"/{layout.TOKENS}/{name}"
    group = _child(path, caches, name)
    columns_group = _child(path, group, "columns") if group is not None else None
    if group is None or columns_group is None:
        raise DamagedBundleError(path, where, "has no columns")
    provenance = read_provenance(path, group, layout.TOKENS_VERSION)
    images = view_columns(file, group, layout.TOKEN_IMAGE_COLUMNS)
    cached = len(images["crc32"])
    same_length(file, where[1:], {key: view for key, view in images.items() if key != "offsets"}, cached)
    if len(images["offsets"]) != cached + 1 or cached > rows:
        raise DamagedBundleError(path, f"{where}/offsets", "does not match the images")
    token_columns = _token_columns(path, where, text_attribute(path, group, "columns"))
    columns = view_columns(file, columns_group, [layout.Column(c.name, c.dtype, c.tail) for c in token_columns])
    codebooks, proof = _child(path, group, layout.CODEBOOKS), _child(path, group, layout.PROOF)
    advice = "restore a copy, or make the cache again with `imgrank cache-tokens --overwrite`"
    return TokenTable(
        path=path,
        name=name,
        kind=text_attribute(path, group, "kind"),
        codec=text_attribute(path, group, "codec"),
        provenance=provenance,
        token_columns=token_columns,
        images=images,
        columns=columns,
        codebooks=None if codebooks is None else view_arrays(file, codebooks, layout.CODEBOOK_ARRAYS, advice),
        proof=None if proof is None else view_arrays(file, proof, layout.PROOF_ARRAYS, advice),
        version=int_attribute(path, group, layout.VERSION_ATTRIBUTE),
    )


def _parse_calibration(path: Path, file: ReadFile, kept: h5py.Group, name: str) -> CalibrationTable:
    group = _child(path, kept, name)
    if group is None:
        raise DamagedBundleError(path, f"/{layout.CALIBRATION}/{name}", "missing")
    return parse_calibration(path, file, group, name)


def _parse_thumbnails(path: Path, file: ReadFile, root: h5py.File, rows: int) -> ThumbnailTable | None:
    group = _child(path, root, layout.THUMBNAILS)
    if group is None:
        return None
    provenance = read_provenance(path, group, layout.THUMBNAILS_VERSION)
    views = view_columns(file, group, layout.THUMBNAIL_COLUMNS)
    kept = len(views["crc32"])
    same_length(file, layout.THUMBNAILS, {name: views[name] for name in ("width", "height")}, kept)
    if len(views["offsets"]) != kept + 1 or kept > rows:
        raise DamagedBundleError(path, f"/{layout.THUMBNAILS}/offsets", "does not match the images")
    return ThumbnailTable(path, provenance, views)


def _token_columns(path: Path, where: str, text: str) -> tuple[TokenColumn, ...]:
    """Read the attribute that lists the columns: few, of plain numbers."""
    try:
        listed = json.loads(text)
        columns = tuple(TokenColumn(str(name), str(dtype), tuple(map(int, tail))) for name, dtype, tail in listed)
        types = [np.dtype(column.dtype) for column in columns]
    except (ValueError, TypeError, RecursionError) as error:
        raise DamagedBundleError(path, f"{where}@columns", f"cannot be read ({error})") from error
    plain = all(dtype.kind in "iuf" and dtype.isnative and dtype.subdtype is None for dtype in types)
    small = len(columns) <= layout.MAX_COLUMNS and all(
        len(column.tail) <= 2 and all(0 < size <= layout.MAX_DIM for size in column.tail) for column in columns
    )
    names = {column.name for column in columns}
    if not plain or not small or len(names) != len(columns) or not all(map(is_cache_name, names)):
        raise DamagedBundleError(path, f"{where}@columns", "lists what cannot be columns of tokens")
    return columns
