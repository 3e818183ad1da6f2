"""`embed --dry-run` and `index --dry-run`: what they would take, from a few photos."""

from __future__ import annotations

import time
from collections.abc import Collection, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from imgrank.bundle import file, layout
from imgrank.bundle.table import allocation
from imgrank.config import DecodeSettings, EncoderSettings, GraphSettings
from imgrank.images.glance import looks_readable
from imgrank.images.load import load
from imgrank.index.graph import table_rows
from imgrank.local.features import COLUMNS
from imgrank.progress import SILENT, Reporter
from imgrank.records import OK
from imgrank.steps.embed import EmbedSummary, Plan, find_photos, keeps_local, make_plan

if TYPE_CHECKING:
    from imgrank.encode.base import Encoder

_PHOTOS = 8  # that are measured


@dataclass(frozen=True)
class EmbedEstimate:
    """What embedding would do.

    Attributes:
        new: photos whose name the bundle does not have.
        changed: photos whose name it has, with another content.
        retried: photos that could not be read before, and are tried again.
        known: photos that are in the bundle already.
        moved: of these, photos that have another name now.
        gone: photos that are not there any more.
        unreadable: of these three, those that do not begin as a photo does.
        measured: photos that the time is told from.
        seconds: for the others of these three, as measured; the graph is not counted.
        bytes: that the bundle would grow by, with the graph if that was asked for.
        bundle_bytes: that it has.
    """

    new: int
    changed: int
    retried: int
    known: int
    moved: int
    gone: int
    unreadable: int
    measured: int
    seconds: float
    bytes: int
    bundle_bytes: int


def estimate_embed(
    bundle: Path,
    paths: Sequence[bytes],
    *,
    encoder: EncoderSettings | None = None,
    decode: DecodeSettings | None = None,
    root: Path | None = None,
    device: str = "auto",
    batch_size: int | None = None,
    graph: GraphSettings | None = None,
    adding: bool = False,
    reporter: Reporter = SILENT,
) -> EmbedEstimate:
    """Tell what `embed` would do with the same arguments; nothing is written.

    With `graph`, that graph would be built over all photos afterwards.

    Raises:
        NotABundleError, InputError, MismatchError: as `embed`.
    """
    summary = EmbedSummary()
    photos = find_photos(paths, reporter, summary)
    if adding:
        file.read(bundle).close()  # raises where there is none
    plan = make_plan(bundle, paths, photos, encoder, root, adding=adding)
    todo = plan.todo
    readable = {path: None for path in todo.new if looks_readable(path)}
    seconds, measured, grown = 0.0, 0, 0
    if todo.new:
        from imgrank.encode.registry import load_encoder

        settings = plan.encoder
        if settings.projection == "collection" and plan.projection is None:
            # It would be fitted first, which takes no time worth telling, and gives about as many numbers.
            settings = replace(settings, projection="default", projection_dim=None, whitening=None)
        model = load_encoder(settings, device=device, batch_size=batch_size, projection=plan.projection)
        seconds, measured, features = _measure(list(readable), model, decode or DecodeSettings())
        failed = [path for path in todo.new if path not in readable and path not in todo.failed]
        grown = _grown(bundle, plan, readable, failed, model, features)
    if graph is not None and (readable or todo.back or not _has_graph(bundle)):
        grown += _graph_bytes(plan, len(readable), graph)
    return EmbedEstimate(
        new=len(todo.new) - len(todo.replaced),
        changed=len(todo.replaced) - len(todo.failed),
        retried=len(todo.failed),
        known=todo.known,
        moved=todo.moved,
        gone=len(todo.gone),
        unreadable=len(todo.new) - len(readable),
        measured=measured,
        seconds=seconds * len(readable),
        bytes=grown,
        bundle_bytes=bundle.stat().st_size if bundle.exists() else 0,
    )


def _has_graph(bundle: Path) -> bool:
    if not bundle.exists():
        return False
    with file.read(bundle) as opened:
        return opened.graph_table is not None


def _measure(photos: list[bytes], model: Encoder, decode: DecodeSettings) -> tuple[float, int, float]:
    """Return the seconds that a photo takes, how many were measured, and how many local features a photo has."""
    sample = photos[:: max(1, len(photos) // _PHOTOS)][:_PHOTOS]
    features = []
    started, count = time.monotonic(), 0
    for place, paths in enumerate([sample[:1], sample]):  # twice: the first photos take longer than all later ones
        started, count = time.monotonic(), 0
        pixels = [item.photo.pixels for item in load(paths, decode, longer_side=model.longer_side) if item.photo]
        for start in range(0, len(pixels), model.batch_size):
            encoded = model.encode(pixels[start : start + model.batch_size])
            if place:
                features += [len(one) for one in encoded.local or []]
        count = len(pixels)
    seconds = time.monotonic() - started
    return (seconds / count if count else 0.0), count, float(np.mean(features)) if features else 0.0


def _grown(
    bundle: Path, plan: Plan, readable: Collection[bytes], failed: Collection[bytes], model: Encoder, features: float
) -> int:
    """Return the bytes of the rows to come, also of photos that fail for the first time; HDF5 allocates in chunks."""
    held, todo = plan.held, plan.todo
    rows = len(readable) + len(failed)
    rows_before = 0 if held.photos is None else len(held.photos.paths)
    path_bytes = sum(len(todo.stored[path]) for path in (*readable, *failed))
    paths_before = 0 if held.photos is None else sum(map(len, held.photos.paths))
    count = 0
    for column in (*layout.IMAGE_COLUMNS, *layout.descriptor_columns(model.dim)):
        before, more = (paths_before, path_bytes) if column.name == "path-bytes" else (rows_before, rows)
        count += allocation(column, before + more) - allocation(column, before)
    if not keeps_local(model):
        return count
    tokens_before, cached = 0, 0
    if held.photos is not None:
        with file.read(bundle) as opened:
            table = opened.token_tables.get(layout.LOCAL_CACHE)
            cached = 0 if table is None else len(table)
            tokens_before = 0 if table is None else int(table.offsets[-1])
    if cached != rows_before:
        return count
    for column in layout.TOKEN_IMAGE_COLUMNS:
        count += allocation(column, rows_before + rows) - allocation(column, rows_before)
    for name, (dtype, tail) in COLUMNS.items():
        column = layout.Column(name, dtype, tail, layout.LARGE_CHUNK)
        more = round(len(readable) * features)
        count += allocation(column, tokens_before + more) - allocation(column, tokens_before)
    return count


def _graph_bytes(plan: Plan, readable: int, graph: GraphSettings) -> int:
    """Return the bytes of the graph over all photos; it is written anew, in new places."""
    todo, photos = plan.todo, plan.held.photos
    nodes = readable
    if photos is not None:
        nodes += int(np.count_nonzero(photos.statuses == OK)) + len(todo.back) - len(todo.gone) - len(todo.superseded)
        nodes -= sum(int(photos.statuses[row]) == OK for row in todo.replaced.values())
    count = 0
    for name, (dtype, tail, rows) in table_rows(max(0, nodes), graph.m).items():
        size = rows * np.dtype(dtype).itemsize * int(np.prod(tail, dtype=np.int64))
        count += allocation(layout.Column(name, dtype, tail, min(layout.LARGE_CHUNK, size)), rows)
    return count
