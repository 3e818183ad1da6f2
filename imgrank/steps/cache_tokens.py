"""`cache-tokens`: photos of a bundle in, their visual tokens (or local features) in `/tokens/NAME` out.

Rows are written in parts, each one commit, so a run that was cut goes on where the last part ended.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field, replace
from pathlib import Path

import h5py
import numpy as np
import numpy.typing as npt

from imgrank.arrays import Pixels
from imgrank.bundle import file, layout
from imgrank.bundle.provenance import Provenance
from imgrank.bundle.tokens import ImageTokens, append_tokens, check_cache_name, create_tokens
from imgrank.config import BUILTIN, DecodeSettings, TokenSettings
from imgrank.errors import ImageError, InputError, MismatchError, SettingsError
from imgrank.images.decode import LoadedPhoto
from imgrank.images.load import load
from imgrank.images.scan import display
from imgrank.progress import SILENT, Reporter
from imgrank.records import OK, STATUS_NAMES
from imgrank.steps.embed import create_local_cache, local_tokens
from imgrank.steps.features import (
    LocalSource,
    VisualSource,
    default_token_settings,
    kept_settings,
    visual_provenance,
)

PART = 16  # rows of one commit


@dataclass
class CacheSummary:
    """What `cache_tokens` did."""

    cache: str
    images: int = 0  # whose tokens were computed in this run
    known: int = 0  # rows that were cached before
    skipped: dict[str, int] = field(default_factory=dict)  # status name -> photos without tokens in this run

    @property
    def skipped_count(self) -> int:
        """Return how many photos got no tokens."""
        return sum(self.skipped.values())


@dataclass(frozen=True)
class _Plan:
    provenance: Provenance
    longer_side: int
    create: Callable[[h5py.File, str], None]
    tokens_of: Callable[[Pixels], ImageTokens]
    threads: int  # from which `tokens_of` is called


def cache_tokens(
    bundle: Path,
    *,
    mllm: str | None = None,
    cache: str | None = None,
    settings: TokenSettings | None = None,
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
        settings: of pruning and number type; None takes those of the present cache, or the defaults.
        decode: limits and workers.
        root: folder of the photos, where it is not the one the bundle states.
        device: for the model.
        dtype: for the model.
        overwrite: throw a present cache of that name away first.
        strict: stop at the first photo that cannot be used.
        reporter: hears of progress and of each photo left out.

    Raises:
        MismatchError: a cache of that name was made by another model or with other settings.
        InputError: a photo has changed since it was embedded.
    """
    name = _cache_name(cache, mllm, settings)
    if not bundle.exists():
        file.read(bundle)  # raises, with the command to run
    with file.Writer(bundle) as writer:
        with file.read(bundle) as opened:
            present = opened.token_tables.get(name)
            known = len(present) if present is not None and not overwrite else 0
            stored = None if present is None or overwrite else present.provenance
            statuses = opened.images.statuses()
            paths = opened.images.paths()
            digests = opened.images.columns["digest"].read()
            base = opened.root if root is None else os.fsencode(root.resolve())
        summary = CacheSummary(name, known=known)
        if name != layout.LOCAL_CACHE and settings is None and stored is not None:
            settings = kept_settings(stored)
        plan = _local_plan() if name == layout.LOCAL_CACHE else _plan(mllm or BUILTIN, settings, device, dtype)
        if stored is not None:
            _check_same(bundle, name, stored, plan.provenance)
            if known == len(paths):
                return summary
        todo = [row for row in range(known, len(paths)) if statuses[row] == OK]
        files = [os.path.join(base, paths[row]) for row in todo]  # noqa: PTH118  # bytes
        if files and not any(map(os.path.exists, files[:100])):
            raise InputError(
                f"{display(files[0])} and others are not there; if the photos moved, give --root with their folder"
            )
        if present is not None and overwrite:
            # On its own: HDF5 would put what is created beside it into the freed bytes, which a reader may still read.
            with writer.transaction() as h5:
                del h5[layout.TOKENS][name]
        if stored is None:
            with writer.transaction() as h5:
                plan.create(h5, name)
        loaded = _checked(load(files, decode or DecodeSettings(), longer_side=plan.longer_side), digests[todo])
        with reporter.bar(len(todo), "cache-tokens", "photo") as advance, ThreadPoolExecutor(plan.threads) as pool:
            for start in range(known, len(paths), PART):
                images: list[ImageTokens | Future[ImageTokens]] = []
                for row in range(start, min(start + PART, len(paths))):
                    if statuses[row] != OK:
                        images.append(ImageTokens({}, (0, 0), int(statuses[row])))
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
                    advance(1)
                ready = [image.result() if isinstance(image, Future) else image for image in images]
                with writer.transaction() as h5:
                    append_tokens(h5, name, ready)
    return summary


def _cache_name(cache: str | None, mllm: str | None, settings: TokenSettings | None) -> str:
    own = layout.BUILTIN_CACHE if mllm in (None, BUILTIN) else layout.DEFAULT_CACHE
    name = check_cache_name(cache or own)
    if name == layout.LOCAL_CACHE and (mllm is not None or settings is not None):
        raise SettingsError(
            f"the cache {layout.LOCAL_CACHE!r} is that of the built-in local features, which have no model and no "
            "options; choose another name for the visual tokens of a model"
        )
    return name


def _local_plan() -> _Plan:
    from imgrank.local.keypoints import available_threads

    local = LocalSource()

    def create_local(h5: h5py.File, name: str) -> None:
        create_local_cache(h5, local.provenance)

    return _Plan(
        local.provenance,
        local.longer_side,
        create_local,
        lambda pixels: local_tokens(local.of_query(pixels), OK),
        available_threads(),
    )


def _plan(mllm: str, settings: TokenSettings | None, device: str, dtype: str) -> _Plan:
    from imgrank.mllm.registry import load_mllm

    name = mllm if mllm == BUILTIN or not Path(mllm).is_dir() else str(Path(mllm).resolve())
    model = load_mllm(name, device=device, dtype=dtype)
    settings = settings or default_token_settings(model)
    visual = VisualSource(model, settings)
    provenance = visual_provenance(name, model, settings)

    def create_visual(h5: h5py.File, cache: str) -> None:
        create_tokens(h5, cache, "mllm", visual.codec.name, visual.columns, provenance)

    return _Plan(provenance, visual.longer_side, create_visual, visual.to_tokens, model.encoding_threads)


def _check_same(bundle: Path, name: str, stored: Provenance, wanted: Provenance) -> None:
    if (stored.model_revision, stored.settings) != (wanted.model_revision, wanted.settings):
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
