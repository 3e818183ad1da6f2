import numpy as np
import pytest

from imgrank.errors import InputError, SettingsError
from imgrank.tokens.base import Amount
from imgrank.tokens.control import RandomSampling


def image(seed, n=20):
    vectors = np.random.default_rng(seed).normal(size=(n, 4)).astype(np.float32)
    return vectors, np.argwhere(np.ones((1, 1, n))), (1, n)


def kept(image, count, seed=0):
    groups = RandomSampling(Amount(count=count), seed).reduce(*image)
    assert groups.members is None
    return groups.places.tolist()


def test_the_same_image_keeps_the_same_and_others_do_not():
    assert kept(image(1), 8) == kept(image(1), 8)
    assert len({tuple(kept(image(seed), 8)) for seed in range(20)}) == 20
    assert len({tuple(kept(image(1), 8, seed)) for seed in range(20)}) == 20


def test_every_numpy_draws_the_same():
    vectors = np.arange(12, dtype=np.float32).reshape(12, 1)
    assert kept((vectors, np.argwhere(np.ones((1, 3, 4))), (3, 4)), 4) == [6, 7, 9, 10]


def test_keeps_distinct_rising_tokens():
    for count in range(1, 20):
        places = kept(image(count), count)
        assert len(places) == count
        assert places == sorted(set(places))
        assert set(places) <= set(range(20))


def test_every_token_is_as_likely_as_another():
    # Of 2,000 images each token is kept by 500, give or take 19: five such deviations are left.
    counts = np.bincount([place for seed in range(2000) for place in kept(image(seed), 5)], minlength=20)
    assert (abs(counts - 500) < 97).all()


@pytest.mark.parametrize(("n", "count"), [(0, 3), (3, 3), (3, 9)])
def test_keeps_all_where_there_are_not_more_than_asked(n, count):
    assert kept(image(0, n), count) == list(range(n))


def test_refuses_a_position_outside_the_grid_and_a_negative_seed():
    vectors, positions, _ = image(0)
    with pytest.raises(InputError, match="1 rows and 19 columns"):
        RandomSampling(Amount(count=3)).reduce(vectors, positions, (1, 19))
    with pytest.raises(SettingsError):
        RandomSampling(Amount(count=3), seed=-1)
