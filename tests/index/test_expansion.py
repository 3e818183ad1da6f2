import numpy as np
import pytest

from imgrank.errors import SettingsError
from imgrank.index.copies import fold_copies
from imgrank.index.expansion import expanded

E = np.eye(3, dtype=np.float32)


def test_neighbours_count_by_a_power_of_their_similarity() -> None:
    # d = e0, and neighbours e1 and e2 of similarity 1/2 and -1/2: with alpha 2 the sum is (1, 1/4, 0).
    similarities = np.array([0.5, -0.5], dtype=np.float32)
    moved = expanded(E[:1], E[None, 1:], similarities[None], 2.0)
    np.testing.assert_allclose(moved[0], np.array([4, 1, 0]) / np.sqrt(17), rtol=1e-6)
    # With alpha 0 what is similar at all counts in full.
    moved = expanded(E[:1], E[None, 1:], similarities[None], 0.0)
    np.testing.assert_allclose(moved[0], np.array([1, 1, 0]) / np.sqrt(2), rtol=1e-6)


def test_without_neighbours_nothing_moves() -> None:
    np.testing.assert_array_equal(expanded(E, E[:0][None].repeat(3, 0), np.zeros((3, 0), np.float32), 3.0), E)


@pytest.mark.parametrize("alpha", [-1.0, np.inf, np.nan])
def test_alpha_is_a_number_from_zero(alpha: float) -> None:
    with pytest.raises(SettingsError):
        expanded(E[:1], E[None, 1:], np.ones((1, 2), np.float32), alpha)


def test_copies_are_folded_into_the_first() -> None:
    near = np.array([0.96, 0.28, 0], dtype=np.float32)  # similarity with e0: 0.96; with e1: 0.28
    vectors = np.stack([E[0], E[1], near, E[1], E[2]])
    assert fold_copies(vectors, 0.96) == [[0, 2], [1, 3], [4]]
    assert fold_copies(vectors, 0.97) == [[0], [1, 3], [2], [4]]
    assert fold_copies(vectors[:0], 0.9) == []
    # Whoever confirms is asked about the kept ones that are similar enough, the first one first.
    asked = []
    assert fold_copies(vectors, 0.2, lambda kept, other: asked.append((kept, other)) or kept == 1) == [
        [0], [1, 2, 3], [4],
    ]  # fmt: skip
    assert asked == [(0, 2), (1, 2), (1, 3)]
