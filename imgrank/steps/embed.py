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

from imgrank.arrays import Floats, Pixels
from imgrank.bundle import file, layout
from imgrank.bundle.descriptors import append_descriptors, create_descriptors
from imgrank.bundle.images import append_images, mark_images, update_images
from imgrank.bundle.provenance import Provenance
from imgrank.bundle.thumbnails import append_thumbnails, create_thumbnails, thumbnail_rows
from imgrank.bundle.tokens import ImageTokens, TokenColumn, append_tokens, cached_rows, create_tokens
from imgrank.config import UNKNOWN, DecodeSettings, EncoderSettings
from imgrank.errors import ImageError, InputError, MismatchError
from imgrank.images.decode import LoadedPhoto
from imgrank.images.load import load
from imgrank.images.scan import display, scan
from imgrank.local.features import COLUMNS, LocalFeatures
from imgrank.local.projection import WHITENING, Projection, fit_projection
from imgrank.progress import SILENT, Advance, Reporter
from imgrank.records import OK
from imgrank.steps.features import LocalSource
from imgrank.steps.paths import RelativePaths, choose_root
from imgrank.steps.photos import REMOVED
from imgrank.steps.projections import bundle_projection, with_projection
from imgrank.steps.reconcile import MISSING, Changes, HeldPhotos, reconcile
from imgrank.steps.thumbnails import keep_thumbnails, thumbnail_provenance, wanted_thumbnails

if TYPE_CHECKING:
    from imgrank.encode.base import Encoder

_HOLDS = "holds descriptors of"
_ONE = "one bundle has one encoder: write to another file"
FIT_AT_LEAST, FIT_AT_MOST = 100, 4000  # photos
FIT_DIM = 1024  # numbers of a descriptor whose projection is fitted, where nothing else is asked for
PART = 64  # rows of one commit; encoder batches divide it


@dataclass
class EmbedSummary:
    """What `embed` did."""

    embedded: int = 0  # photos that got a descriptor in this run
    known: int = 0  # photos that were in the bundle already
    moved: int = 0  # of these, photos that have another name now
    gone: int = 0  # photos that are not there any more
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
    adding: bool = False,
    thumbnails: int | None = None,
    reporter: Reporter = SILENT,
) -> EmbedSummary:
    """Add photos and their descriptors to a bundle, which is made if it is not there.

    Photos that the bundle holds already, with the same size and modification time or with the same content, are left
    as they are, also under a new name; a changed one gets a new row and its old row is marked as removed; one that
    could not be read before is tried again; one that is gone from a given folder is marked as missing.

    Args:
        bundle: path of the bundle.
        paths: files and folders, as bytes.
        encoder: None takes the bundle's own, or the default for a new bundle. Its projection may be a file.
        decode: limits and workers.
        root: folder the stored paths are relative to, for a new bundle; see `choose_root`.
        device: for encoders that run in torch.
        batch_size: images per forward pass; None lets the encoder choose.
        strict: stop at the first photo that cannot be used.
        adding: only add photos, to a bundle that is there: those that are gone are not looked for.
        thumbnails: as in `keep_thumbnails`; new photos get theirs in the same pass.
        reporter: hears of progress and of each photo left out.

    Raises:
        NotABundleError: with `adding`, there is no bundle.
        InputError: no photos, a path does not exist or lies outside the root; the file of a projection has none, or
            one of vectors of another length; too few photos to fit one on.
        ImageError: with `strict`, the first photo that cannot be used.
        MismatchError: the bundle was made with another encoder, or has thumbnails of another size.
    """
    summary = EmbedSummary()
    photos = find_photos(paths, reporter, summary)
    if adding:
        file.read(bundle).close()  # raises where there is none
    with file.Writer(bundle) as writer:
        plan = make_plan(bundle, paths, photos, encoder, root, adding=adding)
        held, chosen, stored_root, todo = plan.held, plan.encoder, plan.root, plan.todo
        _note_changes(writer, todo, summary)
        small = wanted_thumbnails(thumbnails)
        if held.root is not None:
            small, lost = keep_thumbnails(writer, thumbnails, decode=decode, strict=strict, reporter=reporter)
            for code, count in lost.items():
                summary.skipped[code] = summary.skipped.get(code, 0) + count
        if not todo.new:
            return summary
        from imgrank.encode.projected import ProjectedEncoder
        from imgrank.encode.registry import load_encoder

        decode = decode or DecodeSettings()
        projection = plan.projection
        model = load_encoder(chosen, device=device, batch_size=batch_size, projection=projection)
        if chosen.projection == "collection" and projection is None:
            projection = _fit(todo.new, model, chosen, decode, reporter)
            model = ProjectedEncoder(model, projection)
        if held.encoder is not None:
            _check_same(bundle, held.encoder, model)
        if held.root is None:
            file.create(bundle, root=stored_root)
        with reporter.bar(len(todo.new), "embed", "photo") as advance:
            loaded = load(todo.new, decode, longer_side=model.longer_side, thumbnail=small)
            for part in _parts(_usable(loaded, todo, strict, reporter, summary, advance)):
                descriptors, local = _encode(part, model, advance)
                with writer.transaction() as h5:
                    if layout.DESCRIPTORS not in h5:
                        provenance = Provenance(model.name, model.revision, chosen.to_json())
                        arrays = None if projection is None else (projection.mean, projection.basis, projection.bias)
                        create_descriptors(h5, model.dim, provenance, arrays)
                        if keeps_local(model):
                            create_local_cache(h5, LocalSource().provenance)
                    if small is not None and thumbnail_rows(h5) is None:
                        create_thumbnails(h5, thumbnail_provenance(small))
                    _write(h5, part, todo, descriptors, local if keeps_local(model) else None)
                summary.embedded += sum(item.photo is not None for item in part)
    return summary


