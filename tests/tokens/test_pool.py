import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgrank.errors import InputError, SettingsError
from imgrank.tokens.pool import Pooling


def full_grid(rows, columns, tiles=1):
    positions = np.argwhere(np.ones((tiles, rows, columns), dtype=bool)).astype(np.uint16)
    vectors = np.arange(len(positions), dtype=np.float32)[:, None]  # each token holds its number
    return vectors, positions, (rows, columns)


def test_hand_worked_3_by_5():
    #  0  1 |  2  3 |  4
    #  5  6 |  7  8 |  9
    # ------+-------+---
    # 10 11 | 12 13 | 14
    vectors, positions, grid = full_grid(3, 5)
    groups = Pooling().reduce(vectors, positions, grid)
    assert groups.places.tolist() == [0, 2, 4, 10, 12, 14]
    assert groups.members.tolist() == [0, 0, 1, 1, 2, 0, 0, 1, 1, 2, 3, 3, 4, 4, 5]
    np.testing.assert_array_equal(groups.apply(vectors)[:, 0], [3, 5, 6.5, 10.5, 12.5, 14])


def test_blocks_do_not_cross_tiles():
    vectors, positions, grid = full_grid(1, 3, tiles=2)
    groups = Pooling().reduce(vectors, positions, grid)
    assert groups.places.tolist() == [0, 2, 3, 5]
    np.testing.assert_array_equal(groups.apply(vectors)[:, 0], [0.5, 2, 3.5, 5])


def test_blocks_with_dropped_tokens_average_the_others_at_the_first_that_is_left():
    vectors, positions, grid = full_grid(4, 4)
    left = [1, 4, 5, 6, 10, 12]  # the first block lacks token 0, the second all but 6, the third all but 12
    groups = Pooling().reduce(vectors[left], positions[left], grid)
    assert groups.places.tolist() == [0, 3, 4, 5]
    np.testing.assert_allclose(groups.apply(vectors[left])[:, 0], [(1 + 4 + 5) / 3, 6, 10, 12])


def test_places_rise_where_a_lower_block_begins_to_the_left():
    # The block of columns 0 and 1 comes second in the sequence: only its lower row is left.
    vectors, positions, grid = full_grid(2, 4)
    left = [3, 4, 6]
    groups = Pooling().reduce(vectors[left], positions[left], grid)
    assert groups.places.tolist() == [0, 1]
    assert groups.members.tolist() == [0, 1, 0]


@given(st.integers(1, 3), st.integers(1, 12), st.integers(1, 12), st.integers(1, 5), st.randoms())
def test_tokens_share_a_group_exactly_where_they_share_a_block(tiles, rows, columns, step, random):
    vectors, positions, grid = full_grid(rows, columns, tiles)
    left = sorted(random.sample(range(len(vectors)), random.randint(1, len(vectors))))
    groups = Pooling(step).reduce(vectors[left], positions[left], grid)
    assert (np.diff(groups.places) > 0).all()
    members = np.arange(len(left)) if groups.members is None else groups.members
    blocks = [(tile, row // step, column // step) for tile, row, column in positions[left].tolist()]
    for i, block in enumerate(blocks):
        assert groups.places[members[i]] == blocks.index(block)


def test_what_needs_no_average_stays_as_it_is():
    vectors, positions, grid = full_grid(4, 4)
    for step, left in ((1, list(range(16))), (2, [0, 2, 8, 10]), (2, [])):
        groups = Pooling(step).reduce(vectors[left], positions[left], grid)
        assert groups.places.tolist() == list(range(len(left)))
        assert groups.members is None


def test_refuses_a_position_outside_the_grid_and_a_step_of_0():
    vectors, positions, _ = full_grid(2, 3)
    with pytest.raises(InputError, match="2 rows and 2 columns"):
        Pooling().reduce(vectors, positions, (2, 2))
    with pytest.raises(SettingsError):
        Pooling(step=0)
