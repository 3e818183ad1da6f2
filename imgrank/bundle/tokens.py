"""`/tokens/NAME`: a cache of the visual tokens of each image, ragged, in columns that a codec names.

This module does not know what the columns mean; it keeps, per image, how many tokens there are, the grid they come
from, how the image was cut into tiles, a status, and a CRC32 over the bytes of its rows, column after column.
"""

from __future__ import annotations

import json
import re
import struct
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import h5py
import numpy as np
import numpy.typing as npt

from imgrank.arrays import crc32, crc32_of_bytes
from imgrank.bundle import layout
from imgrank.bundle.attributes import set_text, text_attribute
from imgrank.bundle.checked import CheckedArrays, write_arrays
from imgrank.bundle.provenance import Provenance, write_provenance
from imgrank.bundle.table import ColumnView, append, append_ragged, create_columns, read_scattered
from imgrank.errors import DamagedBundleError, SettingsError
from imgrank.records import OK, status_of

Columns = dict[str, npt.NDArray[Any]]
Schema = dict[str, tuple[str, tuple[int, ...]]]
DAMAGED = status_of("damaged")
_ROW = struct.Struct("<4HB")  # grid, tiles, status


@dataclass(frozen=True)
class TokenColumn:
    """One array that has a row for each token."""

    name: str
    dtype: str
    tail: tuple[int, ...] = ()


@dataclass(frozen=True, eq=False)
class ImageTokens:
    """The stored tokens of one image, not yet decoded."""

    columns: Columns  # each (n_tokens, ...)
    grid: tuple[int, int] = (0, 0)  # rows, columns of a tile before pruning; (0, 0) where there is no grid
    status: int = OK
    tiles: tuple[int, int] = (1, 1)  # rows, columns of tiles


def schema_of(columns: Mapping[str, tuple[str, tuple[int, ...]]]) -> Schema:
    """Return the dtype, spelt in one way, and the shape of a row of each column."""
    return {name: (np.dtype(dtype).str, tuple(tail)) for name, (dtype, tail) in columns.items()}


def check_cache_name(name: str) -> str:
    """Return the name of a token cache if it can be one.

    Raises:
        SettingsError: empty, too long, or with other characters than letters, digits, dot, dash, underscore.
    """
    if not is_cache_name(name):
        raise SettingsError(
            f"cache name {name!r}: use letters, digits, '.', '_' and '-', at most {layout.MAX_CACHE_NAME} of them"
        )
    return name


def is_cache_name(name: str) -> bool:
    """Return whether a token cache, or a column of one, can have a name."""
    return len(name) <= layout.MAX_CACHE_NAME and re.fullmatch(r"[A-Za-z0-9_-][A-Za-z0-9._-]*", name) is not None


def create_tokens(
    root: h5py.File,
    name: str,
    kind: str,
    codec: str,
    columns: Iterable[TokenColumn],
    provenance: Provenance,
    *,
    codebooks: Columns | None = None,
) -> None:
    """Make an empty token cache.

    Args:
        root: the bundle, inside a transaction.
        name: of the cache.
        kind: "mllm" for visual tokens of a multimodal language model, "local" for local descriptors.
        codec: name of what encodes vectors into columns.
        columns: one row per token each.
        provenance: model and settings.
        codebooks: arrays of `layout.CODEBOOK_ARRAYS`, where the codec has any.
    """
    check_cache_name(name.removeprefix(layout.UNFINISHED))
    group = root.require_group(layout.TOKENS).create_group(name)
    create_columns(group, layout.TOKEN_IMAGE_COLUMNS)
    columns = tuple(columns)
    create_columns(
        group.create_group("columns"),
        [layout.Column(column.name, column.dtype, column.tail, layout.LARGE_CHUNK) for column in columns],
    )
    set_text(group, "kind", kind)
    set_text(group, "codec", codec)
    set_text(group, "columns", json.dumps([[column.name, column.dtype, list(column.tail)] for column in columns]))
    append(group["offsets"], [0])
    if codebooks is not None:
        write_arrays(group, layout.CODEBOOKS, codebooks)
    write_provenance(group, layout.TOKENS_VERSION, provenance)


def replace_tokens(root: h5py.File, incoming: str, name: str) -> None:
    """Give a complete cache its name, in the place of one that has it, inside a transaction."""
    caches = root[layout.TOKENS]
    if name in caches:
        del caches[name]
    caches.move(incoming, name)


def write_proof(root: h5py.File, name: str, arrays: Columns, facts: str) -> None:
    """Keep what the model said of some pairs before their tokens were compressed, inside a transaction.

    Args:
        root: the bundle.
        name: of the cache.
        arrays: of `layout.PROOF_ARRAYS`.
        facts: JSON: how the model was asked.
    """
    set_text(write_arrays(root[layout.TOKENS][name], layout.PROOF, arrays), "facts", facts)


def cached_rows(root: h5py.File, name: str) -> int | None:
    """Return how many image rows a cache covers, inside a transaction; None when there is no such cache."""
    group = root.get(f"{layout.TOKENS}/{name}")
    return None if group is None else int(group["crc32"].shape[0])


