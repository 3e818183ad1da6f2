"""Gains of single photos: worked numbers, and what must not count as one."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgrank.evaluation.gains import Place, gain, places, rise

GRADES = st.lists(st.integers(-1, 2), max_size=12)


def test_places_count_what_is_not_junk():
    assert places([0, 1, -1, 0, 2, 0]) == [Place(1, 0), Place(2, 1), None, Place(3, 1), Place(4, 2), Place(5, 2)]
    assert places([]) == []


def test_gains_of_worked_places():
    assert gain(Place(5, 3), Place(2, 0)) == pytest.approx(1 - 1 / 4)
    assert gain(Place(1, 0), Place(9, 4)) == pytest.approx(1 / 5 - 1)
    assert gain(None, Place(3, 2)) == pytest.approx(1 / 3)
    assert gain(Place(3, 2), None) == pytest.approx(-1 / 3)
    assert gain(None, None) == 0
    assert rise(Place(4, 1), Place(1, 0)) == pytest.approx(1 - 1 / 4)
    assert rise(None, Place(2, 0)) == pytest.approx(1 / 2)


@given(before=GRADES, after=GRADES)
def test_the_other_way_round_a_gain_is_a_loss(before, after):
    for first in places(before):
        for second in places(after):
            assert -1 <= gain(first, second) <= 1
            assert gain(first, second) == -gain(second, first)
            assert rise(first, second) == -rise(second, first)


@given(grades=GRADES, data=st.data())
def test_right_photos_that_change_places_gain_nothing(grades, data):
    order = data.draw(st.permutations([place for place, grade in enumerate(grades) if grade > 0]))
    moved = dict(zip((place for place, grade in enumerate(grades) if grade > 0), order, strict=True))
    held = {place: name for name, place in moved.items()}
    was = {name: place for name, place in enumerate(places(grades))}
    shuffled = [grades[held[place]] if place in held else grade for place, grade in enumerate(grades)]
    now = places(shuffled)
    for name, place in moved.items():
        wrong_between = sum(grade == 0 for grade in grades[min(name, place) : max(name, place)])
        if not wrong_between:
            assert gain(was[name], now[place]) == 0
        else:
            assert (gain(was[name], now[place]) > 0) == (place < name)
