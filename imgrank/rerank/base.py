"""What every second-stage scorer gives back."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from imgrank.arrays import Floats
from imgrank.errors import ImgrankError


@dataclass(frozen=True, eq=False)
class PairScores:
    """Scores of one query against k candidates, in the order the candidates were given."""

    values: Floats  # (k,) in [0, 1]: what is fused with the similarity
    logits: Floats | None = None  # (k,) z_same - z_different, where the scorer has one; values are their sigmoid

    @classmethod
    def of_logits(cls, logits: Floats) -> PairScores:
        """Return probabilities for logit differences.

        Raises:
            ImgrankError: a logit is NaN or infinite.
        """
        logits = np.asarray(logits, dtype=np.float32)
        if not np.isfinite(logits).all():
            raise ImgrankError("the model answered with NaN or infinity; run it again with --dtype float32")
        # float64: float32 exp would already round 1 + exp(-17) to 1.
        probabilities = 1.0 / (1.0 + np.exp(-logits.astype(np.float64)))
        return cls(probabilities.astype(np.float32), logits)
