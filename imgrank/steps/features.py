"""Where the second stage gets the features of a photo from: its pixels, or a token cache of the bundle.

A `FeatureSource` hides the difference between the two kinds of cache. A candidate that is not cached is computed
from its file with the settings that caching would use, so caching changes the time a search takes and not its order.
"""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterable, Iterator
from dataclasses import replace
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np

from imgrank.arrays import Ids, Pixels
from imgrank.bundle.layout import LOCAL_CACHE
from imgrank.bundle.provenance import Provenance
from imgrank.bundle.tokens import ImageTokens, TokenColumn, TokenTable, schema_of
from imgrank.config import TokenSettings
from imgrank.errors import DamagedBundleError, InputError, SettingsError
from imgrank.local.features import LocalFeatures
from imgrank.records import OK

if TYPE_CHECKING:
    from imgrank.local.keypoints import LocalSettings
    from imgrank.mllm.base import VisionLanguageModel, VisualTokens
    from imgrank.tokens.base import Codec, Reducer
    from imgrank.tokens.product_quantization import Codebooks

F = TypeVar("F", covariant=True)


class FeatureSource(Protocol[F]):
    """Turns pixels, or stored columns, into what a scorer compares."""

    @property
    def longer_side(self) -> int:
        """Pixels to which the longer side of a photo is reduced while it is decoded."""

    @property
    def cache_options(self) -> str:
        """What to give `imgrank cache-tokens BUNDLE` so that it keeps these features."""

    def of_query(self, pixels: Pixels) -> F:
        """Compute the features of a query: all of them, uncompressed."""

    def of_candidate(self, pixels: Pixels) -> F:
        """Compute the features of a database photo as a cache would give them back."""

    def of_tokens(self, tokens: ImageTokens) -> F:
        """Decode what a cache holds of one image."""


class LocalSource:
    """Built-in local features."""

    def __init__(self) -> None:
        from imgrank.local.keypoints import LocalSettings

        self._settings = LocalSettings()

    @property
    def provenance(self) -> Provenance:
        """Return what a cache made by this source says of itself."""
        return local_provenance(self._settings)

    @property
    def longer_side(self) -> int:
        """Return the size the features are computed at, pixels."""
        return self._settings.longer_side

    @property
    def cache_options(self) -> str:
        """Return the name of the cache."""
        return f"--cache {LOCAL_CACHE}"

    def of_query(self, pixels: Pixels) -> LocalFeatures:
        """Extract the features of a photo; storing and reading them back changes nothing."""
        from imgrank.local.keypoints import extract

        return extract(pixels, self._settings)

    def of_candidate(self, pixels: Pixels) -> LocalFeatures:
        """Extract the features of a photo."""
        return self.of_query(pixels)

    def of_tokens(self, tokens: ImageTokens) -> LocalFeatures:
        """Decode stored features; an image without any gives an empty set."""
        return LocalFeatures.from_columns(tokens.columns) if tokens.columns else LocalFeatures.empty()


def local_provenance(settings: LocalSettings) -> Provenance:
    """Return the provenance of a cache of local features: the same whichever command made it."""
    return Provenance("builtin-local", str(settings.version), settings.to_json())


def default_token_settings(model: VisionLanguageModel) -> TokenSettings:
    """Return how photos become tokens where the user does not say: a tuned model sees no more than in training."""
    from imgrank.mllm.profiles import profile_of

    profile = profile_of(model.name, {"model_type": model.family})
    return TokenSettings() if profile is None else profile.tokens


def visual_provenance(name: str, model: VisionLanguageModel, settings: TokenSettings) -> Provenance:
    """Return the provenance of a cache of visual tokens: which weights, how photos reach them, and what is kept.

    The number type of the model is left out: tokens that were computed in bfloat16 serve a scorer in float32.
    """
    vision = {key: value for key, value in model.settings.items() if key != "dtype"}
    return Provenance(
        name, model.revision, json.dumps({**dataclasses.asdict(settings), "vision": vision}, sort_keys=True)
    )


def kept_settings(provenance: Provenance) -> TokenSettings:
    """Return what a cache of visual tokens keeps of an image."""
    values = json.loads(provenance.settings)
    for other in ("vision", "from"):
        values.pop(other, None)
    return TokenSettings.from_json(json.dumps(values))


def differing_vision(provenance: Provenance, model: VisionLanguageModel) -> str:
    """Name what about photos differs between how a cache was made and what a model does now; empty: nothing."""
    held = json.loads(provenance.settings).get("vision")
    held = held if isinstance(held, dict) else {}
    here = json.loads(visual_provenance("", model, TokenSettings()).settings)["vision"]
    changed = sorted(key for key in held.keys() | here.keys() if held.get(key) != here.get(key))
    return ", ".join(f"{key} was {held.get(key)} and is {here.get(key)}" for key in changed)


def stored_codebooks(table: TokenTable) -> Codebooks | None:
    """Read the codebooks of a cache of visual tokens; None where its codec needs none.

    This is where a cache is opened for its tokens, so what it says of itself is compared with what it holds.

    Raises:
        DamagedBundleError: codebooks do not match their checksum, or the columns are not those of the recipe.
    """
    from imgrank.tokens.product_quantization import Codebooks
    from imgrank.tokens.recipe import codec_of

    codebooks = None
    try:
        if table.codebooks is not None:
            arrays = table.codebooks.read()
            if not all(np.isfinite(array).all() for array in arrays.values()):
                raise _unlike(table, "its codebooks hold NaN or infinity")
            codebooks = Codebooks(arrays["centroids"], arrays.get("rotation"))
        settings = kept_settings(table.provenance)
        codec = codec_of(settings, codebooks)
    except (SettingsError, InputError, KeyError) as error:
        raise _unlike(table, f"what it says of itself does not fit ({error})") from error
    first = table.token_columns[0].tail if table.token_columns else ()
    shape = first if codebooks is None else (codebooks.levels, codebooks.hidden)
    fits = len(shape) == 2 and table.schema == schema_of({**codec.columns(*shape), "position": ("<u2", (3,))})
    if not fits or table.codec != codec.name:
        raise _unlike(table, f"its columns are not those of {settings.store}")
    return codebooks