def append_tokens(root: h5py.File, name: str, images: Sequence[ImageTokens]) -> None:
    """Add the tokens of the next image rows, inside a transaction."""
    group = root[layout.TOKENS][name]
    order = [column[0] for column in json.loads(text_attribute(Path("bundle"), group, "columns"))]
    lengths = []
    for image in images:
        counts = {len(image.columns[column]) for column in order} if image.columns else {0}
        (count,) = counts
        lengths.append(count)
    append_ragged(group["offsets"], lengths)
    for column in order:
        dataset = group["columns"][column]
        rows = [np.asarray(image.columns[column], dtype=dataset.dtype) for image in images if image.columns]
        if rows:
            append(dataset, np.concatenate(rows))
    append(group["grid"], [image.grid for image in images])
    append(group["tiles"], [image.tiles for image in images])
    append(group["status"], [image.status for image in images])
    types = {column: group["columns"][column].dtype for column in order}
    append(
        group["crc32"],
        [tokens_checksum([np.asarray(image.columns[c], dtype=types[c]) for c in order if image.columns], image)
         for image in images],
    )  # fmt: skip


def tokens_checksum(columns: Iterable[npt.NDArray[Any]], image: ImageTokens) -> int:
    """Return the CRC32 of an image's row: grid, tiles, status, then its tokens, column after column in stored order."""
    value = crc32_of_bytes(_ROW.pack(*image.grid, *image.tiles, image.status))
    for column in columns:
        value = crc32(column, value)
    return value


@dataclass(frozen=True, eq=False)
class TokenTable:
    """`/tokens/NAME` of a frozen bundle."""

    path: Path
    name: str
    kind: str
    codec: str
    provenance: Provenance
    token_columns: tuple[TokenColumn, ...]
    images: dict[str, ColumnView]  # per image: offsets, grid, tiles, status, crc32
    columns: dict[str, ColumnView]  # per token
    codebooks: CheckedArrays | None = None
    proof: CheckedArrays | None = None
    version: int = layout.TOKENS_VERSION

    def __len__(self) -> int:
        """Return the number of image rows that have been cached, also those without tokens."""
        return len(self.images["crc32"])

    @cached_property
    def offsets(self) -> npt.NDArray[np.int64]:
        """Return (n + 1,) int64: image row i owns token rows [offsets[i], offsets[i + 1])."""
        offsets: npt.NDArray[np.int64] = self.images["offsets"].read().astype(np.int64)
        if len(offsets) == 0 or offsets[0] != 0 or np.any(np.diff(offsets) < 0):
            raise DamagedBundleError(self.path, f"/tokens/{self.name}/offsets", "does not ascend from 0")
        for name, view in self.columns.items():
            if len(view) != offsets[-1]:
                raise DamagedBundleError(self.path, f"/tokens/{self.name}/columns/{name}", "does not match the offsets")
        return offsets

    @property
    def schema(self) -> Schema:
        """Return the columns, to compare with others."""
        return schema_of({column.name: (column.dtype, column.tail) for column in self.token_columns})

    @property
    def checksums(self) -> npt.NDArray[np.uint32]:
        """Return (n,) uint32, the CRC32 of each image row's tokens."""
        checksums: npt.NDArray[np.uint32] = self._per_image[0]
        return checksums

    @cached_property
    def _per_image(self) -> tuple[npt.NDArray[Any], ...]:
        return tuple(self.images[name].read() for name in ("crc32", "grid", "tiles", "status"))

    def read(self, rows: Sequence[int], damaged: list[int] | None = None) -> list[ImageTokens]:
        """Read the tokens of image rows, in the order asked for.

        Rows are read in file order, whatever the order asked for: on a disk that is most of the time it takes.

        Args:
            rows: image rows; one that is not cached has no tokens.
            damaged: takes the rows whose checksums do not match, which then have no tokens; None raises at the first.

        Raises:
            DamagedBundleError: a checksum does not match.
        """
        wanted = np.asarray(rows, dtype=np.int64)
        result = [ImageTokens({})] * len(wanted)
        places = np.argsort(wanted, kind="stable")
        places = places[(wanted[places] >= 0) & (wanted[places] < len(self))]
        ordered = wanted[places]
        starts, stops = self.offsets[ordered], self.offsets[ordered + 1]
        columns = [read_scattered(view, starts, stops) for view in self.columns.values()]
        flat = [(rows.reshape(-1).view(np.uint8).data, view.row_bytes) for rows, view in self._with(columns)]
        names = list(self.columns)
        ends = np.cumsum(stops - starts)
        facts = zip(*(array[ordered].tolist() for array in self._per_image), strict=True)
        start = 0
        for place, stop, (checksum, grid, tiles, status) in zip(places.tolist(), ends.tolist(), facts, strict=True):
            own: Columns = {}
            # Version 1 kept no checksum of the facts.
            value = 0 if self.version < 2 else crc32_of_bytes(_ROW.pack(*grid, *tiles, status))
            if stop > start or self.version >= 2:
                for memory, size in flat:
                    value = crc32_of_bytes(memory[start * size : stop * size], value)
                if value != checksum and damaged is not None:
                    damaged.append(int(wanted[place]))
                    result[place] = ImageTokens({}, status=DAMAGED)
                    start = stop
                    continue
                if value != checksum:
                    raise DamagedBundleError(
                        self.path, f"/tokens/{self.name}, image row {wanted[place]}", "its checksum does not match; "
                        "the file was damaged: restore a copy, or make it again from the photos"
                    )  # fmt: skip
            if stop > start:
                own = dict(zip(names, [rows[start:stop] for rows in columns], strict=True))
            result[place] = ImageTokens(own, tuple(grid), status, tuple(tiles))
            start = stop
        return result

    def _with(self, columns: list[npt.NDArray[Any]]) -> Iterable[tuple[npt.NDArray[Any], ColumnView]]:
        return zip(columns, self.columns.values(), strict=True)
