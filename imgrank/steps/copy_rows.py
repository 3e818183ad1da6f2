"""Copying photos of bundles into a new one: their rows, descriptors and tokens, as they are stored.

`compact`, `merge` and `split` are this with other rows. The new bundle grows beside its place and appears there, whole,
when its graph is built.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence, Set
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from imgrank.arrays import Ids
from imgrank.bundle import file
from imgrank.bundle.calibration import write_calibration
from imgrank.bundle.descriptors import append_descriptors, create_descriptors
from imgrank.bundle.images import append_images, set_next_id
from imgrank.bundle.incoming import incoming
from imgrank.bundle.thumbnails import append_thumbnails, create_thumbnails
from imgrank.bundle.tokens import DAMAGED, ImageTokens, TokenTable, append_tokens, create_tokens, write_proof
from imgrank.config import GraphSettings
from imgrank.errors import InputError
from imgrank.progress import SILENT, Advance, Reporter
from imgrank.steps.build_index import GraphState, build_index
from imgrank.steps.proof import joined, read_proof

PART = 1024  # rows of one commit
_ROOM = 1.05  # of the bytes that are copied, so much must be free

_LOST = ImageTokens({}, status=DAMAGED)

PathOf = Callable[[bytes], bytes]


@dataclass(frozen=True, eq=False)
class Source:
    """What is taken of one bundle.

    Attributes:
        bundle: open.
        rows: (n,) int64 image rows, ascending.
        ids: (n,) int64, the ids they get.
        path_of: makes a stored path of the new bundle of one of this.
    """

    bundle: file.Bundle
    rows: Ids
    ids: Ids
    path_of: PathOf


def as_it_is(path: bytes) -> bytes:
    """Return a stored path: for a bundle whose root stays."""
    return path


def copy_bundle(
    target: Path,
    sources: Sequence[Source],
    *,
    root: bytes,
    caches: Sequence[str],
    calibrations: Sequence[str] | None = None,
    bundle_id: str | None = None,
    next_id: int | None = None,
    damaged_tokens: Mapping[str, Set[int]] | None = None,
    without_proof: Set[str] = frozenset(),
    damaged_thumbnails: Set[int] = frozenset(),
    with_graph: bool | None = None,
    reporter: Reporter = SILENT,
) -> None:
    """Make a bundle of rows of others; thumbnails go along where all of them have some of one kind.

    Args:
        target: where it goes; what is there is replaced in the end.
        sources: whose descriptors and caches fit together; ids ascend over all of them.
        root: as it is stored.
        caches: token caches to copy, which all sources have.
        calibrations: to copy from the first source; None: all that it has.
        bundle_id: None draws one.
        next_id: None is one more than the last.
        damaged_tokens: name of a cache -> rows of the one source whose tokens are left out.
        without_proof: caches whose proofs are left out.
        damaged_thumbnails: rows of the one source whose thumbnails are left out.
        with_graph: whether one is built; None where the first source has one.
        reporter: hears of progress.

    Raises:
        InputError: the disk has no room for it.
        DamagedBundleError: a row that is copied does not match its checksum.
    """
    _check_room(target, sources, caches)
    first = sources[0].bundle
    with incoming(target) as path:
        file.create(path, root=root, bundle_id=bundle_id)
        total = sum(len(source.rows) for source in sources) * (1 + len(caches))
        with file.Writer(path) as writer, reporter.bar(total, "copy", "row") as advance:
            if first.descriptor_table is not None:
                table = first.descriptor_table
                with writer.transaction() as h5:
                    create_descriptors(
                        h5, table.dim, table.provenance, table.projection(), imported_from=table.imported_from
                    )
            for source in sources:
                _copy_images(writer, source, advance)
            if next_id is not None:
                with writer.transaction() as h5:
                    set_next_id(h5, next_id)
            for name in caches:
                left_out = (damaged_tokens or {}).get(name, frozenset())
                _copy_cache(writer, name, sources, left_out, name not in without_proof, advance)
            for name in sorted(first.calibrations) if calibrations is None else calibrations:
                kept = first.calibrations[name]
                arrays = kept.arrays.read()
                with writer.transaction() as h5:
                    write_calibration(h5, name, arrays, kept.provenance, kept.way)
            if same_thumbnails([source.bundle for source in sources]):
                _copy_thumbnails(writer, sources, damaged_thumbnails, advance)
        if with_graph if with_graph is not None else first.graph_table is not None:
            build_index(path, _graph_settings(first), reporter=reporter)


def _check_room(target: Path, sources: Sequence[Source], caches: Sequence[str]) -> None:
    needed = 0.0
    for source in sources:
        share = len(source.rows) / max(1, len(source.bundle.images))
        columns = list(source.bundle.images.columns.values())
        if source.bundle.descriptor_table is not None:
            columns += source.bundle.descriptor_table.columns.values()
        for name in caches:
            columns += source.bundle.tokens(name).columns.values()
        if source.bundle.thumbnail_table is not None:
            columns += source.bundle.thumbnail_table.columns.values()
        needed += share * sum(len(column) * column.row_bytes for column in columns)
    free = shutil.disk_usage(target.absolute().parent).free
    if needed * _ROOM > free:
        raise InputError(
            f"the new file needs about {needed * _ROOM / 2**20:.0f} MiB beside the old one, and {free / 2**20:.0f} MiB "
            f"are free in {target.absolute().parent}; make room, or write to another disk"
        )


def _copy_images(writer: file.Writer, source: Source, advance: Advance) -> None:
    images, descriptors = source.bundle.images, source.bundle.descriptor_table
    for start in range(0, len(source.rows), PART):
        rows = source.rows[start : start + PART]
        records = [replace(record, path=source.path_of(record.path)) for record in images.records(rows)]
        vectors = None if descriptors is None else descriptors.read_rows(rows)
        with writer.transaction() as h5:
            append_images(h5, records, ids=source.ids[start : start + PART])
            if vectors is not None:
                append_descriptors(h5, vectors)
        advance(len(rows))


def same_thumbnails(bundles: Sequence[file.Bundle]) -> bool:
    """Return whether all bundles have thumbnails, and of one kind."""
    made = {
        None if table is None else (table.provenance.model_revision, table.provenance.settings)
        for table in (bundle.thumbnail_table for bundle in bundles)
    }
    return len(made) == 1 and None not in made


def _copy_thumbnails(writer: file.Writer, sources: Sequence[Source], left_out: Set[int], advance: Advance) -> None:
    """Copy the thumbnails of the first rows, up to the first that is not there yet."""
    tables = [table for source in sources if (table := source.bundle.thumbnail_table) is not None]
    with writer.transaction() as h5:
        create_thumbnails(h5, tables[0].provenance)
    for source, table in zip(sources, tables, strict=True):
        rows = source.rows[source.rows < len(table)]
        for start in range(0, len(rows), PART):
            part = rows[start : start + PART].tolist()
            # A row that is left out is asked for as one that no bundle has.
            read = table.read([-1 if row in left_out else row for row in part])
            with writer.transaction() as h5:
                append_thumbnails(h5, read)
            advance(len(part))
        if len(rows) < len(source.rows):
            break


def _graph_settings(bundle: file.Bundle) -> GraphSettings | None:
    """Return how the graph of a bundle was built; None where that cannot be told."""
    if bundle.graph_table is None:
        return None
    try:
        return GraphState.from_json(bundle.graph_table.provenance.settings).graph
    except InputError:
        return None


def _copy_cache(
    writer: file.Writer, name: str, sources: Sequence[Source], left_out: Set[int], with_proof: bool, advance: Advance
) -> None:
    """Copy the tokens of the first rows, up to the first that is not cached."""
    first = sources[0].bundle.tokens(name)
    codebooks = None if first.codebooks is None else first.codebooks.read()
    with writer.transaction() as h5:
        create_tokens(h5, name, first.kind, first.codec, first.token_columns, first.provenance, codebooks=codebooks)
    copied = 0
    for source in sources:
        table = source.bundle.tokens(name)
        rows = source.rows[source.rows < len(table)]
        for start in range(0, len(rows), PART):
            part = rows[start : start + PART]
            taken = [row for row in part.tolist() if row not in left_out]
            read = dict(zip(taken, table.read(taken), strict=True))
            images = [read.get(row, _LOST) for row in part.tolist()]
            with writer.transaction() as h5:
                append_tokens(h5, name, images)
            advance(len(part))
        copied += len(rows)
        if len(rows) < len(source.rows):
            break
    proof = _joined_proof(name, sources, copied) if with_proof else None
    if proof is not None:
        with writer.transaction() as h5:
            write_proof(h5, name, *proof)


def _joined_proof(name: str, sources: Sequence[Source], copied: int) -> tuple[dict[str, npt.NDArray[Any]], str] | None:
    """Return what is left of the proofs of a cache: queries and pairs whose photos are all there."""
    parts: list[dict[str, npt.NDArray[Any]]] = []
    facts, base = "", 0
    for source in sources:
        table: TokenTable = source.bundle.tokens(name)
        if table.proof is not None and facts in ("", table.proof.facts):
            read_proof(table)  # raises where its arrays do not fit together
            facts = table.proof.facts
            new_row = np.full(len(source.bundle.images), -1, dtype=np.int64)
            new_row[source.rows] = base + np.arange(len(source.rows))
            new_row[new_row >= copied] = -1
            parts += _proof_queries(table.proof.read(), new_row)
        base += len(source.rows)
    return (joined(parts), facts) if parts else None


def _proof_queries(arrays: dict[str, npt.NDArray[Any]], new_row: Ids) -> Iterator[dict[str, npt.NDArray[Any]]]:
    offsets, pairs = arrays["offsets"].astype(np.int64), arrays["pairs"].astype(np.int64)
    for number, row in enumerate(arrays["queries"].astype(np.int64).tolist()):
        known = pairs[:, 1] < len(new_row)
        candidates = np.where(known, new_row[np.where(known, pairs[:, 1], 0)], -1)
        mine = (pairs[:, 0] == number) & (candidates >= 0)
        if row >= len(new_row) or new_row[row] < 0 or not mine.any():
            continue
        part = slice(offsets[number], offsets[number + 1])
        yield {
            "queries": np.array([new_row[row]], "<u4"),
            **{key: arrays[key][part] for key in ("codes", "scales", "position")},
            **{key: arrays[key][number : number + 1] for key in ("grid", "tiles")},
            "candidates": candidates[mine],
            "logits": arrays["logits"][mine],
        }
