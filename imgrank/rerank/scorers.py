"""The scorers by name: each compares the features of a query with those of k candidates."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np

from imgrank.rerank.base import PairScores

if TYPE_CHECKING:
    from imgrank.local.features import LocalFeatures
    from imgrank.mllm.base import VisualTokens
    from imgrank.rerank.packing import PairScorer

F = TypeVar("F", contravariant=True)


class Scorer(Protocol[F]):
    """Scores pairs; `name` is what the records carry."""

    @property
    def name(self) -> str:
        """Name of the scorer."""

    def score(self, query: F, candidates: Sequence[F]) -> PairScores:
        """Return the scores of the candidates in their order; none depends on the others."""


class GeometricScorer:
    """Spatially consistent matches of local features; no model."""

    name = "geometric"

    def score(self, query: LocalFeatures, candidates: Sequence[LocalFeatures]) -> PairScores:
        """Return the scores of `imgrank.local.geometry.match_score`."""
        from imgrank.local.geometry import match_score

        return PairScores(match_score(query, candidates).scores)


class LocalMaxSimScorer:
    """Late interaction of local descriptors, without their places; no model."""

    name = "maxsim"

    def score(self, query: LocalFeatures, candidates: Sequence[LocalFeatures]) -> PairScores:
        """Return the symmetric mean of best cosines."""
        from imgrank.rerank.maxsim import maxsim

        return PairScores(np.clip(maxsim(query.vectors(), [c.vectors() for c in candidates]), 0.0, 1.0))


class VisualMaxSimScorer:
    """Late interaction of visual tokens; no language model."""

    name = "maxsim"

    def score(self, query: VisualTokens, candidates: Sequence[VisualTokens]) -> PairScores:
        """Return the symmetric mean of best cosines of what the language model would receive (level 0)."""
        from imgrank.rerank.maxsim import maxsim

        vectors = [candidate.vectors[:, 0].astype(np.float32) for candidate in candidates]
        return PairScores(np.clip(maxsim(query.vectors[:, 0].astype(np.float32), vectors), 0.0, 1.0))


class MllmScorer:
    """The next-token probability of "same" of a multimodal language model."""

    name = "mllm"

    def __init__(self, pairs: PairScorer) -> None:
        self._pairs = pairs

    def score(self, query: VisualTokens, candidates: Sequence[VisualTokens]) -> PairScores:
        """Return probabilities and logit differences; a candidate without visual tokens cannot be scored."""
        return PairScores.of_logits(self._pairs.score(query, candidates))
