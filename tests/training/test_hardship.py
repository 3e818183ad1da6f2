"""What happens to keypoints in hard photos: it is as strong as asked for, and known to the last keypoint."""

import numpy as np
import pytest

from imgrank.training.hardship import carried, crowded, replaced, wobbled, worn
from tests.training.handmade import no_keypoints, random_keypoints

HALF = np.diag([0.5, 0.5, 1.0])  # the thing lies in the photo's upper left quarter
FIELDS = ("root_sift", "places", "colours")


def rng(seed=0):
    return np.random.default_rng(seed)


@pytest.fixture(scope="module")
def own():
    return random_keypoints(rng(1), 80)


@pytest.fixture(scope="module")
def other():
    found = random_keypoints(rng(2), 90)
    found.places[:, 2] += 0.03  # none is too small for a photo, at half the size either
    return found


def rows_in(some, whole):
    """Return which keypoints of a photo the given ones are."""
    known = {row.tobytes(): number for number, row in enumerate(whole.root_sift)}
    return [known.get(row.tobytes(), -1) for row in some.root_sift]


def test_places_are_carried_as_worked_out_by_hand():
    # (x, y) -> (1 - 2 y, 2 x): a quarter turn and twice the size.
    change = np.array([[0.0, -2, 1], [2, 0, 0], [0, 0, 1]])
    found = carried(np.array([[0.1, 0.2, 0.05, 300.0], [0.3, 0.0, 0.02, 10.0]]), change)
    np.testing.assert_allclose(found, [[0.6, 0.2, 0.1, 30], [1, 0.6, 0.04, 100]], atol=1e-9)
    np.testing.assert_allclose(
        carried(found, np.linalg.inv(change))[:, :3], [[0.1, 0.2, 0.05], [0.3, 0, 0.02]], atol=1e-9
    )


def test_without_strength_nothing_happens(own, other):
    for seed in range(5):
        kept, foreign = crowded(rng(seed), own, other, 0.0)
        assert not foreign.any()
        for name in FIELDS:
            np.testing.assert_array_equal(getattr(kept, name), getattr(own, name))
        places = own.places.astype(np.float64)
        np.testing.assert_array_equal(wobbled(rng(seed), places, 0.0), places)
        np.testing.assert_array_equal(worn(rng(seed), own.root_sift, 0.0), own.root_sift)


def test_a_crowded_photo_holds_its_own_keypoints_and_those_of_what_covers_it(own, other):
    shares, covers = [], 0
    for seed in range(40):
        found, foreign = crowded(rng(seed), own, other, 1.0)
        assert foreign.shape == (len(found),)
        assert found.extent == own.extent
        mine, theirs = rows_in(found, own), rows_in(found, other)
        assert [number >= 0 for number in mine] == (~foreign).tolist()
        assert [number >= 0 for number in theirs] == foreign.tolist()
        # Both by their contrast within their photos.
        assert [n for n in mine if n >= 0] == sorted(n for n in mine if n >= 0)
        assert [n for n in theirs if n >= 0] == sorted(n for n in theirs if n >= 0)
        ranks = np.maximum(mine, theirs)
        assert (np.diff(ranks) >= 0).all()
        shares.append((~foreign).sum() / len(own))
        if foreign.any():
            covers += 1
            lines = found.places[:, :2]
            # A line parts what covers from what is covered: the means of both lie well apart.
            assert np.linalg.norm(lines[foreign].mean(axis=0) - lines[~foreign].mean(axis=0)) > 0.2
    assert 0.1 < min(shares) < 0.6
    assert max(shares) > 0.9
    assert 12 < covers < 36


def test_a_photo_without_keypoints_may_be_crowded_and_may_crowd(own):
    nothing = no_keypoints()
    for seed in range(20):
        found, foreign = crowded(rng(seed), nothing, own, 1.0)
        assert foreign.all()
        assert len(found) <= len(own)
        found, foreign = crowded(rng(seed), own, nothing, 1.0)
        assert not foreign.any()


