"""`cache-tokens`: photos of a bundle in, their visual tokens (or local features) in `/tokens/NAME` out.

Rows are written in parts, each one commit, so a run that was cut goes on where the last part ended.
"""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import h5py
import numpy as np
import numpy.typing as npt

from imgrank.arrays import Ids, Pixels
from imgrank.bundle import file, layout
from imgrank.bundle.provenance import Provenance
from imgrank.bundle.tokens import (
    ImageTokens,
    TokenTable,
    append_tokens,
    check_cache_name,
    create_tokens,
    write_proof,
)
from imgrank.config import BUILTIN, DecodeSettings, TokenSettings
from imgrank.errors import ImageError, InputError, MismatchError, SettingsError
from imgrank.images.decode import LoadedPhoto
from imgrank.images.load import load
from imgrank.images.scan import display
from imgrank.progress import SILENT, Reporter
from imgrank.records import OK, STATUS_NAMES
from imgrank.steps.codebooks import codebook_arrays, load_codebooks
from imgrank.steps.embed import create_local_cache, local_tokens
from imgrank.steps.features import (
    LocalSource,
    VisualSource,
    default_token_settings,
    is_whole,
    kept_settings,
    stored_codebooks,
    visual_provenance,
)
from imgrank.steps.proof import PAIRS
from imgrank.steps.sample import Sampling, usual_tokens
from imgrank.steps.staging import Staging
from imgrank.steps.token_request import TokenRequest
from imgrank.tokens.budget import IMAGE_BYTES, codebook_bytes, token_bytes
from imgrank.tokens.product_quantization import check_subvectors
from imgrank.tokens.recipe import recipe_text

if TYPE_CHECKING:
    from imgrank.mllm.base import VisualTokens

PART = 16  # rows of one commit
_CANDIDATES = 20_000  # photos among which the pairs of a proof are chosen, so that memory does not grow with a bundle


@dataclass
class CacheSummary:
    """What `cache_tokens` did."""

    cache: str
    recipe: str = ""  # of visual tokens
    images: int = 0  # whose tokens were computed in this run
    known: int = 0  # rows that were cached before
    whole: int = 0  # photos of this run that keep all of their tokens
    skipped: dict[str, int] = field(default_factory=dict)  # status name -> photos without tokens in this run

    @property
    def skipped_count(self) -> int:
        """Return how many photos got no tokens."""
        return sum(self.skipped.values())


@dataclass(frozen=True)
class Estimate:
    """What caching would do.

    Attributes:
        cache: its name.
        recipe: of the tokens.
        images: photos to compute.
        known: rows that are cached.
        full_tokens: of a photo before any are left out, the mean of a few.
        tokens: of a photo that are kept.
        bytes_per_image: what they take.
        bytes_once: codebooks and rotations.
        seconds: for all of the photos, one after the other as measured on a few; the proof is not counted.
    """

    cache: str
    recipe: str
    images: int
    known: int
    full_tokens: float
    tokens: float
    bytes_per_image: float
    bytes_once: int
    seconds: float

    @property
    def total_bytes(self) -> float:
        """Return what the cache would take."""
        return self.images * self.bytes_per_image + self.bytes_once


class _Photos:
    """The photos of an open bundle, to be read by image row."""

    def __init__(self, opened: file.Bundle, root: Path | None, decode: DecodeSettings) -> None:
        self.statuses = opened.images.statuses()
        self._paths = opened.images.paths()
        self._digests = opened.images.columns["digest"].read()
        self._base = opened.root if root is None else os.fsencode(root.resolve())
        self._decode = decode

    def __len__(self) -> int:
        return len(self._paths)

    def usable(self, start: int = 0) -> Ids:
        """Return the rows from `start` on whose photos could be read when they were embedded."""
        found: Ids = start + np.flatnonzero(self.statuses[start:] == OK)
        return found

    def load(self, rows: Ids, longer_side: int) -> Iterator[LoadedPhoto]:
        """Read photos; one that is not the photo that was embedded is a failure."""
        files = [os.path.join(self._base, self._paths[row]) for row in rows.tolist()]  # noqa: PTH118  # bytes
        return _checked(load(files, self._decode, longer_side=longer_side), self._digests[rows])

    def check_there(self, rows: Ids) -> None:
        """Raise where none of the first photos is there."""
        files = [os.path.join(self._base, self._paths[row]) for row in rows[:100].tolist()]  # noqa: PTH118
        if files and not any(map(os.path.exists, files)):
            raise InputError(
                f"{display(files[0])} and others are not there; if the photos moved, give --root with their folder"
            )


