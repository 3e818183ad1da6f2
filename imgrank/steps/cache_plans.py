"""How the photos of one token cache become its rows: built-in local features, or visual tokens of a model."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import Executor
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol

import h5py
import numpy as np

from imgrank.arrays import Ids, Pixels
from imgrank.bundle import file, layout
from imgrank.bundle.provenance import Provenance
from imgrank.bundle.tokens import ImageTokens, TokenTable, check_cache_name, create_tokens, write_proof
from imgrank.config import BUILTIN, TokenSettings
from imgrank.errors import InputError, SettingsError
from imgrank.progress import Reporter
from imgrank.records import OK
from imgrank.steps.codebooks import codebook_arrays, load_codebooks
from imgrank.steps.embed import create_local_cache, local_tokens
from imgrank.steps.features import (
    LocalSource,
    VisualSource,
    default_token_settings,
    kept_settings,
    stored_codebooks,
    visual_provenance,
)
from imgrank.steps.photos import BundlePhotos
from imgrank.steps.sample import Sampling, usual_tokens
from imgrank.steps.staging import Staging
from imgrank.steps.token_request import TokenRequest
from imgrank.tokens.product_quantization import check_subvectors
from imgrank.tokens.recipe import recipe_text

if TYPE_CHECKING:
    from imgrank.mllm.base import VisualTokens

_CANDIDATES = 20_000  # photos among which the pairs of a proof are chosen, so that memory does not grow with a bundle

Create = Callable[[h5py.File, str], None]  # makes the empty cache of a name, inside a transaction


class CachePlan(Protocol):
    """Computes the rows of one cache."""

    provenance: Provenance
    recipe: str
    side: int  # pixels to which photos are reduced while they are decoded
    threads: int  # from which `tokens_of` is called

    def prepare(self, opened: file.Bundle, rows: Ids, pool: Executor, codebooks: Sequence[Path], pairs: int) -> Create:
        """Learn what is needed before the first row; nothing in the bundle changes.

        Raises:
            ImgrankError: what is asked cannot be done.
        """

    def resume(self, kept: TokenTable) -> None:
        """Learn what is needed from a cache that was begun."""

    def tokens_of(self, pixels: Pixels) -> ImageTokens:
        """Compute the row of a photo."""

    def waits(self, row: int) -> bool:
        """Return whether the tokens of a row are at hand already."""

    def waiting(self, row: int) -> ImageTokens:
        """Return the row of a photo whose tokens are at hand."""

    def finish(self) -> None:
        """Throw away what is at hand."""


def cache_name(cache: str | None, mllm: str | None, settings: TokenSettings | TokenRequest | None) -> str:
    """Return the name of a cache for a model.

    Raises:
        SettingsError: it cannot be a name, or is that of the local features while a model or settings are given.
    """
    own = layout.BUILTIN_CACHE if mllm in (None, BUILTIN) else layout.DEFAULT_CACHE
    name = check_cache_name(cache or own)
    if name == layout.LOCAL_CACHE and (mllm is not None or settings is not None):
        raise SettingsError(
            f"the cache {layout.LOCAL_CACHE!r} is that of the built-in local features, which have no model and no "
            "options; choose another name for the visual tokens of a model"
        )
    return name


class LocalPlan:
    """The built-in local features."""

    recipe = ""

    def __init__(self) -> None:
        from imgrank.local.keypoints import available_threads

        self._source = LocalSource()
        self.provenance, self.side = self._source.provenance, self._source.longer_side
        self.threads = available_threads()

    def prepare(self, opened: file.Bundle, rows: Ids, pool: Executor, codebooks: Sequence[Path], pairs: int) -> Create:
        """Check that no codebooks are given."""
        if codebooks:
            raise SettingsError(f"the cache {layout.LOCAL_CACHE!r} takes no codebooks")
        return lambda h5, name: create_local_cache(h5, self.provenance, name)

    def resume(self, kept: TokenTable) -> None:
        """Do nothing."""

    def tokens_of(self, pixels: Pixels) -> ImageTokens:
        """Compute the features of a photo."""
        return local_tokens(self._source.of_query(pixels), OK)

    def waits(self, row: int) -> bool:
        """Return False."""
        return False

    def waiting(self, row: int) -> ImageTokens:
        """Raise: nothing waits."""
        raise KeyError(row)

    def finish(self) -> None:
        """Do nothing."""


class VisualPlan:
    """Visual tokens of a model.

    Args:
        bundle: where the cache is made.
        cache: its name.
        mllm: model id or folder.
        settings: what is kept of a photo, or wishes; None: as the present cache has it, or the model's defaults.
        present: the cache whose settings are taken over.
        photos: of the bundle.
        device: for the model.
        dtype: for the model.
        reporter: hears of progress.
    """

    def __init__(
        self,
        bundle: Path,
        cache: str,
        mllm: str,
        settings: TokenSettings | TokenRequest | None,
        present: TokenTable | None,
        photos: BundlePhotos,
        device: str,
        dtype: str,
        reporter: Reporter,
    ) -> None:
        from imgrank.mllm.registry import load_mllm

        name = mllm if mllm == BUILTIN or not Path(mllm).is_dir() else str(Path(mllm).resolve())
        model = load_mllm(name, device=device, dtype=dtype)
        self._photos, self._reporter = photos, reporter
        default = default_token_settings(model)
        if settings is None:
            settings = default if present is None else kept_settings(present.provenance)
        elif isinstance(settings, TokenRequest):
            self.source = VisualSource(model, replace(default, reduce="", store="float16"))
            settings = settings.settings(
                default, model.levels, model.hidden, lambda: max(map(len, self.usual(3)), default=default.max_tokens)
            )
        self.source = VisualSource(model, settings)
        self.provenance = visual_provenance(name, model, settings)
        self.recipe = recipe_text(settings)
        self.side, self.threads = self.source.longer_side, model.encoding_threads
        self._staging = Staging(bundle, cache, f"{model.revision} {self.provenance.settings}")

    def usual(self, count: int) -> list[VisualTokens]:
        """Return all tokens of the first photos."""
        return usual_tokens(self.source, self._photos.load(self._photos.usable()[:100], self.source.longer_side), count)

    def prepare(self, opened: file.Bundle, rows: Ids, pool: Executor, codebooks: Sequence[Path], pairs: int) -> Create:
        """Load or train codebooks, and make the proof."""
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

        def create(h5: h5py.File, name: str) -> None:
            arrays = None if found is None else codebook_arrays(found)
            create_tokens(h5, name, "mllm", codec.name, columns, self.provenance, codebooks=arrays)
            if proof is not None:
                write_proof(h5, name, proof, facts)

        return create

    def resume(self, kept: TokenTable) -> None:
        """Take the codebooks of a cache."""
        self.source = VisualSource(self.source.model, self.source.settings, stored_codebooks(kept))

    def tokens_of(self, pixels: Pixels) -> ImageTokens:
        """Compute the tokens of a photo."""
        return self.source.to_tokens(pixels)

    def waits(self, row: int) -> bool:
        """Return whether the photo was in the sample."""
        return row in self._staging

    def waiting(self, row: int) -> ImageTokens:
        """Return the tokens of a photo of the sample."""
        return self.source.packed(self._staging.read(row))

    def finish(self) -> None:
        """Throw the sample away."""
        self._staging.remove()