def test_another_thing_is_put_where_the_first_was(own, other):
    found = replaced(rng(), own, HALF, other, np.eye(3), whole=True)
    mine, theirs = np.array(rows_in(found, own)), np.array(rows_in(found, other))
    assert ((mine >= 0) != (theirs >= 0)).all()
    stays = np.flatnonzero((own.places[:, :2] > 0.5).any(axis=1))
    assert sorted(mine[mine >= 0]) == stays.tolist()
    assert (theirs >= 0).sum() == len(other)  # all of the other photo is the thing
    expected = other.places[theirs[theirs >= 0]] * [0.5, 0.5, 0.5, 1]
    np.testing.assert_allclose(found.places[theirs >= 0], expected, atol=1e-3)
    np.testing.assert_array_equal(found.colours[mine >= 0], own.colours[mine[mine >= 0]])
    np.testing.assert_array_equal(found.colours[theirs >= 0], other.colours[theirs[theirs >= 0]])
    assert found.extent == own.extent


def test_a_part_of_the_thing_is_replaced_and_the_rest_stays_in_place(own, other):
    shares = []
    thing = (own.places[:, :2] <= 0.5).all(axis=1)
    for seed in range(30):
        found = replaced(rng(seed), own, HALF, other, np.eye(3), whole=False)
        mine = np.array(rows_in(found, own))
        kept = mine[mine >= 0]
        assert set(np.flatnonzero(~thing)) <= set(kept.tolist())
        np.testing.assert_array_equal(found.places[mine >= 0], own.places[kept])
        shares.append(1 - thing[kept].sum() / thing.sum())
        assert (mine < 0).any()
        assert (found.places[mine < 0, :2] <= 0.5 + 1e-6).all()
    assert 0.2 < min(shares) < 0.4
    assert 0.6 < max(shares) < 0.8


def test_what_is_put_in_would_have_been_found_in_that_photo(own, other):
    # The filler is shown three times as large as it was: much of it falls outside of the photo.
    for plane, filler_plane in ((np.eye(3) * [3, 3, 1], np.eye(3)), (HALF / [4, 4, 1], np.eye(3))):
        base = type(own)(own.root_sift[:9], own.places[:9] + np.float32([0, 0, 0.02, 0]), own.colours[:9], own.extent)
        found = replaced(rng(), base, plane, other, filler_plane, whole=True)
        new = np.array(rows_in(found, other)) >= 0
        assert ((found.places[new, :2] >= 0) & (found.places[new, :2] <= base.extent)).all()
        assert (found.places[new, 2] >= base.places[:, 2].min()).all()
        assert new.sum() < len(other)
    wide = type(other)(other.root_sift, other.places[:, [1, 0, 2, 3]] * [0.7, 1, 1, 1], other.colours, (0.6, 1.0))
    for seed in range(20):
        found, foreign = crowded(rng(seed), own, wide, 1.0)
        assert (found.places[foreign, :2] <= own.extent).all()


def test_nothing_replaces_nothing():
    nothing = no_keypoints()
    for whole in (True, False):
        assert len(replaced(rng(), nothing, HALF, nothing, HALF, whole=whole)) == 0


@pytest.mark.parametrize("strength", [0.3, 1.0])
def test_keypoints_wobble_by_little_and_none_is_lost(own, strength):
    places = own.places.astype(np.float64)
    before = places.copy()
    moves, sizes, turns = [], [], []
    for seed in range(30):
        found = wobbled(rng(seed), places, strength)
        assert found.shape == places.shape
        assert ((found[:, 3] >= 0) & (found[:, 3] < 360)).all()
        moves.append(np.hypot(*(found - places)[:, :2].T).mean())
        sizes.append(np.abs(np.log2(found[:, 2] / places[:, 2])).mean())
        turns.append(np.abs((found[:, 3] - places[:, 3] + 180) % 360 - 180).mean())
    np.testing.assert_array_equal(places, before)
    assert 0.002 * strength < np.mean(moves) < 0.04 * strength
    assert 0 < np.mean(sizes) < 0.15 * strength
    assert 0 < np.mean(turns) < 8 * strength


def test_descriptors_wear_more_the_stronger_it_is(own):
    def similarity(strength):
        plain = own.root_sift.astype(np.float64)
        worn_ones = [worn(rng(seed), own.root_sift, strength).astype(np.float64) for seed in range(10)]
        norms = np.linalg.norm(plain, axis=1)
        return np.mean([(one * plain).sum(axis=1) / np.linalg.norm(one, axis=1) / norms for one in worn_ones])

    weak, strong = similarity(0.2), similarity(1.0)
    assert 0.85 < strong < weak < 0.9999
    assert worn(rng(), own.root_sift, 1.0).dtype == np.uint8
