import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgrank.errors import InputError, SettingsError
from imgrank.tokens.grid import GridSampling


def full_grid(rows, columns, tiles=1):
    positions = np.argwhere(np.ones((tiles, rows, columns), dtype=bool)).astype(np.uint16)
    return np.zeros((len(positions), 2), dtype=np.float32), positions, (rows, columns)


def kept(step, vectors, positions, grid):
    groups = GridSampling(step).reduce(vectors, positions, grid)
    assert groups.members is None
    return groups.places.tolist()


def test_every_second_row_and_column_of_3_by_5():
    # row 0: tokens 0 2 4, row 2: tokens 10 12 14
    vectors, positions, grid = full_grid(3, 5)
    assert GridSampling().reduce(vectors, positions, grid).places.tolist() == [0, 2, 4, 10, 12, 14]


def test_step_1_keeps_all_and_step_3_samples_thirds():
    assert kept(1, *full_grid(2, 3)) == [0, 1, 2, 3, 4, 5]
    assert kept(3, *full_grid(4, 4)) == [0, 3, 12, 15]


def test_every_tile_has_its_own_rows_and_columns():
    # tiles of 3 rows and 1 column: rows 0 and 2 of each, of the second tile too
    assert kept(2, *full_grid(3, 1, tiles=3)) == [0, 2, 3, 5, 6, 8]


@given(st.integers(1, 3), st.integers(1, 20), st.integers(1, 20), st.integers(1, 4))
def test_keeps_the_rounded_up_share(tiles, rows, columns, step):
    vectors, positions, grid = full_grid(rows, columns, tiles)
    places = GridSampling(step).reduce(vectors, positions, grid).places
    assert places.dtype == np.int64
    assert len(places) == tiles * -(-rows // step) * -(-columns // step)
    assert (np.diff(places) > 0).all()
    assert (positions[places, 1:] % step == 0).all()


def test_counts_rows_of_the_whole_grid_after_earlier_pruning():
    vectors, positions, grid = full_grid(3, 3)
    left = [1, 2, 4, 6, 8]
    assert kept(2, vectors[left], positions[left], grid) == [1, 3, 4]


def test_no_tokens():
    assert kept(2, np.empty((0, 2), dtype=np.float32), np.empty((0, 3), dtype=np.int64), (0, 0)) == []


def test_refuses_a_position_outside_the_grid_and_a_step_of_0():
    vectors, positions, _ = full_grid(2, 3)
    with pytest.raises(InputError, match="2 rows and 2 columns"):
        GridSampling().reduce(vectors, positions, (2, 2))
    with pytest.raises(SettingsError):
        GridSampling(step=0)
