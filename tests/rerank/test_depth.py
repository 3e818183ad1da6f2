"""How many candidates are scored: the same first places as a full re-ranking, and a budget that is kept."""

from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from imgrank.durations import parse_duration
from imgrank.errors import InputError, SettingsError
from imgrank.rerank.base import PairScores
from imgrank.rerank.depth import Depth
from imgrank.rerank.fuse import fuse, fused_score
from imgrank.results import Hit, Ranking


class Clock:
    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def ranking(similarities: list[float], ids: list[int]) -> Ranking:
    hits = (Hit(b"q", rank + 1, ids[rank], b"p", s, s) for rank, s in enumerate(similarities))
    return Ranking(b"q", tuple(hits))


def fused(shortlist: Ranking, values: list[float], scored: np.ndarray, lam: float) -> Ranking:
    """Fuse the head of a shortlist, of which only some candidates were scored; the hits past `scored` are the tail."""
    head = [place for place in range(len(scored)) if scored[place]]
    rest = [place for place in range(len(shortlist.hits)) if place not in set(head)]
    hits = tuple(shortlist.hits[place] for place in [*head, *rest])
    scores = PairScores(np.array([values[place] for place in head], np.float32))
    return fuse(Ranking(b"q", hits), scores, lam=lam, scorer="x")


def score_all(depth: Depth, values: list[float], chunk: Callable[[int], int], on_pair=lambda: None) -> None:
    """Do what a scorer does: ask, take as many as one chunk holds, hand the values back."""
    while (most := depth.limit()) != 0:
        places = depth.waiting[: len(values) if most is None else most]
        places = places[: chunk(len(places))]
        if len(places) == 0:
            return
        for _ in places:
            on_pair()
        depth.add([values[place] for place in places])


# Few distinct values make ties; the neighbouring float32 make scores that differ in the last bit, or just do not.
close = [0.25, float(np.nextafter(np.float32(0.25), np.float32(1))), 0.5, float(np.nextafter(np.float32(0.5), 0.0))]
similarity = st.sampled_from([*close, -1.0, -0.25, 0.0, 1.0]) | st.floats(-1, 1, width=32)
probability = st.sampled_from([*close, 0.0, 1.0, float(np.nextafter(np.float32(1), 0.0))]) | st.floats(0, 1, width=32)
weight = st.sampled_from([0.0, 0.5, 1.0, 1e-9, 1 / 3]) | st.floats(0, 1)


@settings(max_examples=500, deadline=None)
@given(data=st.data(), lam=weight, top_only=st.integers(1, 12))
def test_the_first_places_are_those_of_a_full_re_ranking(data: st.DataObject, lam: float, top_only: int) -> None:
    similarities = data.draw(st.lists(similarity, min_size=1, max_size=15), label="similarities")
    n = data.draw(st.integers(1, len(similarities)), label="head")  # the hits past it are never scored
    if data.draw(st.booleans(), label="sorted"):
        similarities.sort(reverse=True)
    values = data.draw(st.lists(probability, min_size=n, max_size=n), label="values")
    ids = data.draw(st.permutations(range(len(similarities))), label="ids")
    known = data.draw(st.lists(st.integers(0, n - 1), unique=True), label="known")
    depth = Depth(similarities[:n], lam=lam, top_only=top_only)
    depth.know(known, [values[place] for place in known])
    score_all(depth, values, lambda most: data.draw(st.integers(min(1, most), most), label="chunk"))

    shortlist = ranking(similarities, list(ids))
    full = fused(shortlist, values, np.ones(n, np.bool_), lam)
    assert fused(shortlist, values, depth.scored, lam).hits[:top_only] == full.hits[:top_only]


def test_it_stops_when_nothing_left_can_come_in() -> None:
    # lambda 0.5, first two places. After two pairs the scores are 0.9 and 0.8, so the second best is 0.8. The third
    # may reach 0.5 * 0.7 + 0.5 = 0.85: it is scored, and with 0.5 * 0.7 + 0.5 * 0 = 0.35 stays behind. The fourth may
    # reach 0.5 * 0.5 + 0.5 = 0.75 at most: enough.
    depth = Depth([0.9, 0.8, 0.7, 0.5, 0.4, 0.3], lam=0.5, top_only=2)
    assert depth.limit() == 2
    depth.add([0.9, 0.8])
    assert depth.limit() == 1
    depth.add([0.0])
    assert depth.limit() == 0
    assert depth.scored.tolist() == [True, True, True, False, False, False]


