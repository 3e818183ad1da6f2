import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgrank.errors import InputError, SettingsError
from imgrank.tokens.grid import GridSampling


def full_grid(rows, columns):
    positions = np.argwhere(np.ones((rows, columns), dtype=bool)).astype(np.uint16)
    return np.zeros((rows * columns, 2), dtype=np.float32), positions, (rows, columns)


def test_every_second_row_and_column_of_3_by_5():
    # row 0: tokens 0 2 4, row 2: tokens 10 12 14
    assert GridSampling().keep(*full_grid(3, 5)).tolist() == [0, 2, 4, 10, 12, 14]


def test_step_1_keeps_all_and_step_3_samples_thirds():
    assert GridSampling(step=1).keep(*full_grid(2, 3)).tolist() == [0, 1, 2, 3, 4, 5]
    assert GridSampling(step=3).keep(*full_grid(4, 4)).tolist() == [0, 3, 12, 15]


@given(st.integers(1, 30), st.integers(1, 30), st.integers(1, 4))
def test_keeps_the_rounded_up_share(rows, columns, step):
    vectors, positions, grid = full_grid(rows, columns)
    kept = GridSampling(step).keep(vectors, positions, grid)
    assert kept.dtype == np.int64
    assert len(kept) == -(-rows // step) * -(-columns // step)
    assert (np.diff(kept) > 0).all()
    assert (positions[kept] % step == 0).all()


def test_counts_rows_of_the_whole_grid_after_earlier_pruning():
    vectors, positions, grid = full_grid(3, 3)
    left = [1, 2, 4, 6, 8]
    assert GridSampling().keep(vectors[left], positions[left], grid).tolist() == [1, 3, 4]


def test_no_tokens():
    empty = np.empty((0, 2))
    assert GridSampling().keep(empty.astype(np.float32), empty.astype(np.int64), (0, 0)).tolist() == []


def test_refuses_a_position_outside_the_grid_and_a_step_of_0():
    vectors, positions, _ = full_grid(2, 3)
    with pytest.raises(InputError, match="2 rows and 2 columns"):
        GridSampling().keep(vectors, positions, (2, 2))
    with pytest.raises(SettingsError):
        GridSampling(step=0)