def cache_tokens(
    bundle: Path,
    *,
    mllm: str | None = None,
    cache: str | None = None,
    settings: TokenSettings | TokenRequest | None = None,
    codebooks: Sequence[Path] = (),
    proof_pairs: int = PAIRS,
    decode: DecodeSettings | None = None,
    root: Path | None = None,
    device: str = "auto",
    dtype: str = "auto",
    overwrite: bool = False,
    strict: bool = False,
    reporter: Reporter = SILENT,
) -> CacheSummary:
    """Compute and keep the tokens of every photo of a bundle that has none in this cache.

    Args:
        bundle: a bundle with images.
        mllm: model id or folder; None takes the built-in model, or the built-in local features for the cache "local".
        cache: name; None takes "default", or "builtin" for the built-in model.
        settings: what is kept; None takes the settings of the present cache, or the model's defaults.
        codebooks: a bundle, or a faiss index for each level of tokens, whose codebooks are taken over; none: they are
            trained on the photos of this bundle.
        proof_pairs: pairs whose logits with all tokens are kept, so that the loss can be told later; 0: none.
        decode: limits and workers.
        root: folder of the photos, where it is not the one the bundle states.
        device: for the model.
        dtype: for the model.
        overwrite: throw a present cache of that name away first.
        strict: stop at the first photo that cannot be used.
        reporter: hears of progress and of each photo left out.

    Raises:
        MismatchError: a cache of that name was made by another model or with other settings, or the codebooks were.
        InputError: a photo has changed since it was embedded, or there are too few tokens to train codebooks on.
    """
    name = _cache_name(cache, mllm, settings)
    if not bundle.exists():
        file.read(bundle)  # raises, with the command to run
    with file.Writer(bundle) as writer, file.read(bundle) as opened:
        present = opened.token_tables.get(name)
        kept = None if overwrite else present
        known = 0 if kept is None else len(kept)
        photos = _Photos(opened, root, decode or DecodeSettings())
        summary = CacheSummary(name, known=known)
        plan: _Plan = (
            _LocalPlan()
            if name == layout.LOCAL_CACHE
            else _VisualPlan(bundle, name, mllm or BUILTIN, settings, kept, photos, device, dtype, reporter)
        )
        summary.recipe = plan.recipe
        if kept is not None:
            _check_same(bundle, name, kept.provenance, plan.provenance)
            if known == len(photos):
                return summary
        todo = photos.usable(known)
        photos.check_there(todo)
        if present is not None and overwrite:
            # On its own: HDF5 would put what is created beside it into the freed bytes, which a reader may still read.
            with writer.transaction() as h5:
                del h5[layout.TOKENS][name]
        with ThreadPoolExecutor(plan.threads) as pool:
            if kept is None:
                create = plan.prepare(opened, todo, pool, codebooks, proof_pairs)
                with writer.transaction() as h5:
                    create(h5)
            elif codebooks:
                raise SettingsError(f"cache {name!r} has codebooks; leave --codebooks out, or give --overwrite")
            _fill(writer, plan, photos, todo, known, pool, summary, strict, reporter)
        plan.finish()
    return summary


def _fill(
    writer: file.Writer,
    plan: _Plan,
    photos: _Photos,
    todo: Ids,
    known: int,
    pool: Executor,
    summary: CacheSummary,
    strict: bool,
    reporter: Reporter,
) -> None:
    """Compute and commit rows, part by part."""
    loaded = photos.load(np.array([row for row in todo.tolist() if not plan.waits(row)], dtype=np.int64), plan.side)
    with reporter.bar(len(todo), "cache-tokens", "photo") as advance:
        for start in range(known, len(photos), PART):
            images: list[ImageTokens | Future[ImageTokens]] = []
            for row in range(start, min(start + PART, len(photos))):
                status = int(photos.statuses[row])
                if status != OK:
                    images.append(ImageTokens({}, (0, 0), status))
                    continue
                advance(1)
                if plan.waits(row):
                    images.append(pool.submit(plan.waiting, row))
                    summary.images += 1
                    continue
                item = next(loaded)
                if item.photo is not None:
                    images.append(pool.submit(plan.tokens_of, item.photo.pixels))
                    summary.images += 1
                elif item.error is not None:
                    if strict:
                        raise item.error
                    summary.skipped[item.error.code] = summary.skipped.get(item.error.code, 0) + 1
                    reporter.skipped(item.error)
                    images.append(ImageTokens({}, (0, 0), item.record.status))
            ready = [image.result() if isinstance(image, Future) else image for image in images]
            summary.whole += sum(map(is_whole, ready))
            with writer.transaction() as h5:
                append_tokens(h5, summary.cache, ready)


