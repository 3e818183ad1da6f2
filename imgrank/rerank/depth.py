"""How many candidates of a shortlist are scored: no more than the first places need, or than a time allows.

Exact early stop. A probability is at most 1, so lambda * similarity + (1 - lambda) is the most that a candidate can
reach. When none of those left can reach the K-th best score so far, none of them has a place among the first K: these
are the hits of a full re-ranking, in the same order. The bound is computed and rounded as scores are, and rounding
keeps order, so this holds to the last bit; candidates that could tie are scored.

Time budget. Batches of 1, 2, 4, ... pairs while the time they will take, at the speed of the batch before, is at most
half of what is left; then smaller ones, down to single pairs. So pairs that take up to twice as long as those before
do not overrun the budget by more than one pair; the first pair is scored however long it takes.

Knows no model and no photo: only similarities, the values that come back, and a clock.
"""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np
import numpy.typing as npt

from imgrank.arrays import Floats, Ids
from imgrank.errors import InputError, SettingsError
from imgrank.rerank.fuse import check_lambda, fused_score


class Depth:
    """Says before each chunk how many candidates are still worth a look; the time of the budget starts now.

        depth = Depth(similarities, lam=0.5, top_only=10)
        depth.know(places_in_the_cache, their_values)
        for scores in scorer.chunks(query, map(features, depth.waiting), depth.limit):
            depth.add(scores.values)

    What was scored is `depth.scored`. `fuse` wants those hits first, in shortlist order; they need not be the first of
    the shortlist when some were known before.

    Args:
        similarities: (n,) of the candidates that may be scored, in shortlist order, which need not be by similarity.
        lam: weight of the similarity, in [0, 1].
        top_only: how many places of the result matter; None: all.
        budget: seconds; None: as long as it takes.
        clock: seconds that never run backwards.

    Raises:
        SettingsError: a number is out of its range.
    """

    def __init__(
        self,
        similarities: npt.ArrayLike,
        *,
        lam: float,
        top_only: int | None = None,
        budget: float | None = None,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        check_lambda(lam)
        if top_only is not None and top_only < 1:
            raise SettingsError(f"--top-only {top_only}: the first place at least must matter")
        if budget is not None and not 0.0 < budget < np.inf:
            raise SettingsError(f"--time-budget {budget}: give a time above zero, in seconds")
        self._lam = lam
        with np.errstate(over="ignore"):  # scores of other tools may be too large; they become infinite
            self._similarities: Floats = np.asarray(similarities, dtype=np.float32)
        self._reach = self._fused(self._similarities, np.ones_like(self._similarities))
        self._scores: Floats = np.full_like(self._reach, np.nan)
        self.scored: npt.NDArray[np.bool_] = np.zeros(self._reach.shape, dtype=np.bool_)
        # Without an order there is nothing to rely on: a run from elsewhere may hold NaN or infinity.
        self._top_only = top_only if np.isfinite(self._reach).all() else None
        self._pace = None if budget is None else _Pace(budget, clock)

    @property
    def waiting(self) -> Ids:
        """Return the places in the shortlist, from 0, of the candidates without a score."""
        return np.flatnonzero(~self.scored)

    def limit(self) -> int | None:
        """Return how many of the waiting candidates, the first ones, to score next; 0: stop; None: no limit.

        May be asked as often as there are news. For the first places alone it grants what these need in any case, then
        doubles what has been scored, so that hardly more is scored than needed, in few passes.
        """
        limits = []
        done = int(self.scored.sum())
        if self._top_only is not None:
            missing = self._top_only - done
            limits += [self._needed(), missing if missing > 0 else done]
        if self._pace is not None:
            limits.append(self._pace.affordable(at_least=0 if done else 1))
        return min(limits, default=None)

    def know(self, places: npt.ArrayLike, values: npt.ArrayLike) -> None:
        """Take in values that cost no time, in any order.

        Args:
            places: (k,) places in the shortlist, from 0.
            values: (k,) in [0, 1].

        Raises:
            InputError: the lengths differ, or a value is outside [0, 1], where the early stop would be wrong.
        """
        where = np.asarray(places, dtype=np.int64)
        values = np.asarray(values, dtype=np.float32)
        if where.ndim != 1 or where.shape != values.shape:
            raise InputError(f"places of shape {where.shape} but values of shape {values.shape}")
        if not ((values >= 0.0) & (values <= 1.0)).all():
            raise InputError("a value to be fused with a similarity lies between 0 and 1")
        self._scores[where] = self._fused(self._similarities[where], values)
        self.scored[where] = True

    def add(self, values: npt.ArrayLike) -> None:
        """Take in values (b,) of the first waiting candidates, in their order.

        Raises:
            InputError: more values than candidates wait, or a value is outside [0, 1].
        """
        count = len(np.asarray(values))
        self.know(self.waiting[:count], values)
        if self._pace is not None:
            self._pace.pairs += count

    def _needed(self) -> int:
        """Return how many of the waiting candidates could still be needed: up to the last that may get a place."""
        waiting = self.waiting
        scores = self._scores[self.scored]
        if self._top_only is None or len(scores) < self._top_only:
            return len(waiting)
        place = len(scores) - self._top_only
        worst = np.partition(scores, place)[place]  # the K-th best score
        able = np.flatnonzero(self._reach[waiting] >= worst)  # at the same score, the similarity or the id decides
        return int(able[-1]) + 1 if len(able) else 0

    def _fused(self, similarities: Floats, values: Floats) -> Floats:
        pairs = zip(similarities, values, strict=True)
        return np.array([fused_score(similarity, value, self._lam) for similarity, value in pairs], dtype=np.float32)


class _Pace:
    """Foresees how many pairs fit into what is left of a time."""

    def __init__(self, budget: float, clock: Callable[[], float]) -> None:
        self._clock = clock
        self._end = clock() + budget
        self.pairs = 0  # scored so far; the owner counts
        self._batch = 0  # pairs between the last two news
        self._asked_at = 0.0
        self._pairs_then = 0
        self._seconds_per_pair = 0.0

    def affordable(self, *, at_least: int) -> int:
        """Return how many pairs to score next, `at_least` so many when nothing has been timed yet."""
        now = self._clock()
        left = self._end - now
        if self.pairs > self._pairs_then:
            self._batch = self.pairs - self._pairs_then
            self._seconds_per_pair = (now - self._asked_at) / self._batch
        self._asked_at, self._pairs_then = now, self.pairs
        if self._batch == 0:
            return 1 if left > 0 else at_least
        if left < self._seconds_per_pair:
            return 0
        # Compared as a product first: after a clock that did not move, the quotient does not exist.
        most = 2 * self._batch
        return most if 2 * most * self._seconds_per_pair <= left else max(1, int(left / self._seconds_per_pair / 2))
