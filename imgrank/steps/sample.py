"""What a token cache needs to know of its photos before the first row: codebooks, and a proof of its quality.

Both come from photos of the bundle itself. Their reduced tokens are staged, so that caching does not compute them
again, and a run that was cut goes on after the last part.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Executor
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from imgrank.arrays import Floats, Ids
from imgrank.errors import InputError, SettingsError
from imgrank.images.decode import LoadedPhoto
from imgrank.prefetch import in_threads
from imgrank.progress import Reporter
from imgrank.steps.features import VisualSource
from imgrank.steps.proof import choose_pairs, joined, proof_facts, proof_scorer, rounded
from imgrank.steps.staging import Arrays, Staging

if TYPE_CHECKING:
    from imgrank.mllm.base import VisualTokens
    from imgrank.rerank.packing import PairScorer
    from imgrank.tokens.product_quantization import Codebooks

TRAINING_TOKENS = 128 * 256  # so many for each of 256 centroids
_PART = 64  # photos of one file of staged tokens

Load = Callable[[Ids], Iterator[LoadedPhoto]]


class Sampling:
    """Draws and computes the sample.

    Args:
        source: of the tokens.
        staging: where they wait.
        load: reads the photos of image rows, in order.
        pool: computes tokens.
        reporter: hears of progress.
    """

    def __init__(self, source: VisualSource, staging: Staging, load: Load, pool: Executor, reporter: Reporter) -> None:
        self._source, self._staging, self._load, self._reporter = source, staging, load, reporter
        self._pool = pool

    def _encoded(self, rows: Ids) -> Iterator[tuple[int, VisualTokens]]:
        """Yield all tokens of each photo that can be read."""

        def encode(item: LoadedPhoto) -> VisualTokens | None:
            return None if item.photo is None else self._source.of_query(item.photo.pixels)

        ahead = 2 * self._source.model.encoding_threads
        for row, tokens in zip(rows.tolist(), in_threads(self._pool, encode, self._load(rows), ahead), strict=True):
            if tokens is not None:
                yield row, tokens

    def proof(self, descriptors: Floats, rows: Ids, pairs: int) -> tuple[Arrays | None, str]:
        """Score pairs with all of their tokens; returns the arrays of the proof, and how the model was asked.

        Args:
            descriptors: (n, dim) of the photos that may be chosen.
            rows: (n,) their image rows.
            pairs: at most so many; 0 does without.
        """
        groups = choose_pairs(descriptors, rows, pairs) if pairs else []
        if not groups:
            return None, ""
        try:
            scorer = proof_scorer(self._source.model)
        except SettingsError as error:  # a model that is never asked anything, for late interaction
            self._reporter.note(f"no proof of the quality of this cache: {error}")
            return None, ""
        total = sum(1 + len(candidates) for _, candidates in groups)
        found = []
        with self._reporter.bar(total, "proof", "photo") as advance:
            for query, candidates in groups:
                name = f"proof-{query}"
                if name not in self._staging.parts:
                    self._score_group(scorer, name, query, candidates)
                advance(1 + len(candidates))
                if len(self._staging.parts[name].get("logits", ())):
                    found.append(self._staging.parts[name])
        return (joined(found), proof_facts(scorer)) if found else (None, "")

    def _score_group(self, scorer: PairScorer, name: str, query: int, candidates: Ids) -> None:
        kept: dict[int, VisualTokens] = {}
        photos = self._encoded(np.array([query, *candidates]))
        row, tokens = next(photos, (-1, None))
        if tokens is None or row != query:  # the query cannot be read: no proof by it
            self._staging.add(name, {})
            return
        again, arrays = rounded(tokens)
        kept[query] = self._source.reduced(tokens)

        def rest() -> Iterator[VisualTokens]:
            for row, tokens in photos:
                kept[row] = self._source.reduced(tokens)
                yield tokens

        logits = scorer.score(again, rest())
        arrays |= {"queries": np.array([query], "<u4"), "candidates": np.array([*kept][1:], "<u4"), "logits": logits}
        self._staging.add(name, kept, arrays)

    def codebooks(self, rows: Ids, seed: int = 0) -> Codebooks | None:
        """Train the codebooks that the recipe needs, on the tokens of randomly chosen photos.

        Raises:
            InputError: there are too few tokens.
        """
        from imgrank.tokens.product_quantization import train_codebooks

        spec = self._source.spec
        if spec is None:
            return None
        order = np.random.default_rng([0xC0DE, seed]).permutation(rows)
        parts: list[npt.NDArray[np.float16]] = []
        count = 0
        with self._reporter.bar(TRAINING_TOKENS, "sample", "token") as advance:
            for start in range(0, len(order), _PART):
                part = order[start : start + _PART]
                missing = np.sort(part[[row not in self._staging for row in part.tolist()]])
                if len(missing):
                    reduced = {row: self._source.reduced(tokens) for row, tokens in self._encoded(missing)}
                    self._staging.add(f"sample-{start}", reduced)
                found = [self._staging.read(row).vectors for row in np.sort(part).tolist() if row in self._staging]
                parts += found
                new = sum(map(len, found))
                advance(min(new, max(0, TRAINING_TOKENS - count)))
                count += new
                if count >= TRAINING_TOKENS:
                    break
        if not count:
            raise InputError("no photo of the bundle can be read, so there are no tokens to train codebooks on")
        vectors = np.concatenate(parts)[:TRAINING_TOKENS].astype(np.float32)
        self._reporter.note(f"training codebooks for {self._source.settings.store} on {len(vectors)} tokens")
        return train_codebooks(vectors, spec, device=self._source.model.device)


def usual_tokens(source: VisualSource, photos: Iterable[LoadedPhoto], count: int = 3) -> list[VisualTokens]:
    """Return all tokens of the first few photos that can be read."""
    found: list[VisualTokens] = []
    for item in photos:
        if item.photo is not None:
            found.append(source.of_query(item.photo.pixels))
        if len(found) == count:
            break
    return found
