"""The scorers by name: each compares the features of a query with those of candidates."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from typing import TYPE_CHECKING, Protocol, TypeVar

import numpy as np

from imgrank.rerank.base import PairScores

if TYPE_CHECKING:
    from imgrank.local.features import LocalFeatures
    from imgrank.mllm.base import VisualTokens
    from imgrank.rerank.packing import PairScorer, SymmetricPairScorer

F = TypeVar("F", contravariant=True)
T = TypeVar("T")

# Scores candidates of one query, some at a time, in their order, reading them as they are needed. It may be called more
# than once; what the candidates of a query share is computed once.
Scoring = Callable[[Iterable[T]], Iterator[PairScores]]


class Scorer(Protocol[F]):
    """Scores pairs; none depends on the others. `name` is what the records carry."""

    @property
    def name(self) -> str:
        """Name of the scorer."""

    def about(self, query: F) -> Scoring[F]:
        """Get ready to score candidates of one query."""


class GeometricScorer:
    """Spatially consistent matches of local features; no model."""

    name = "geometric"

    def about(self, query: LocalFeatures) -> Scoring[LocalFeatures]:
        """Score by `imgrank.local.geometry.match_score`."""
        from imgrank.local.geometry import match_score

        def score(candidates: Iterable[LocalFeatures]) -> Iterator[PairScores]:
            yield PairScores(match_score(query, list(candidates)).scores)

        return score


class OverlayScorer:
    """Whether two photos are copies of one shot, by local features; no model, and no part of a search."""

    name = "overlay"

    def about(self, query: LocalFeatures) -> Scoring[LocalFeatures]:
        """Score by `imgrank.local.overlay.overlay_score`."""
        from imgrank.local.overlay import overlay_score

        def score(candidates: Iterable[LocalFeatures]) -> Iterator[PairScores]:
            yield PairScores(overlay_score(query, list(candidates)))

        return score


class LocalMaxSimScorer:
    """Late interaction of local descriptors, without their places; no model."""

    name = "maxsim"

    def about(self, query: LocalFeatures) -> Scoring[LocalFeatures]:
        """Score by the symmetric mean of best cosines."""
        from imgrank.rerank.maxsim import maxsim

        def score(candidates: Iterable[LocalFeatures]) -> Iterator[PairScores]:
            scores = maxsim(query.vectors(), [candidate.vectors() for candidate in candidates])
            yield PairScores(np.clip(scores, 0.0, 1.0))

        return score


class VisualMaxSimScorer:
    """Late interaction of visual tokens; no language model."""

    name = "maxsim"

    def about(self, query: VisualTokens) -> Scoring[VisualTokens]:
        """Score by the symmetric mean of best cosines of what the language model would receive (level 0)."""
        from imgrank.rerank.maxsim import maxsim

        own = query.vectors[:, 0].astype(np.float32)

        def score(candidates: Iterable[VisualTokens]) -> Iterator[PairScores]:
            vectors = [candidate.vectors[:, 0].astype(np.float32) for candidate in candidates]
            yield PairScores(np.clip(maxsim(own, vectors), 0.0, 1.0))

        return score


class MllmScorer:
    """The next-token probability of "same" of a multimodal language model."""

    name = "mllm"

    def __init__(self, pairs: PairScorer | SymmetricPairScorer) -> None:
        self.pairs = pairs

    def about(self, query: VisualTokens) -> Scoring[VisualTokens]:
        """Score by probability; a candidate without visual tokens cannot be scored."""
        pairs = self.pairs.about(query)
        return lambda candidates: map(PairScores.of_logits, pairs.chunks(candidates))