def test_a_possible_tie_is_scored() -> None:
    # Scores 0.5 so far; the second may just reach 0.5 * 0 + 0.5 * 1 = 0.5, and its lower id would put it first on a
    # tie of similarities too. A hair below, it is not looked at.
    tie = Depth([0.0, 0.0], lam=0.5, top_only=1)
    tie.add([1.0])
    assert tie.limit() == 1
    below = Depth([0.0, -1e-6], lam=0.5, top_only=1)
    below.add([1.0])
    assert below.limit() == 0


@given(value=similarity, lam=weight)
def test_the_bound_is_rounded_as_scores_are(value: float, lam: float) -> None:
    depth = Depth([value, value], lam=lam, top_only=1)
    depth.add([1.0])
    assert depth.limit() == 1  # its twin may tie, to the last bit


def test_a_shortlist_in_another_order_is_searched_up_to_the_last_that_may_come_in() -> None:
    # The best so far is 0.75; places 1 and 2 reach 0.55 and 0.6 at most, place 3 reaches 0.9.
    depth = Depth([0.5, 0.1, 0.2, 0.8, 0.0], lam=0.5, top_only=1)
    depth.add([1.0])
    granted = []
    while most := depth.limit():
        granted.append(most)
        depth.add([0.0] * most)
    assert sum(granted) == 3
    assert not depth.scored[4]


def test_passes_double() -> None:
    depth = Depth(np.full(20, 0.5), lam=0.5, top_only=2)
    granted = []
    while len(depth.waiting) and (most := depth.limit()):
        granted.append(most)
        depth.add([0.0] * most)
    assert granted == [2, 2, 4, 8, 4]


def test_known_values_spare_the_search() -> None:
    depth = Depth([0.9, 0.8, 0.7], lam=0.5, top_only=1)
    depth.know([1], [1.0])  # 0.9 already; the others reach 0.95 and 0.85
    assert depth.limit() == 1
    assert depth.waiting.tolist() == [0, 2]
    depth.add([0.0])
    assert depth.limit() == 0


def test_without_limits_everything_is_scored() -> None:
    depth = Depth([0.5, 0.4], lam=0.5)
    assert depth.limit() is None
    score_all(depth, [0.1, 0.2], lambda most: most)
    assert depth.scored.all()


@pytest.mark.parametrize("odd", [np.nan, np.inf, -np.inf, 1e300])
def test_scores_without_an_order_stop_nothing(odd: float) -> None:
    depth = Depth([0.9, odd, 0.1], lam=0.5, top_only=1)
    score_all(depth, [1.0, 0.0, 0.0], lambda most: 1)
    assert depth.scored.all()


def test_an_empty_shortlist_needs_nothing() -> None:
    depth = Depth([], lam=0.5, top_only=3, budget=1.0)
    assert depth.limit() == 0
    assert len(depth.waiting) == 0


@given(
    a=st.tuples(similarity, probability), b=st.tuples(similarity, probability), lam=weight
)  # what the bound stands on
def test_a_fused_score_falls_in_neither_number(a, b, lam: float) -> None:
    low = [min(x, y) for x, y in zip(a, b, strict=True)]
    high = [max(x, y) for x, y in zip(a, b, strict=True)]
    assert fused_score(*low, lam) <= fused_score(*high, lam)


@settings(deadline=None)
@given(seconds=st.floats(1e-3, 2.0), budget=st.floats(0.1, 20.0), n=st.integers(1, 300), chunk=st.integers(1, 64))
def test_a_steady_pace_keeps_the_budget(seconds: float, budget: float, n: int, chunk: int) -> None:
    clock = Clock()
    depth = Depth(np.linspace(1, 0, n), lam=0.5, budget=budget, clock=clock)

    def pair() -> None:
        clock.now += seconds

    score_all(depth, [0.5] * n, lambda most: min(most, chunk), on_pair=pair)
    spent, done = clock.now - 100.0, int(depth.scored.sum())
    slack = 1e-6 * (1 + budget)
    assert done >= 1
    assert spent <= max(budget, seconds) + slack  # the first pair alone may be too long
    assert done == n or spent + seconds > budget - slack  # nothing that fits is left out


