"""What every second-stage scorer gives back."""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from dataclasses import dataclass

import numpy as np

from imgrank.arrays import Floats
from imgrank.errors import ImgrankError


@dataclass(frozen=True, eq=False)
class PairScores:
    """Scores of one query against k candidates, in the order the candidates were given.

    Attributes:
        values: (k,) float32 in [0, 1], what is fused with the similarity.
        ways: (w, k) float32 logits of "same" (z_same - z_different, or of grades: `imgrank.rerank.grades`), one row for
            each way a pair was asked about, where the scorer has them; values are then the sigmoid of their mean.
    """

    values: Floats
    ways: Floats | None = None

    @classmethod
    def of_logits(cls, ways: Floats) -> PairScores:
        """Return probabilities for logits, (w, k) or, of one way, (k,).

        Raises:
            ImgrankError: a logit is NaN or infinite.
        """
        ways = np.atleast_2d(np.asarray(ways, dtype=np.float32))
        if not np.isfinite(ways).all():
            raise ImgrankError("the model answered with NaN or infinity; run it again with --dtype float32")
        # float64: float32 exp would already round 1 + exp(-17) to 1. Beyond -700 it would overflow, and p is 0 anyway.
        probabilities = 1.0 / (1.0 + np.exp(-np.maximum(ways.mean(axis=0, dtype=np.float64), -700.0)))
        return cls(probabilities.astype(np.float32), ways)

    @property
    def logits(self) -> Floats | None:
        """(k,) float32, the mean logit of each pair; None where the scorer has none."""
        return None if self.ways is None else self.ways.mean(axis=0, dtype=np.float64).astype(np.float32)

    @property
    def evidence(self) -> Floats:
        """(k,) float32, what a calibration starts from: logits where the scorer has them, else values."""
        logits = self.logits
        return self.values if logits is None else logits

    @property
    def disagreements(self) -> Floats | None:
        """(k,) float32, how far the two orders of a pair are apart; None where only one was asked about."""
        return None if self.ways is None or len(self.ways) < 2 else np.ptp(self.ways, axis=0)

    def __len__(self) -> int:
        return len(self.values)

    def first(self, count: int) -> PairScores:
        """Return the scores of the first so many candidates."""
        return PairScores(self.values[:count], None if self.ways is None else self.ways[:, :count])

    def each(self) -> Iterator[PairScores]:
        """Yield the scores of the candidates one by one."""
        for place in range(len(self)):
            here = slice(place, place + 1)
            yield PairScores(self.values[here], None if self.ways is None else self.ways[:, here])

    @classmethod
    def joined(cls, parts: Iterable[PairScores]) -> PairScores:
        """Join scores of one scorer; without any there are none."""
        parts = list(parts)
        if not parts:
            return cls(np.zeros(0, dtype=np.float32))
        ways = [part.ways for part in parts if part.ways is not None]
        return cls(
            np.concatenate([part.values for part in parts]),
            np.concatenate(ways, axis=1) if len(ways) == len(parts) else None,
        )
