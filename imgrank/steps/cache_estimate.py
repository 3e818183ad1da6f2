"""`cache-tokens --dry-run`: what caching would take, from the tokens of a few photos."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from imgrank.bundle import layout
from imgrank.config import BUILTIN, DecodeSettings, TokenSettings
from imgrank.errors import InputError, SettingsError
from imgrank.progress import SILENT, Reporter
from imgrank.steps.cache_plans import VisualPlan, cache_name
from imgrank.steps.photos import open_photos
from imgrank.steps.token_request import TokenRequest
from imgrank.tokens.budget import IMAGE_BYTES, codebook_bytes, token_bytes

_PHOTOS = 3  # that are measured


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
    overwrite: bool = False,
    reporter: Reporter = SILENT,
) -> Estimate:
    """Tell what `cache_tokens` would do with the same arguments; nothing is written.

    Raises:
        SettingsError: the cache would be that of the local features.
        InputError: none of the photos can be read.
    """
    name = cache_name(cache, mllm, settings)
    if name == layout.LOCAL_CACHE:
        raise SettingsError(f"--dry-run is for visual tokens; the cache {name!r} has none")
    with open_photos(bundle, decode, root) as photos:
        kept = None if overwrite else photos.bundle.token_tables.get(name)
        plan = VisualPlan(bundle, name, mllm or BUILTIN, settings, kept, photos, device, dtype, reporter)
        todo = photos.usable(0 if kept is None else len(kept))
        # Twice: the first photos that a model sees take longer than all later ones.
        if not plan.usual(1):
            raise InputError(f"{bundle}: no photo can be read, so nothing can be told; give --root where they moved")
        started = time.monotonic()
        few = plan.usual(_PHOTOS)
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
