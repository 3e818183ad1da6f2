import numpy as np
import pytest

from imgrank.errors import InputError
from imgrank.mllm.base import VisualTokens, full_positions


def grid_tokens(rows: int, columns: int, levels: int = 2, hidden: int = 3) -> VisualTokens:
    positions = full_positions(1, rows, columns)
    vectors = np.arange(rows * columns * levels * hidden, dtype=np.float32).reshape(-1, levels, hidden)
    return VisualTokens(vectors, positions, (rows, columns))


def test_taking_tokens_keeps_their_positions_and_the_grid():
    tokens = grid_tokens(3, 4)
    by_index = tokens.take([1, 6, 11])
    assert by_index.positions.tolist() == [[0, 0, 1], [0, 1, 2], [0, 2, 3]]
    assert by_index.grid == (3, 4)
    np.testing.assert_array_equal(by_index.vectors, tokens.vectors[[1, 6, 11]])
    by_mask = tokens.take(np.isin(np.arange(12), [1, 6, 11]))
    np.testing.assert_array_equal(by_mask.vectors, by_index.vectors)
    assert len(by_mask) == 3


@pytest.mark.parametrize(
    ("vectors", "positions", "grid", "message"),
    [
        (np.zeros((2, 3), np.float32), np.zeros((2, 3), np.uint16), (1, 2), "levels, hidden"),
        (np.zeros((2, 1, 3), np.float64), np.zeros((2, 3), np.uint16), (1, 2), "float32 or float16"),
        (np.zeros((2, 1, 3), np.float32), np.zeros((3, 3), np.uint16), (1, 2), "positions of 2 visual tokens"),
        (np.zeros((2, 1, 3), np.float32), np.zeros((2, 3), np.int64), (1, 2), "uint16"),
        (np.zeros((2, 1, 3), np.float32), np.array([[0, 0, 0], [0, 0, 2]], np.uint16), (1, 2), "outside its grid"),
        (np.zeros((2, 1, 3), np.float32), np.array([[0, 0, 0], [0, 1, 0]], np.uint16), (1, 2), "outside its grid"),
        (np.zeros((2, 1, 3), np.float32), np.array([[0, 0, 0], [1, 0, 0]], np.uint16), (1, 2), "in 1 tiles"),
    ],
)
def test_tokens_that_do_not_fit_together_are_refused(vectors, positions, grid, message):
    with pytest.raises(InputError, match=message):
        VisualTokens(vectors, positions, grid)


def test_tokens_of_tiles_know_their_place_in_the_sequence():
    # Two rows of three tiles of 2 x 2 tokens, and the tile that shows the whole photo: 7 tiles.
    positions = full_positions(7, 2, 2)
    tokens = VisualTokens(np.zeros((28, 1, 3), np.float32), positions, (2, 2), (2, 3))
    assert (tokens.tile_count, tokens.full_length) == (7, 28)
    assert positions[13].tolist() == [3, 0, 1]
    assert tokens.index.tolist() == list(range(28))
    kept = tokens.take([0, 13, 27])
    assert (kept.index.tolist(), kept.tiles, kept.full_length) == ([0, 13, 27], (2, 3), 28)