def estimate_tokens(
    bundle: Path,
    *,
    mllm: str | None = None,
    cache: str | None = None,
    settings: TokenSettings | TokenRequest | None = None,
    decode: DecodeSettings | None = None,
    root: Path | None = None,
    device: str = "auto",
    dtype: str = "auto",
    reporter: Reporter = SILENT,
) -> Estimate:
    """Tell what `cache_tokens` would do, from the tokens of a few photos; nothing is written.

    Raises:
        SettingsError: the cache would be that of the local features.
        InputError: none of the photos can be read.
    """
    name = _cache_name(cache, mllm, settings)
    if name == layout.LOCAL_CACHE:
        raise SettingsError(f"--dry-run is for visual tokens; the cache {name!r} has none")
    with file.read(bundle) as opened:
        kept = opened.token_tables.get(name)
        photos = _Photos(opened, root, decode or DecodeSettings())
        plan = _VisualPlan(bundle, name, mllm or BUILTIN, settings, kept, photos, device, dtype, reporter)
        todo = photos.usable(0 if kept is None else len(kept))
        few = plan.usual(4)
        if not few:
            raise InputError(f"{bundle}: no photo can be read, so nothing can be told; give --root where they moved")
        started = time.monotonic()
        few = plan.usual(3)
        seconds = (time.monotonic() - started) / len(few) / plan.threads
    model, chosen = plan.source.model, plan.source.settings
    tokens = float(np.mean([len(plan.source.reduced(one)) for one in few]))
    return Estimate(
        cache=name,
        recipe=plan.recipe,
        images=len(todo),
        known=0 if kept is None else len(kept),
        full_tokens=float(np.mean([len(one) for one in few])),
        tokens=tokens,
        bytes_per_image=IMAGE_BYTES + tokens * token_bytes(chosen, model.levels, model.hidden),
        bytes_once=codebook_bytes(chosen, model.levels, model.hidden),
        seconds=seconds * len(todo),
    )


def _cache_name(cache: str | None, mllm: str | None, settings: TokenSettings | TokenRequest | None) -> str:
    own = layout.BUILTIN_CACHE if mllm in (None, BUILTIN) else layout.DEFAULT_CACHE
    name = check_cache_name(cache or own)
    if name == layout.LOCAL_CACHE and (mllm is not None or settings is not None):
        raise SettingsError(
            f"the cache {layout.LOCAL_CACHE!r} is that of the built-in local features, which have no model and no "
            "options; choose another name for the visual tokens of a model"
        )
    return name


class _Plan(Protocol):
    """How the photos of one cache become its rows."""

    provenance: Provenance
    recipe: str
    side: int  # pixels to which photos are reduced while they are decoded
    threads: int  # from which `tokens_of` is called

    def prepare(
        self, opened: file.Bundle, rows: Ids, pool: Executor, codebooks: Sequence[Path], pairs: int
    ) -> Callable[[h5py.File], None]:
        """Learn what is needed before the first row; returns what creates the cache."""

    def tokens_of(self, pixels: Pixels) -> ImageTokens:
        """Compute the row of a photo."""

    def waits(self, row: int) -> bool:
        """Return whether the tokens of a row are at hand already."""

    def waiting(self, row: int) -> ImageTokens:
        """Return the row of a photo whose tokens are at hand."""

    def finish(self) -> None:
        """Throw away what is at hand."""


class _LocalPlan:
    """The built-in local features."""

    recipe = ""

    def __init__(self) -> None:
        from imgrank.local.keypoints import available_threads

        self._source = LocalSource()
        self.provenance, self.side = self._source.provenance, self._source.longer_side
        self.threads = available_threads()

    def prepare(
        self, opened: file.Bundle, rows: Ids, pool: Executor, codebooks: Sequence[Path], pairs: int
    ) -> Callable[[h5py.File], None]:
        if codebooks:
            raise SettingsError(f"the cache {layout.LOCAL_CACHE!r} takes no codebooks")
        return lambda h5: create_local_cache(h5, self.provenance)

    def tokens_of(self, pixels: Pixels) -> ImageTokens:
        return local_tokens(self._source.of_query(pixels), OK)

    def waits(self, row: int) -> bool:
        return False

    def waiting(self, row: int) -> ImageTokens:
        raise KeyError(row)

    def finish(self) -> None:
        pass


