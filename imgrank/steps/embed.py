"""`embed`: photos in, rows of `/images` and `/descriptors` out, and with the built-in encoder its local features.

Photos are written in parts of `PART` rows, each one commit, and the encoder's batches never cross a part: so a run
that was cut and started again computes the same bits as one that was not.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING

import h5py
import numpy as np

from imgrank.bundle import file, layout
from imgrank.bundle.descriptors import append_descriptors, create_descriptors
from imgrank.bundle.images import append_images, mark_images
from imgrank.bundle.provenance import Provenance
from imgrank.bundle.tokens import ImageTokens, TokenColumn, append_tokens, create_tokens
from imgrank.config import DecodeSettings, EncoderSettings
from imgrank.errors import ImageError, InputError, MismatchError
from imgrank.images.decode import LoadedPhoto
from imgrank.images.load import load
from imgrank.images.scan import display, scan
from imgrank.progress import SILENT, Advance, Reporter
from imgrank.records import OK, STATUS_NAMES, ImageRecord
from imgrank.steps.features import LocalSource
from imgrank.steps.paths import choose_root, relative_to_root

if TYPE_CHECKING:
    from imgrank.encode.base import Encoder
    from imgrank.local.features import LocalFeatures

_HOLDS = "holds descriptors of"
_ONE = "one bundle has one encoder: write to another file"
PART = 64  # rows of one commit; encoder batches divide it


@dataclass
class EmbedSummary:
    """What `embed` did."""

    embedded: int = 0  # photos that got a descriptor in this run
    known: int = 0  # photos that were in the bundle already
    skipped: dict[str, int] = field(default_factory=dict)  # status name -> photos left out in this run

    @property
    def skipped_count(self) -> int:
        """Return how many photos were left out."""
        return sum(self.skipped.values())


def embed(
    bundle: Path,
    paths: Sequence[bytes],
    *,
    encoder: EncoderSettings | None = None,
    decode: DecodeSettings | None = None,
    root: Path | None = None,
    device: str = "auto",
    batch_size: int | None = None,
    strict: bool = False,
    reporter: Reporter = SILENT,
) -> EmbedSummary:
    """Add photos and their descriptors to a bundle, which is made if it is not there.

    Photos that the bundle holds already, with the same size and modification time, are left as they are; a changed
    one gets a new row and its old row is marked as removed; one that could not be read before is tried again.

    Args:
        bundle: path of the bundle.
        paths: files and folders, as bytes.
        encoder: None takes the bundle's own, or the default for a new bundle.
        decode: limits and workers.
        root: folder the stored paths are relative to, for a new bundle; see `choose_root`.
        device: for encoders that run in torch.
        batch_size: images per forward pass; None lets the encoder choose.
        strict: stop at the first photo that cannot be used.
        reporter: hears of progress and of each photo left out.

    Raises:
        InputError: no photos, a path does not exist or lies outside the root.
        ImageError: with `strict`, the first photo that cannot be used.
        MismatchError: the bundle was made with another encoder.
    """
    decode = decode or DecodeSettings()
    summary = EmbedSummary()
    photos = _scan(paths, reporter, summary)
    if not photos:
        raise InputError("no photos found in the paths given (looked for the suffixes of common image formats)")
    with file.Writer(bundle) as writer:
        known, model = _state(bundle)
        chosen = _choose_encoder(bundle, model, encoder)
        stored_root = choose_root(bundle, paths, root)
        todo = _todo(bundle, photos, known, stored_root, summary)
        if not todo.paths:
            return summary
        from imgrank.encode.registry import load_encoder

        model_object = load_encoder(chosen, device=device, batch_size=batch_size)
        if model is not None:
            _check_same(bundle, model, model_object)
        if not bundle.exists():
            file.create(bundle, root=stored_root)
        with reporter.bar(len(todo.paths), "embed", "photo") as advance:
            items = load(todo.paths, decode, longer_side=model_object.longer_side)
            for part in _parts(_skipping(items, todo, strict, reporter, summary, advance)):
                replaced = [todo.rows[item.record.path] for item in part if item.record.path in todo.rows]
                with writer.transaction() as h5:
                    _write_part(h5, part, todo, model_object, chosen)
                    mark_images(h5, replaced, STATUS_NAMES.index("removed"))
                summary.embedded += sum(item.photo is not None for item in part)
                advance(len(part))
    return summary


@dataclass(frozen=True)
class _Todo:
    paths: list[bytes]  # as given, in scan order
    stored: dict[bytes, bytes]  # as given -> relative to the root
    rows: dict[bytes, int]  # as given -> row of an earlier version of the photo
    failed: dict[bytes, int]  # as given -> status, for photos that could not be read before


def _scan(paths: Sequence[bytes], reporter: Reporter, summary: EmbedSummary) -> list[bytes]:
    def unlistable(path: bytes, reason: str) -> None:
        summary.skipped["unreadable"] = summary.skipped.get("unreadable", 0) + 1
        reporter.skipped(ImageError(display(path), "unreadable", reason))

    return list(scan(paths, on_skip=unlistable))


def _state(bundle: Path) -> tuple[dict[bytes, tuple[int, ImageRecord]], Provenance | None]:
    """Return the bundle's live rows by stored path, and the provenance of its descriptors."""
    if not bundle.exists():
        return {}, None
    with file.read(bundle) as opened:
        removed = STATUS_NAMES.index("removed")
        statuses = opened.images.statuses()
        paths = opened.images.paths()
        sizes, times = opened.images.columns["size"].read(), opened.images.columns["mtime-ns"].read()
        blank = bytes(16)
        rows = {
            path: (row, ImageRecord(path, int(sizes[row]), int(times[row]), blank, 0, 0, int(statuses[row])))
            for row, path in enumerate(paths)
            if statuses[row] != removed
        }
        table = opened.descriptor_table
        return rows, table.provenance if table is not None else None