def test_batches_grow_then_shrink_to_the_budget() -> None:
    clock = Clock()
    depth = Depth(np.zeros(100), lam=0.5, budget=10.0, clock=clock)
    granted = []
    while most := depth.limit():
        granted.append(most)
        clock.now += 0.5 * most  # 20 pairs fit
        depth.add([0.0] * most)
    assert granted == [1, 2, 4, 6, 3, 2, 1, 1]  # 13 more fit after 7, of which 6 now; then 7, 4, 2 and 1


@settings(deadline=None)
@given(data=st.data(), budget=st.floats(0.1, 20.0), chunk=st.integers(1, 64))
def test_a_pace_that_halves_from_pass_to_pass_costs_one_pair_at_most(data, budget: float, chunk: int) -> None:
    clock = Clock()
    depth = Depth(np.zeros(200), lam=0.5, budget=budget, clock=clock)
    seconds = slowest = data.draw(st.floats(0.01, 1.0))
    while len(depth.waiting) and (most := depth.limit()):
        count = min(most, chunk, len(depth.waiting))
        clock.now += count * seconds
        depth.add([0.0] * count)
        slowest = max(slowest, seconds)
        seconds *= data.draw(st.floats(0.5, 2.0))
    assert clock.now - 100.0 <= budget + slowest + 1e-6


def test_time_before_the_first_pair_counts_and_one_pair_is_always_scored() -> None:
    clock = Clock()
    depth = Depth([0.5, 0.4], lam=0.5, budget=1.0, clock=clock)
    clock.now += 5.0
    assert depth.limit() == 1
    depth.add([0.1])
    assert depth.limit() == 0
    told = Depth([0.5, 0.4], lam=0.5, budget=1.0, clock=clock)
    told.know([0], [0.1])
    clock.now += 5.0
    assert told.limit() == 0


def test_known_pairs_do_not_look_fast() -> None:
    clock = Clock()
    depth = Depth(np.zeros(100), lam=0.5, budget=10.0, clock=clock)
    depth.know(np.arange(50), np.zeros(50))
    assert depth.limit() == 1
    clock.now += 4.0
    depth.add([0.0])
    assert depth.limit() == 1  # 6 seconds are left, two pairs would take 8; at the speed of 50 at once, more would fit
    assert depth.waiting[0] == 51


def test_a_clock_that_stands_still_lets_batches_double() -> None:
    depth = Depth(np.zeros(10), lam=0.5, budget=1e-9, clock=Clock())
    granted = []
    while len(depth.waiting) and (most := min(depth.limit() or 0, len(depth.waiting))):
        granted.append(most)
        depth.add([0.0] * most)
    assert granted == [1, 2, 4, 3]


def test_both_limits_hold_together() -> None:
    clock = Clock()
    depth = Depth([0.9, 0.8, 0.1], lam=0.5, top_only=2, budget=10.0, clock=clock)
    assert depth.limit() == 1  # the first places would want 2, the pace is unknown
    clock.now += 1.0
    depth.add([1.0])
    assert depth.limit() == 1  # the pace would allow 2, the first places want one more
    clock.now += 1.0
    depth.add([1.0])
    assert depth.limit() == 0  # the third reaches 0.55 and not 0.9


def test_what_cannot_be_used_is_refused() -> None:
    for wrong in ({"lam": 1.5}, {"top_only": 0}, {"budget": 0.0}, {"budget": np.inf}, {"budget": np.nan}):
        with pytest.raises(SettingsError):
            Depth([0.5], **{"lam": 0.5, **wrong})
    depth = Depth([0.5, 0.4], lam=0.5)
    for values in ([1.5], [-0.1], [np.nan], [0.1, 0.1, 0.1]):
        with pytest.raises(InputError):
            depth.add(values)
    assert not depth.scored.any()


@pytest.mark.parametrize(
    ("text", "seconds"),
    [("2s", 2.0), ("500ms", 0.5), ("1.5s", 1.5), ("2m", 120.0), ("2", 2.0), (" .5 s ", 0.5), ("3.", 3.0), ("90", 90.0)],
)
def test_durations(text: str, seconds: float) -> None:
    assert parse_duration(text) == pytest.approx(seconds, rel=1e-12)


@pytest.mark.parametrize(
    "text", ["", "0", "0s", "-1s", "nan", "inf", "1e3", "s", "2 weeks", "2sm", "1,5s", "٣s", "9" * 400, "1_0", "0x2"]
)
def test_what_is_no_duration(text: str) -> None:
    with pytest.raises(SettingsError, match="--time-budget"):
        parse_duration(text)
