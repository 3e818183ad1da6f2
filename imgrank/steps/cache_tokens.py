"""`cache-tokens`: photos of a bundle in, their visual tokens (or local features) in `/tokens/NAME` out.

Rows are written in parts, each one commit, so a run that was cut goes on where the last part ended.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from concurrent.futures import Executor, Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from imgrank.arrays import Ids
from imgrank.bundle import file, layout
from imgrank.bundle.provenance import Provenance
from imgrank.bundle.tokens import ImageTokens, append_tokens, replace_tokens
from imgrank.config import BUILTIN, DecodeSettings, TokenSettings
from imgrank.errors import MismatchError, SettingsError
from imgrank.progress import SILENT, Reporter
from imgrank.records import OK
from imgrank.steps.cache_plans import CachePlan, LocalPlan, VisualPlan, cache_name
from imgrank.steps.features import is_whole
from imgrank.steps.photos import BundlePhotos, open_photos
from imgrank.steps.proof import PAIRS
from imgrank.steps.token_request import TokenRequest

PART = 16  # rows of one commit


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
        overwrite: make a new cache, which takes the place of a present one of that name when it is complete.
        strict: stop at the first photo that cannot be used.
        reporter: hears of progress and of each photo left out.

    Raises:
        MismatchError: a cache of that name was made by another model or with other settings, or the codebooks were.
        InputError: a photo has changed since it was embedded, or there are too few tokens to train codebooks on.
    """
    name = cache_name(cache, mllm, settings)
    with file.Writer(bundle) as writer, open_photos(bundle, decode, root) as photos:
        opened = photos.bundle
        present = None if overwrite else opened.token_tables.get(name)
        plan: CachePlan = (
            LocalPlan()
            if name == layout.LOCAL_CACHE
            else VisualPlan(bundle, name, mllm or BUILTIN, settings, present, photos, device, dtype, reporter)
        )
        if present is not None:
            _check_same(bundle, name, present.provenance, plan.provenance)
        # A cache that is to take the place of another is made beside it: what is there serves until it is complete.
        target = layout.UNFINISHED + name if overwrite and name in opened.token_tables else name
        begun = opened.unfinished.get(target) if target != name else present
        if target != name and begun is not None and not _same(begun.provenance, plan.provenance):
            with writer.transaction() as h5:  # of a run with other wishes
                del h5[layout.TOKENS][target]
            begun = None
        known = 0 if begun is None else len(begun)
        summary = CacheSummary(name, recipe=plan.recipe, known=known)
        todo = photos.usable(known)
        photos.check_there(todo)
        with ThreadPoolExecutor(plan.threads) as pool:
            if begun is not None:
                if codebooks:
                    raise SettingsError(f"cache {name!r} has codebooks; leave --codebooks out, or give --overwrite")
                plan.resume(begun)
            else:
                create = plan.prepare(opened, todo, pool, codebooks, proof_pairs)
                with writer.transaction() as h5:
                    create(h5, target)
            _fill(writer, target, plan, photos, todo, known, pool, summary, strict, reporter)
        if target != name:
            with writer.transaction() as h5:
                replace_tokens(h5, target, name)
        plan.finish()
    return summary


def _fill(
    writer: file.Writer,
    target: str,
    plan: CachePlan,
    photos: BundlePhotos,
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
                append_tokens(h5, target, ready)


def _same(stored: Provenance, wanted: Provenance) -> bool:
    return stored.model_revision == wanted.model_revision and stored.settings == wanted.settings


def _check_same(bundle: Path, name: str, stored: Provenance, wanted: Provenance) -> None:
    held, asked = ({**json.loads(one.settings), "from": None} for one in (stored, wanted))
    if (stored.model_revision, held) != (wanted.model_revision, asked):
        raise MismatchError(
            bundle,
            f"cache {name!r} holds tokens of {stored.model} ({stored.model_revision}) with {stored.settings}, "
            f"asked for {wanted.model} ({wanted.model_revision}) with {wanted.settings}; "
            "keep both with --cache OTHER_NAME, or give --overwrite",
        )