@dataclass(frozen=True)
class Held:
    """What the bundle holds before this run."""

    root: bytes | None = None  # as stored; None: there is no bundle
    encoder: Provenance | None = None
    projection: Projection | None = None
    photos: HeldPhotos | None = None


@dataclass(frozen=True)
class Plan:
    """What a run would do."""

    held: Held
    encoder: EncoderSettings
    projection: Projection | None  # None: the encoder has none beside its own, or it is still to be fitted
    root: bytes  # to be stored
    todo: Changes


def make_plan(
    bundle: Path,
    paths: Sequence[bytes],
    photos: list[bytes],
    encoder: EncoderSettings | None,
    root: Path | None,
    *,
    adding: bool,
) -> Plan:
    """Compare the photos that were found at the given paths with what the bundle holds; for the rest, see `embed`."""
    held = _held(bundle)
    encoder, projection = with_projection(encoder, held.encoder, held.projection)
    chosen = _choose_encoder(bundle, held.encoder, encoder)
    stored_root = choose_root(bundle, paths, root) if held.root is None else held.root
    base = os.path.realpath(os.path.join(os.fsencode(bundle.absolute().parent), stored_root))  # noqa: PTH118
    folders = [os.path.realpath(path) for path in paths if not adding and os.path.isdir(path)]  # noqa: PTH112
    changes = reconcile(held.photos, photos, folders, base, RelativePaths(base, bundle))
    return Plan(held, chosen, projection, stored_root, changes)


def _note_changes(writer: file.Writer, changes: Changes, summary: EmbedSummary) -> None:
    """Commit what became of photos that the bundle holds."""
    summary.known, summary.moved, summary.gone = changes.known, changes.moved, len(changes.gone)
    if changes.same or changes.gone:
        with writer.transaction() as h5:
            mark_images(h5, changes.back, OK)
            mark_images(h5, changes.superseded, REMOVED)
            mark_images(h5, changes.gone, MISSING)
            if changes.same:
                update_images(h5, changes.same)


def find_photos(paths: Sequence[bytes], reporter: Reporter, summary: EmbedSummary) -> list[bytes]:
    """Return the photos at the given paths; folders that cannot be listed are reported and counted.

    Raises:
        InputError: there are none.
    """

    def unlistable(path: bytes, reason: str) -> None:
        summary.skipped["unreadable"] = summary.skipped.get("unreadable", 0) + 1
        reporter.skipped(ImageError(display(path), "unreadable", reason))

    photos = list(scan(paths, on_skip=unlistable))
    if not photos:
        raise InputError("no photos found in the paths given (looked for the suffixes of common image formats)")
    return photos


def _held(bundle: Path) -> Held:
    if not bundle.exists():
        return Held()
    with file.read(bundle) as opened:
        table = opened.descriptor_table
        return Held(
            root=opened.images.root,
            encoder=table.provenance if table is not None else None,
            projection=bundle_projection(opened),
            photos=HeldPhotos(opened),
        )


