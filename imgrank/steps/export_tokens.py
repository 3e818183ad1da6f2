"""`export tokens`: a token cache of a bundle in, decoded vectors in a safetensors file out."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Protocol

import numpy as np
import numpy.typing as npt

from imgrank.arrays import Floats, Ids
from imgrank.bundle import file
from imgrank.bundle.tokens import TokenTable
from imgrank.errors import InputError, MissingGroupError, SettingsError
from imgrank.local.features import DIM, LocalFeatures
from imgrank.progress import SILENT, Reporter
from imgrank.records import OK
from imgrank.results import tsv_field
from imgrank.steps.export_descriptors import LIST_HEADER
from imgrank.steps.features import kept_settings, stored_codebooks
from imgrank.steps.outputs import check_free, check_output, replacing
from imgrank.steps.tensor_file import TensorFile
from imgrank.tokens.recipe import codec_of
from imgrank.tokens.scalar import FLOAT16_MAX

VectorType = Literal["float16", "float32"]
CONTENTS, LAYOUT_VERSION = "imgrank tokens", "1"
_PART = 32 * 2**20  # bytes of float32 vectors in memory


@dataclass(frozen=True)
class TokenExport:
    """What `export_tokens` wrote."""

    output: Path
    listing: Path
    cache: str
    images: int
    tokens: int
    shape: tuple[int, ...]  # of one token's vectors
    bytes: int  # of both files


class _Decoder(Protocol):
    """Turns the columns of a cache into tensors that have a row for each token."""

    shape: tuple[int, ...]  # of one row of `vectors`
    places: tuple[str, str, tuple[int, ...]]  # name, dtype and shape of a row of the tensor that says where tokens are

    def decode(self, columns: dict[str, npt.NDArray[Any]]) -> tuple[Floats, npt.NDArray[Any]]:
        """Return float32 vectors, and places."""


class _Visual:
    places: tuple[str, str, tuple[int, ...]] = ("positions", "uint16", (3,))

    def __init__(self, table: TokenTable) -> None:
        self._codec = codec_of(kept_settings(table.provenance), stored_codebooks(table))
        none = {name: view.read(0, 0) for name, view in table.columns.items()}
        self.shape: tuple[int, ...] = self.decode(none)[0].shape[1:]

    def decode(self, columns: dict[str, npt.NDArray[Any]]) -> tuple[Floats, npt.NDArray[Any]]:
        columns = dict(columns)
        positions = columns.pop("position")
        return self._codec.decode(columns), positions


class _Local:
    shape: tuple[int, ...] = (DIM,)
    places: tuple[str, str, tuple[int, ...]] = ("keypoints", "float32", (4,))

    def decode(self, columns: dict[str, npt.NDArray[Any]]) -> tuple[Floats, npt.NDArray[Any]]:
        features = LocalFeatures.from_columns(columns)
        return features.numbers(), features.keypoints


def export_tokens(
    bundle: Path,
    output: Path,
    *,
    cache: str | None = None,
    dtype: VectorType = "float16",
    force: bool = False,
    reporter: Reporter = SILENT,
) -> TokenExport:
    """Write the tokens of the photos with status ok, decoded, part by part.

    The file holds these tensors, for m photos with t tokens (docs/exchange.md):

    - `id` (m,) int64, of the photos, ascending;
    - `offsets` (m + 1,) int64: photo i owns rows offsets[i] : offsets[i + 1] of what follows;
    - `vectors` (t, levels, hidden) of `dtype`, or (t, 48) whole numbers for local features;
    - `positions` (t, 3) uint16: tile, row, column before pruning; for local features `keypoints` (t, 4) float32: x, y
      and size in units of the photo's longer side, angle in degrees;
    - `grid` (m, 2) and `tiles` (m, 2) uint16.

    Memory grows by 41 bytes a photo.

    Args:
        bundle: with a token cache.
        output: OUT.safetensors; OUT.tsv beside it gets the ids and paths.
        cache: name; None takes the only cache of visual tokens, or the local features where there is none.
        dtype: of the vectors.
        force: replace files that are there.
        reporter: hears of progress.

    Raises:
        SettingsError: there are several caches and none was named; a file is there already; another ending.
        MissingGroupError: there is no such cache.
        DamagedBundleError: tokens fail their checksum.
        InputError: a number is too large for float16.
    """
    listing = output.with_suffix(".tsv")
    check_output(output, ".safetensors", force=force)
    check_free(listing, force=force)
    with file.read(bundle) as opened:
        table = chosen_cache(opened, cache)
        decoder: _Decoder = _Local() if table.kind == "local" else _Visual(table)
        ok = (opened.images.statuses()[: len(table)] == OK) & (table.images["status"].read() == OK)
        rows: Ids = np.flatnonzero(ok)
        counts = np.diff(table.offsets)[rows]
        tokens = int(counts.sum())
        places, kind, tail = decoder.places
        tensors = {
            "id": ("int64", (len(rows),)),
            "offsets": ("int64", (len(rows) + 1,)),
            "vectors": (dtype, (tokens, *decoder.shape)),
            places: (kind, (tokens, *tail)),
            "grid": ("uint16", (len(rows), 2)),
            "tiles": ("uint16", (len(rows), 2)),
        }
        with (
            reporter.bar(len(rows), "export", "photo") as advance,
            replacing(output) as tensors_new,  # takes its name last: where it is, the list is
            replacing(listing) as listing_new,
            TensorFile(tensors_new, tensors, _metadata(table)) as written,
            listing_new.open("wb") as lines,
        ):
            ids = opened.images.ids()[rows]
            written.append("id", ids)
            written.append("offsets", np.concatenate([[0], np.cumsum(counts)]))
            lines.write(LIST_HEADER)
            for start, stop in _parts(counts, int(np.prod(decoder.shape))):
                part = rows[start:stop].tolist()
                paths = opened.images.paths(part[0], part[-1] + 1)
                for row, image_id, image in zip(part, ids[start:stop].tolist(), table.read(part), strict=True):
                    if image.columns:
                        vectors, where = decoder.decode(image.columns)
                        written.append("vectors", _narrowed(vectors, dtype, paths[row - part[0]]))
                        written.append(places, where)
                    written.append("grid", np.array(image.grid))
                    written.append("tiles", np.array(image.tiles))
                    lines.write(b"%d\t%s\n" % (image_id, tsv_field(paths[row - part[0]])))
                    advance(1)
    size = output.stat().st_size + listing.stat().st_size
    return TokenExport(output, listing, table.name, len(rows), tokens, decoder.shape, size)


def chosen_cache(bundle: file.Bundle, cache: str | None) -> TokenTable:
    """Return a token cache: the one that is named, or the only one of visual tokens, or of local features.

    Raises:
        SettingsError: there are several.
        MissingGroupError: there is no such one.
    """
    if cache is not None:
        return bundle.tokens(cache)
    tables = bundle.token_tables.values()
    suited = [table for table in tables if table.kind == "mllm"] or list(tables)
    if not suited:
        raise MissingGroupError(bundle.path, "tokens", f"imgrank cache-tokens {bundle.path}")
    if len(suited) > 1:
        names = ", ".join(sorted(table.name for table in suited))
        raise SettingsError(f"{bundle.path} has several token caches ({names}); choose one with --cache")
    return suited[0]


def _parts(counts: Ids, numbers: int) -> Iterator[tuple[int, int]]:
    """Cut photos into parts whose tokens fit into `_PART`, one photo at least and at most 1024."""
    most = max(1, _PART // (4 * numbers))
    start = held = 0
    for place, count in enumerate(counts.tolist()):
        if place > start and (held + count > most or place - start == 1024):
            yield start, place
            start, held = place, 0
        held += count
    if start < len(counts):
        yield start, len(counts)


def _narrowed(vectors: Floats, dtype: VectorType, path: bytes) -> npt.NDArray[Any]:
    if dtype == "float16" and len(vectors) and np.abs(vectors).max() > FLOAT16_MAX:
        from imgrank.images.scan import display

        raise InputError(f"a token of {display(path)} holds a number too large for float16; give --dtype float32")
    return vectors.astype(dtype)


def _metadata(table: TokenTable) -> dict[str, str]:
    provenance = table.provenance
    return {
        "contents": CONTENTS,
        "version": LAYOUT_VERSION,
        "cache": table.name,
        "kind": table.kind,
        "codec": table.codec,
        "model": provenance.model,
        "model-revision": provenance.model_revision,
        "settings": provenance.settings,
        "created-by": provenance.created_by,
    }