class _VisualPlan:
    """Visual tokens of a model."""

    def __init__(
        self,
        bundle: Path,
        cache: str,
        mllm: str,
        settings: TokenSettings | TokenRequest | None,
        kept: TokenTable | None,
        photos: _Photos,
        device: str,
        dtype: str,
        reporter: Reporter,
    ) -> None:
        from imgrank.mllm.registry import load_mllm

        name = mllm if mllm == BUILTIN or not Path(mllm).is_dir() else str(Path(mllm).resolve())
        model = load_mllm(name, device=device, dtype=dtype)
        self._photos, self._reporter, self._cache = photos, reporter, cache
        default = default_token_settings(model)
        if settings is None:
            settings = default if kept is None else kept_settings(kept.provenance)
        elif isinstance(settings, TokenRequest):
            self.source = VisualSource(model, replace(default, reduce="", store="float16"))
            settings = settings.settings(
                default, model.levels, model.hidden, lambda: max(map(len, self.usual(3)), default=default.max_tokens)
            )
        self.source = VisualSource(model, settings, None if kept is None else stored_codebooks(kept))
        self.provenance = visual_provenance(name, model, settings)
        self.recipe = recipe_text(settings)
        self.side, self.threads = self.source.longer_side, model.encoding_threads
        self._staging = Staging(bundle, cache, f"{model.revision} {self.provenance.settings}")

    def usual(self, count: int) -> list[VisualTokens]:
        """Return all tokens of the first photos."""
        return usual_tokens(self.source, self._photos.load(self._photos.usable()[:100], self.source.longer_side), count)

    def prepare(
        self, opened: file.Bundle, rows: Ids, pool: Executor, codebooks: Sequence[Path], pairs: int
    ) -> Callable[[h5py.File], None]:
        spec = self.source.spec
        if spec is None and codebooks:
            raise SettingsError(f"{self.source.settings.store} has no codebooks to take over; see --recipe pq:M")
        if spec is not None:
            check_subvectors(spec.subvectors, self.source.model.hidden)
        taken = None if spec is None or not codebooks else load_codebooks(codebooks, spec, self.source.model)
        sampling = Sampling(
            self.source, self._staging, lambda some: self._photos.load(some, self.side), pool, self._reporter
        )
        proof, facts = None, ""
        if pairs and opened.descriptor_table is not None:
            some = rows
            if len(rows) > _CANDIDATES:
                some = np.sort(np.random.default_rng(0).choice(rows, _CANDIDATES, replace=False))
            proof, facts = sampling.proof(opened.descriptor_table.read_rows(some), some, pairs)
        try:
            found = taken or sampling.codebooks(rows)
        except InputError:
            self._staging.remove()
            raise
        self.source = VisualSource(self.source.model, self.source.settings, found)
        codec, columns = self.source.codec, self.source.columns

        def create(h5: h5py.File) -> None:
            arrays = None if found is None else codebook_arrays(found)
            create_tokens(h5, self._cache, "mllm", codec.name, columns, self.provenance, codebooks=arrays)
            if proof is not None:
                write_proof(h5, self._cache, proof, facts)

        return create

    def tokens_of(self, pixels: Pixels) -> ImageTokens:
        return self.source.to_tokens(pixels)

    def waits(self, row: int) -> bool:
        return row in self._staging

    def waiting(self, row: int) -> ImageTokens:
        return self.source.packed(self._staging.read(row))

    def finish(self) -> None:
        self._staging.remove()


def _check_same(bundle: Path, name: str, stored: Provenance, wanted: Provenance) -> None:
    held, asked = ({**json.loads(one.settings), "from": None} for one in (stored, wanted))
    if (stored.model_revision, held) != (wanted.model_revision, asked):
        raise MismatchError(
            bundle,
            f"cache {name!r} holds tokens of {stored.model} ({stored.model_revision}) with {stored.settings}, "
            f"asked for {wanted.model} ({wanted.model_revision}) with {wanted.settings}; "
            "keep both with --cache OTHER_NAME, or give --overwrite",
        )


def _checked(items: Iterable[LoadedPhoto], digests: npt.NDArray[np.uint8]) -> Iterator[LoadedPhoto]:
    """Turn photos whose content is not the one that was embedded into failures."""
    for item, digest in zip(items, digests, strict=True):
        if item.photo is not None and item.record.digest != digest.tobytes():
            error = ImageError(
                display(item.record.path),
                "changed",
                "is not the photo that was embedded; run `imgrank embed` on it again",
            )
            yield LoadedPhoto(replace(item.record, status=STATUS_NAMES.index("changed")), None, error)
        else:
            yield item