def _fit(
    paths: list[bytes], model: Encoder, chosen: EncoderSettings, decode: DecodeSettings, reporter: Reporter
) -> Projection:
    """Fit a projection on photos spread evenly over the collection.

    Raises:
        InputError: there are too few, or they vary in fewer directions than were asked for.
    """
    sample = paths[:: -(-len(paths) // FIT_AT_MOST)]
    vectors: list[Floats] = []
    pending: list[Pixels] = []
    with reporter.bar(len(sample), "fit projection", "photo") as advance:
        for item in load(sample, decode, longer_side=model.longer_side):
            advance(1)
            if item.photo is not None:
                pending.append(item.photo.pixels)
            if len(pending) == model.batch_size:
                vectors.append(model.encode(pending).descriptors)
                pending = []
    if pending:
        vectors.append(model.encode(pending).descriptors)
    count = sum(len(part) for part in vectors)
    if count < FIT_AT_LEAST:
        raise InputError(f"{count} photos are too few to fit a projection on, it takes {FIT_AT_LEAST}; leave it out")
    whitening = WHITENING if chosen.whitening is None else chosen.whitening
    projection = fit_projection(np.concatenate(vectors), chosen.projection_dim or FIT_DIM, whitening)
    dim = projection.basis.shape[1]
    if chosen.projection_dim is not None and dim < chosen.projection_dim:
        raise InputError(
            f"{count} photos whose vectors have {model.dim} numbers give a projection to at most {dim}; "
            f"--projection-dim {chosen.projection_dim} is more"
        )
    return projection


def _choose_encoder(bundle: Path, model: Provenance | None, asked: EncoderSettings | None) -> EncoderSettings:
    is_folder = asked is not None and Path(asked.model).is_dir()
    if asked is not None and is_folder:
        asked = replace(asked, model=str(Path(asked.model).resolve()))  # it must be found from anywhere
    if model is None:
        return asked or EncoderSettings()
    if model.model == UNKNOWN:
        raise MismatchError(bundle, f"{_HOLDS} an encoder that nobody named when they were imported; {_ONE}")
    stored = EncoderSettings.from_json(model.settings)
    if asked is None:
        return stored
    # The folder of a model may have moved, and the number type may differ; the revision is compared after loading.
    alike = replace(asked, dtype=stored.dtype, model=stored.model if is_folder else asked.model)
    if alike != stored:
        raise MismatchError(
            bundle, f"{_HOLDS} {model.model} with {model.settings}, asked for {asked.to_json()}; {_ONE}"
        )
    return asked


def _check_same(bundle: Path, stored: Provenance, encoder: Encoder) -> None:
    if stored.model_revision != encoder.revision:
        raise MismatchError(
            bundle,
            f"{_HOLDS} {stored.model} ({stored.model_revision}), not {encoder.name} ({encoder.revision}); {_ONE}",
        )


def _usable(
    loaded: Iterable[LoadedPhoto],
    todo: Changes,
    strict: bool,
    reporter: Reporter,
    summary: EmbedSummary,
    advance: Advance,
) -> Iterator[LoadedPhoto]:
    """Report failures; pass on what needs a new row: every photo but those that failed before and fail again."""
    for item in loaded:
        if item.error is not None:
            if strict:
                raise item.error
            summary.skipped[item.error.code] = summary.skipped.get(item.error.code, 0) + 1
            reporter.skipped(item.error)
            advance(1)
            if todo.failed.get(item.record.path) == item.record.status:
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


def _encode(part: list[LoadedPhoto], encoder: Encoder, advance: Advance) -> tuple[Floats, list[LocalFeatures | None]]:
    """Return (len(part), dim) descriptors, zeros for photos without pixels, and local features where there are any."""
    places = [place for place, item in enumerate(part) if item.photo is not None]
    descriptors = np.zeros((len(part), encoder.dim), dtype=np.float32)
    local: list[LocalFeatures | None] = [None] * len(part)
    size = encoder.batch_size  # may fall while encoding; this part's batches stay where they were meant to be
    for start in range(0, len(places), size):
        batch = places[start : start + size]
        encoded = encoder.encode([photo.pixels for place in batch if (photo := part[place].photo) is not None])
        descriptors[batch] = encoded.descriptors
        for place, features in zip(batch, encoded.local or [], strict=encoded.local is not None):
            local[place] = features
        advance(len(batch))
    return descriptors, local


def _write(
    h5: h5py.File,
    part: list[LoadedPhoto],
    todo: Changes,
    descriptors: Floats,
    local: list[LocalFeatures | None] | None,
) -> None:
    # A cache that lags behind (one whose making was cut) is continued by that command, not here; so are thumbnails.
    rows = h5[layout.IMAGES]["id"].shape[0]
    in_step = local is not None and cached_rows(h5, layout.LOCAL_CACHE) == rows
    pictured = thumbnail_rows(h5) == rows
    append_images(h5, [replace(item.record, path=todo.stored[item.record.path]) for item in part])
    append_descriptors(h5, descriptors)
    if pictured:
        append_thumbnails(h5, [item.thumbnail for item in part])
    if local is not None and in_step:
        tokens = [local_tokens(features, item.record.status) for features, item in zip(local, part, strict=True)]
        append_tokens(h5, layout.LOCAL_CACHE, tokens)
    mark_images(h5, [todo.replaced[item.record.path] for item in part if item.record.path in todo.replaced], REMOVED)


def keeps_local(encoder: Encoder) -> bool:
    """Return whether an encoder computes local features on its way, which are then kept in the same pass."""
    return encoder.name == "builtin"


def create_local_cache(h5: h5py.File, provenance: Provenance, name: str = layout.LOCAL_CACHE) -> None:
    """Make the empty cache of built-in local features, or one that is to take its place."""
    columns = [TokenColumn(name, dtype, tail) for name, (dtype, tail) in COLUMNS.items()]
    create_tokens(h5, name, "local", "local", columns, provenance)


def local_tokens(features: LocalFeatures | None, status: int) -> ImageTokens:
    """Return what the cache of local features keeps of one image."""
    return ImageTokens({} if features is None else features.to_columns(), (0, 0), status)
