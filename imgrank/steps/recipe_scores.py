"""What a model says of the pairs of some shortlists while candidates are stored by one recipe or another.

All tokens of the photos are computed once for each size at which the model sees them, and wait on the disk; then each
recipe is applied to them and the pairs are scored again. Queries keep all of their tokens, as in a search.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Generic, TypeVar

import numpy as np

from imgrank.arrays import Floats, Ids, Pixels
from imgrank.bundle.tokens import ImageTokens
from imgrank.config import TokenSettings
from imgrank.errors import InputError
from imgrank.images.query import read_query
from imgrank.prefetch import in_threads
from imgrank.progress import Advance
from imgrank.records import DIGEST_SIZE
from imgrank.rerank.score_cache import ScoreCache
from imgrank.steps.collection import Collection
from imgrank.steps.features import VisualSource
from imgrank.steps.sample import TRAINING_TOKENS
from imgrank.steps.second_stage import fingerprint_of
from imgrank.steps.staging import Staging
from imgrank.tokens.budget import IMAGE_BYTES, codebook_bytes, token_bytes
from imgrank.tokens.product_quantization import train_codebooks
from imgrank.tokens.recipe import recipe_text

if TYPE_CHECKING:
    from imgrank.mllm.base import VisualTokens
    from imgrank.rerank.packing import PairScorer

_PART = 32  # photos of one staged file
_CACHE = "tune"  # name under which tokens wait
_MEMORY = 2 * 2**30  # bytes of tokens that are held rather than made again

T = TypeVar("T")


@dataclass(frozen=True, eq=False)
class Shortlisted:
    """One query and its candidates.

    Attributes:
        query: a row of the collection, or a name that opens.
        candidates: (n,) rows of the collection.
    """

    query: int | bytes
    candidates: Ids


@dataclass(frozen=True, eq=False)
class RecipeScores:
    """What was measured of one recipe.

    Attributes:
        recipe: in full.
        tokens: kept of a photo, the mean.
        bytes_per_image: of the cache, without what is stored once.
        bytes_once: codebooks and rotations.
        logits: for each query, (candidates,) float32 logit differences.
    """

    recipe: str
    tokens: float
    bytes_per_image: float
    bytes_once: int
    logits: list[Floats]


def size_of(settings: TokenSettings) -> tuple[int, int]:
    """Return at which size the model sees a photo: pixels of the longer side, and the most tokens."""
    return settings.longer_side, settings.max_tokens


def whole(settings: TokenSettings) -> TokenSettings:
    """Return the recipe that keeps all tokens of the same size."""
    return replace(settings, reduce="", store="float16")


class RecipeScorer:
    """Scores the same pairs with one recipe after the other.

    Args:
        photos: the collection; candidates and queries that are rows of it have to be at hand as they were embedded.
        scorer: the model and its question.
        shortlists: what is scored.
        beside: name beside which tokens wait until `forget`.
        facts: what rows and queries mean, beside the model and the size; tokens that wait for others are thrown away.
        known: where logits of earlier runs are kept; None keeps none.
    """

    def __init__(
        self,
        photos: Collection,
        scorer: PairScorer,
        shortlists: Sequence[Shortlisted],
        *,
        beside: Path,
        facts: str = "",
        known: ScoreCache | None = None,
    ) -> None:
        self._photos, self._scorer, self._shortlists = photos, scorer, list(shortlists)
        self._beside, self._facts, self._known = beside, facts, known
        self._rows = sorted(
            {row for one in shortlists for row in one.candidates.tolist()}
            | {one.query for one in shortlists if isinstance(one.query, int)}
        )
        # Queries that are no photos of the collection are numbered behind its rows.
        self._keys = [
            one.query if isinstance(one.query, int) else len(photos) + place for place, one in enumerate(shortlists)
        ]
        self._names = {
            key: one.query for key, one in zip(self._keys, shortlists, strict=True) if isinstance(one.query, bytes)
        }
        self._size: tuple[int, int] | None = None
        self._staging: Staging | None = None

    @property
    def photos(self) -> int:
        """Return how many photos are encoded at each size."""
        return len(self._rows) + len(self._names)

    @property
    def pairs(self) -> int:
        """Return how many pairs each recipe scores."""
        return sum(len(one.candidates) for one in self._shortlists)

    def encode(self, settings: TokenSettings, advance: Advance) -> None:
        """Compute all tokens of all photos at the size of a recipe, where that has not been done.

        Tokens of another size that wait are thrown away.

        Raises:
            InputError: a photo is gone, or not the one that was embedded.
            ImageError: a query that is not of the collection cannot be read.
        """
        if self._size == size_of(settings):
            advance(self.photos)
            return
        self.forget()
        model, source = self._scorer.model, VisualSource(self._scorer.model, whole(settings))
        staging = self._staging_of(settings)
        missing = [key for key in [*self._rows, *self._names] if key not in staging]
        advance(self.photos - len(missing))
        with ThreadPoolExecutor(model.encoding_threads) as pool:
            for start in range(0, len(missing), _PART):
                part = missing[start : start + _PART]
                pixels = self._pixels(part, source.longer_side)
                tokens = in_threads(pool, source.of_query, pixels, 2 * model.encoding_threads)
                staging.add(f"{part[0]}-{len(part)}", dict(zip(part, tokens, strict=True)))
                advance(len(part))
        self._size, self._staging = size_of(settings), staging

    def _pixels(self, keys: list[int], longer_side: int) -> Iterator[Pixels]:
        """Read photos in their order: rows of the collection first, which ascend, then queries of other places."""
        rows = np.array([key for key in keys if key not in self._names], dtype=np.int64)
        for part, _, own in self._photos.split(rows):
            for item in self._photos.parts[part].load(own, longer_side):
                if item.photo is None:
                    raise InputError(f"{item.error}; tuning needs the photos as they were embedded")
                yield item.photo.pixels
        for key in keys[len(rows) :]:
            yield read_query(self._names[key], self._photos.settings, longer_side).pixels

    def _staging_of(self, settings: TokenSettings) -> Staging:
        facts = f"{self._scorer.model.revision} {whole(settings).to_json()}{self._facts}"
        return Staging(self._beside, f"{_CACHE}-{settings.longer_side}-{settings.max_tokens}", facts)

    def forget(self, *recipes: TokenSettings) -> None:
        """Throw away the tokens that wait: those that were encoded last, and those of the sizes of some recipes."""
        if self._staging is not None:
            self._staging.remove()
        self._size, self._staging = None, None
        for size in {size_of(one): one for one in recipes}.values():
            self._staging_of(size).remove()

    def all_tokens(self, advance: Advance) -> list[Floats]:
        """Return the logits with all tokens, just as the model gave them, at the size that was encoded last."""
        read = self._waiting.read
        return [self._ask(key, one, read, advance) for key, one in zip(self._keys, self._shortlists, strict=True)]

    def score(self, settings: TokenSettings, advance: Advance) -> RecipeScores:
        """Apply a recipe of the size that was encoded last, and score all pairs."""
        model, read = self._scorer.model, self._waiting.read
        plain = VisualSource(model, settings)
        left = _Held(lambda row: plain.reduced(read(row)), lambda tokens: tokens.vectors.nbytes)
        codebooks = None
        if plain.spec is not None:
            vectors, found = list[Floats](), 0
            for row in np.random.default_rng([0xC0DE, 0]).permutation(self._rows).tolist():
                vectors.append(left(row).vectors)
                found += len(vectors[-1])
                if found >= TRAINING_TOKENS:
                    break
            codebooks = train_codebooks(np.concatenate(vectors)[:TRAINING_TOKENS], plain.spec, device=model.device)
        source = VisualSource(model, settings, codebooks)
        packed = _Held(lambda row: source.packed(left(row)), _bytes_of)
        counts, digests = [], {}
        for row in self._rows:
            stored = packed(row)
            counts.append(len(stored.columns["position"]))
            digests[row] = _digest(stored)
        tokens = float(np.mean(counts))
        # By what is stored, not by photo and recipe: that is all that the model sees of a candidate.
        way = fingerprint_of(self._scorer, f"as stored: {settings.store}{source.codebook_digest}")
        logits = []
        for key, one in zip(self._keys, self._shortlists, strict=True):
            rows = one.candidates.tolist()
            query, images = _digest(read(key)), [digests[row] for row in rows]
            differences = np.full(len(rows), np.nan, dtype=np.float32)
            if self._known is not None:
                differences = self._known.get(way, query, images)
            new = np.flatnonzero(np.isnan(differences))
            advance(len(rows) - len(new))
            if len(new):
                asked = Shortlisted(one.query, one.candidates[new])
                differences[new] = self._ask(key, asked, lambda row: source.of_tokens(packed(row)), advance)
                if self._known is not None:
                    self._known.put(way, query, [images[place] for place in new], differences[new])
            logits.append(differences)
        return RecipeScores(
            recipe=recipe_text(settings),
            tokens=round(tokens, 2),
            bytes_per_image=round(IMAGE_BYTES + tokens * token_bytes(settings, model.levels, model.hidden), 1),
            bytes_once=codebook_bytes(settings, model.levels, model.hidden),
            logits=logits,
        )

    @property
    def _waiting(self) -> Staging:
        assert self._staging is not None  # encode first
        return self._staging

    def _ask(self, key: int, one: Shortlisted, tokens_of: Callable[[int], VisualTokens], advance: Advance) -> Floats:
        logits = self._scorer.score(self._waiting.read(key), map(tokens_of, one.candidates.tolist()))
        advance(len(logits))
        return logits


class _Held(Generic[T]):
    """Makes something of each row, and holds it while there is room: all tokens of many photos may be too much."""

    def __init__(self, make: Callable[[int], T], size: Callable[[T], int]) -> None:
        self._make, self._size, self._room = make, size, _MEMORY
        self._made: dict[int, T] = {}

    def __call__(self, row: int) -> T:
        if row in self._made:
            return self._made[row]
        made = self._make(row)
        if self._size(made) <= self._room:
            self._room -= self._size(made)
            self._made[row] = made
        return made


def _bytes_of(tokens: ImageTokens) -> int:
    return sum(column.nbytes for column in tokens.columns.values())


def _digest(tokens: ImageTokens | VisualTokens) -> bytes:
    """Return what tells the tokens of a photo apart from others."""
    columns = (
        tokens.columns if isinstance(tokens, ImageTokens) else {"vectors": tokens.vectors, "position": tokens.positions}
    )
    digest = hashlib.blake2b(repr((tokens.grid, tokens.tiles)).encode(), digest_size=DIGEST_SIZE)
    for name in sorted(columns):
        digest.update(repr((name, columns[name].dtype.str, columns[name].shape)).encode())
        digest.update(np.ascontiguousarray(columns[name]).data)
    return digest.digest()