def _choose_encoder(bundle: Path, model: Provenance | None, asked: EncoderSettings | None) -> EncoderSettings:
    if asked is not None and Path(asked.model).is_dir():
        asked = replace(asked, model=str(Path(asked.model).resolve()))  # it must be found from anywhere
    if model is None:
        return asked or EncoderSettings()
    stored = EncoderSettings.from_json(model.settings)
    # A folder may have moved, and the number type may differ; the revision is compared once the model is loaded.
    if asked is not None and replace(asked, model=stored.model, dtype=stored.dtype) != stored:
        raise MismatchError(
            bundle, f"{_HOLDS} {model.model} with {model.settings}, asked for {asked.to_json()}; {_ONE}"
        )
    return asked or stored


def _check_same(bundle: Path, stored: Provenance, encoder: Encoder) -> None:
    if stored.model_revision != encoder.revision:
        raise MismatchError(
            bundle,
            f"{_HOLDS} {stored.model} ({stored.model_revision}), not {encoder.name} ({encoder.revision}); {_ONE}",
        )


def _todo(
    bundle: Path,
    photos: list[bytes],
    known: dict[bytes, tuple[int, ImageRecord]],
    stored_root: bytes,
    summary: EmbedSummary,
) -> _Todo:
    root = os.path.realpath(os.path.join(os.fsencode(bundle.absolute().parent), stored_root))  # noqa: PTH118
    if bundle.exists():
        with file.read(bundle) as opened:
            root = os.path.realpath(opened.root)
    todo = _Todo([], {}, {}, {})
    for path in photos:
        stored = relative_to_root(path, root, bundle)
        if stored in known:
            row, record = known[stored]
            if record.status == OK:
                try:
                    now = os.stat(path)  # noqa: PTH116  # bytes
                except OSError:
                    now = None
                if now is not None and (now.st_size, now.st_mtime_ns) == (record.size, record.mtime_ns):
                    summary.known += 1
                    continue
            else:
                todo.failed[path] = record.status
            todo.rows[path] = row
        todo.paths.append(path)
        todo.stored[path] = stored
    return todo


def _skipping(
    items: Iterable[LoadedPhoto], todo: _Todo, strict: bool, reporter: Reporter, summary: EmbedSummary, advance: Advance
) -> Iterator[LoadedPhoto]:
    """Report failures; pass on what needs a new row: every photo but those that failed before and fail again."""
    for item in items:
        if item.error is not None:
            if strict:
                raise item.error
            summary.skipped[item.error.code] = summary.skipped.get(item.error.code, 0) + 1
            reporter.skipped(item.error)
            if todo.failed.get(item.record.path) == item.record.status:
                advance(1)
                continue
        yield item


def _parts(items: Iterable[LoadedPhoto]) -> Iterator[list[LoadedPhoto]]:
    part: list[LoadedPhoto] = []
    for item in items:
        part.append(item)
        if len(part) == PART:
            yield part
            part = []
    if part:
        yield part


def _write_part(
    h5: h5py.File, part: list[LoadedPhoto], todo: _Todo, encoder: Encoder, settings: EncoderSettings
) -> None:
    usable = [place for place, item in enumerate(part) if item.photo is not None]
    descriptors = np.zeros((len(part), encoder.dim), dtype=np.float32)
    local: list[LocalFeatures | None] = [None] * len(part)
    keeps_local = False
    for start in range(0, len(usable), encoder.batch_size):
        batch = usable[start : start + encoder.batch_size]
        pixels = [photo.pixels for place in batch if (photo := part[place].photo) is not None]
        encoded = encoder.encode(pixels)
        descriptors[batch] = encoded.descriptors
        if encoded.local is not None:
            keeps_local = True
            for place, features in zip(batch, encoded.local, strict=True):
                local[place] = features
    if layout.DESCRIPTORS not in h5:
        provenance = Provenance(encoder.name, encoder.revision, settings.to_json())
        create_descriptors(h5, encoder.dim, provenance)
        if keeps_local:
            create_local_cache(h5, LocalSource().provenance)
    append_images(h5, [_stored_record(item.record, todo) for item in part])
    append_descriptors(h5, descriptors)
    if layout.LOCAL_CACHE in h5.get(layout.TOKENS, ()):
        append_tokens(
            h5,
            layout.LOCAL_CACHE,
            [local_tokens(features, item.record.status) for features, item in zip(local, part, strict=True)],
        )


def _stored_record(record: ImageRecord, todo: _Todo) -> ImageRecord:
    return ImageRecord(
        todo.stored[record.path],
        record.size,
        record.mtime_ns,
        record.digest,
        record.width,
        record.height,
        record.status,
    )


def create_local_cache(h5: h5py.File, provenance: Provenance) -> None:
    """Make the empty cache of built-in local features."""
    from imgrank.local.features import COLUMNS

    columns = [TokenColumn(name, dtype, tail) for name, (dtype, tail) in COLUMNS.items()]
    create_tokens(h5, layout.LOCAL_CACHE, "local", "local", columns, provenance)


def local_tokens(features: LocalFeatures | None, status: int) -> ImageTokens:
    """Return what the cache of local features keeps of one image."""
    return ImageTokens({} if features is None else features.to_columns(), (0, 0), status)