def _unlike(table: TokenTable, reason: str) -> DamagedBundleError:
    advice = f"make it again: imgrank cache-tokens {table.path} --cache {table.name} --overwrite"
    return DamagedBundleError(table.path, f"/tokens/{table.name}", f"{reason}; {advice}")


def stored_tokens(table: TokenTable | None, places: Ids, rows: Ids) -> Iterator[tuple[int, ImageTokens]]:
    """Yield (place, tokens) of the rows that a cache has tokens of."""
    if table is None:
        return
    inside = rows < len(table)
    for place, tokens in zip(places[inside].tolist(), table.read(rows[inside].tolist()), strict=True):
        if tokens.status == OK:
            yield place, tokens


class VisualSource:
    """Visual tokens of a multimodal language model.

    Args:
        model: computes them.
        settings: what is kept of a photo.
        codebooks: where the quantizer needs some; without them, tokens can be reduced and not yet stored.
    """

    def __init__(self, model: VisionLanguageModel, settings: TokenSettings, codebooks: Codebooks | None = None) -> None:
        from imgrank.tokens.recipe import codebook_spec, codec_of, reducers_of

        self.model, self.settings = model, settings
        self._reducers = reducers_of(settings, model.device)
        self.spec = codebook_spec(settings)
        ready = self.spec is None or codebooks is not None
        self._codec = codec_of(settings, codebooks, model.device) if ready else None
        self._codebooks = codebooks

    @property
    def codec(self) -> Codec:
        """Return what turns tokens into columns.

        Raises:
            SettingsError: its codebooks have not been given.
        """
        if self._codec is None:
            raise SettingsError(f"{self.settings.store} needs codebooks; `imgrank cache-tokens` makes them")
        return self._codec

    @property
    def codebook_digest(self) -> str:
        """Return what tells the codebooks apart from others; empty where there are none."""
        return "" if self._codebooks is None else self._codebooks.digest()

    @property
    def longer_side(self) -> int:
        """Return the size photos are seen at, pixels."""
        return self.model.decode_side(self.settings.longer_side)

    @property
    def cache_options(self) -> str:
        """Return the name of the model."""
        return f"--mllm {self.model.name}"

    def of_query(self, pixels: Pixels) -> VisualTokens:
        """Encode a photo and keep every token."""
        settings = self.settings
        (tokens,) = self.model.encode([pixels], longer_side=settings.longer_side, max_tokens=settings.max_tokens)
        return tokens

    def of_candidate(self, pixels: Pixels) -> VisualTokens:
        """Encode a photo, reduce it, and round it as its codec does."""
        return self.of_tokens(self.to_tokens(pixels))

    def to_tokens(self, pixels: Pixels) -> ImageTokens:
        """Encode and reduce a photo, in the form the cache stores."""
        return self.packed(self.reduced(self.of_query(pixels)))

    def reduced(self, tokens: VisualTokens) -> VisualTokens:
        """Return what the recipe leaves of all tokens of a photo, in float32."""
        return reduced(tokens, self._reducers)

    @property
    def columns(self) -> list[TokenColumn]:
        """Return the columns in which the cache stores tokens."""
        schema = self.codec.columns(self.model.levels, self.model.hidden)
        columns = [TokenColumn(name, dtype, tail) for name, (dtype, tail) in schema.items()]
        return [*columns, TokenColumn("position", "<u2", (3,))]

    def packed(self, tokens: VisualTokens) -> ImageTokens:
        """Bring tokens into the form the cache stores."""
        columns = self.codec.encode(tokens.vectors.astype(np.float32))
        return ImageTokens({**columns, "position": tokens.positions}, tokens.grid, tiles=tokens.tiles)

    def of_tokens(self, tokens: ImageTokens) -> VisualTokens:
        """Decode stored tokens."""
        from imgrank.mllm.base import VisualTokens

        columns = dict(tokens.columns)
        positions = columns.pop("position")
        return VisualTokens(self.codec.decode(columns), positions, tokens.grid, tokens.tiles)


def reduced(tokens: VisualTokens, reducers: Iterable[Reducer]) -> VisualTokens:
    """Return what reducers leave of the tokens of a photo, one after the other; they look at level 0 alone."""
    vectors, positions = tokens.vectors.astype(np.float32), tokens.positions
    for reducer in reducers:
        groups = reducer.reduce(vectors[:, 0], positions, tokens.grid)
        vectors, positions = groups.apply(vectors), positions[groups.places]
    return replace(tokens, vectors=vectors, positions=positions)


def is_whole(image: ImageTokens) -> bool:
    """Return whether a cached image has all the tokens that its model makes of it."""
    tiles = image.tiles[0] * image.tiles[1]
    full = (tiles + 1 if tiles > 1 else tiles) * image.grid[0] * image.grid[1]
    return len(image.columns.get("position", ())) == full > 0
