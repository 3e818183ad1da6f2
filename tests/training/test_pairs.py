"""Groups of pairs: which keypoints show one point, and what a drawn group says of itself."""

import dataclasses

import numpy as np
import pytest

from imgrank.arrays import unit_rows
from imgrank.local.keypoints import LocalSettings, chosen, detect
from imgrank.mllm.keypoint_network import DESCRIPTOR, INPUTS, inputs_of
from imgrank.training.corpus import Photos
from imgrank.training.pairs import NO_MATCH, OTHER, TWIN, UNKNOWN, Groups, GroupSettings, Sampler, true_matches
from imgrank.training.subjects import SAME, SIBLING, VARIANT
from tests.local.drawing import picture
from tests.training.handmade import ROLES, made_photos, no_keypoints

IDENTITY = np.eye(3)
PLACES = np.array([[0.5, 0.5, 0.1, 0.0], [0.2, 0.3, 0.02, 90.0], [0.8, 0.3, 0.05, 200.0]])
PLAIN = GroupSettings(tokens=40, candidate_tokens=40, candidates=6, choice_noise=0.0, augment=False)


def moved(places, x=0.0, y=0.0, size=1.0, angle=0.0):
    return places * [1, 1, size, 1] + [x, y, 0, angle]


def neighbours(photos):
    """Return the photos of other subjects, in the order they come."""
    return np.stack([np.flatnonzero(photos.subject != subject) for subject in photos.subject])


def sampler(photos):
    return Sampler(photos, neighbours(photos))


def only(photos, role):
    return photos.take(np.flatnonzero(photos.role == role))


def emptied(photos, rows):
    """Return the photos with some in which no keypoints were found."""
    keypoints = [no_keypoints() if row in rows else one for row, one in enumerate(photos.keypoints)]
    return Photos(photos.subject, photos.role, photos.plane, keypoints)


@pytest.fixture(scope="module")
def photos():
    return made_photos(4)


# True matches


def test_every_keypoint_matches_itself():
    assert true_matches(PLACES, PLACES, IDENTITY).tolist() == [0, 1, 2]
    assert true_matches(PLACES, PLACES[[2, 0]], IDENTITY).tolist() == [2, 0]


def test_a_shift_is_undone():
    back = np.array([[1.0, 0, 0.1], [0, 1, -0.05], [0, 0, 1]])
    assert true_matches(PLACES, moved(PLACES, -0.1, 0.05), back).tolist() == [0, 1, 2]
    assert true_matches(PLACES, moved(PLACES, 0.1, -0.05), back).tolist() == [NO_MATCH] * 3


def test_a_quarter_turn_and_twice_the_size_are_undone():
    # From candidate to query, y down: (x, y) -> (1 - 2 y, 2 x), half the size, a quarter turn less.
    back = np.array([[0.0, -2, 1], [2, 0, 0], [0, 0, 1]])
    candidate = np.stack(
        [PLACES[:, 1] / 2, (1 - PLACES[:, 0]) / 2, PLACES[:, 2] / 2, (PLACES[:, 3] - 90) % 360], axis=1
    )
    assert true_matches(PLACES, candidate, back).tolist() == [0, 1, 2]
    assert true_matches(PLACES, moved(candidate, size=2), back).tolist() == [NO_MATCH] * 3
    assert true_matches(PLACES, moved(candidate, angle=90), back).tolist() == [NO_MATCH] * 3
    assert true_matches(PLACES, moved(candidate, angle=-360), back).tolist() == [0, 1, 2]


def test_the_scale_of_a_homography_does_not_matter():
    assert true_matches(PLACES, PLACES, -7 * IDENTITY).tolist() == [0, 1, 2]


def test_perspective_changes_sizes_from_place_to_place():
    # w = 1 + x: at x = 0.5 lengths shrink by 1 / 1.5 along y and by 1 / 1.5**2 along x: 0.54 in all.
    back = np.array([[1.0, 0, 0], [0, 1, 0], [1, 0, 1]])
    candidate = np.array([[0.5, 0.6, 0.1, 90.0], [0.0, 0.6, 0.1, 90.0]])
    query = np.array([[1 / 3, 0.4, 0.1 * 1.5**-1.5, 90.0], [0.0, 0.6, 0.1, 90.0]])
    assert true_matches(query, candidate, back).tolist() == [0, 1]
    assert true_matches(query * [1, 1, 1.6, 1], candidate, back).tolist() == [NO_MATCH] * 2


@pytest.mark.parametrize(
    ("change", "is_match"),
    [
        ({"angle": 15.0}, True),
        ({"angle": -15.0}, True),
        ({"angle": 345.0}, True),
        ({"angle": 40.0}, False),
        ({"angle": 180.0}, False),
        ({"size": 1.3}, True),
        ({"size": 1 / 1.3}, True),
        ({"size": 2.0}, False),
        ({"size": 0.5}, False),
        ({"x": 0.006}, True),
        ({"y": -0.006}, True),
        ({"x": 0.06}, False),
        ({"y": 0.06}, False),
    ],
)
def test_place_size_and_angle_must_agree(change, is_match):
    found = true_matches(PLACES, moved(PLACES, **change), IDENTITY)
    assert found.tolist() == ([0, 1, 2] if is_match else [NO_MATCH] * 3)


def test_large_keypoints_may_be_farther_apart():
    found = true_matches(PLACES, moved(PLACES, x=0.018), IDENTITY)
    assert found.tolist() == [0, NO_MATCH, NO_MATCH]


def test_the_nearest_of_several_is_the_match():
    query = np.concatenate([moved(PLACES[:1], x=0.008), PLACES[:1], moved(PLACES[:1], x=-0.01)])
    assert true_matches(query, PLACES[:1], IDENTITY).tolist() == [1]
    assert true_matches(query, moved(PLACES[:1], x=0.006), IDENTITY).tolist() == [0]


def test_keypoints_of_a_turned_picture_are_found_again():
    image = picture(3)
    height, width = image.shape[:2]
    own, turned = (detect(one, LocalSettings()) for one in (image, np.rot90(image, -1).copy()))
    # Clockwise: what was at (x, y) is now at (height - y, x), in units of the longer side, which is the width.
    back = np.array([[0.0, 1, 0], [-1, 0, height / width], [0, 0, 1]])
    matches = true_matches(own.places.astype(np.float64), turned.places.astype(np.float64), back)
    matched = matches >= 0
    assert matched.mean() > 0.8
    similar = (unit_rows(own.root_sift)[matches] * unit_rows(turned.root_sift)).sum(axis=1)[matched]
    assert np.mean(similar > 0.9) > 0.8


# Groups


@pytest.mark.parametrize("hardship", [0.0, 1.0])
@pytest.mark.parametrize("augment", [True, False])
def test_a_group_has_the_shapes_and_types_it_says(photos, augment, hardship):
    settings = GroupSettings(tokens=24, candidate_tokens=16, candidates=5, augment=augment, hardship=hardship)
    groups = sampler(photos).draw(np.random.default_rng(0), 7, settings)
    shapes = {field.name: getattr(groups, field.name).shape for field in dataclasses.fields(Groups)}
    assert shapes == {
        "query": (7, 24, INPUTS),
        "candidates": (7, 5, 16, INPUTS),
        "same": (7, 5),
        "kind": (7, 5),
        "match": (7, 5, 16),
    }
    assert (groups.query.dtype, groups.candidates.dtype, groups.same.dtype) == (np.float32,) * 3
    assert (groups.kind.dtype, groups.match.dtype) == (np.uint8, np.int64)
    assert np.isfinite(groups.query).all()
    assert np.isfinite(groups.candidates).all()
    assert groups.match.min() >= UNKNOWN
    assert groups.match.max() < 24


@pytest.mark.parametrize("hardship", [0.0, 1.0])
@pytest.mark.parametrize("augment", [True, False])
def test_kinds_truths_and_matches_agree(photos, augment, hardship):
    settings = dataclasses.replace(PLAIN, augment=augment, hardship=hardship, tokens=24, candidate_tokens=24)
    groups = sampler(photos).draw(np.random.default_rng(1), 40, settings)
    assert set(groups.kind.ravel()) == {SAME, SIBLING, VARIANT, OTHER} | ({TWIN} if hardship else set())
    np.testing.assert_array_equal(groups.same, groups.kind == SAME)
    assert set(groups.same.sum(axis=1)) == {1, 2}  # of the two other photos of the query's subject
    for kind in (VARIANT, TWIN):
        assert (groups.match[groups.kind == kind] == UNKNOWN).all()
    for kind in (SIBLING, OTHER):
        assert (groups.match[groups.kind == kind] == NO_MATCH).all()
    assert (groups.match[groups.kind == SAME] >= NO_MATCH).all()
    assert (groups.match[groups.kind == SAME] >= 0).mean() > (0.1 if hardship else 0.3)


def test_hard_negatives_are_frequent_but_not_all(photos):
    groups = sampler(photos).draw(
        np.random.default_rng(2), 150, dataclasses.replace(PLAIN, tokens=4, candidate_tokens=4)
    )
    negatives = groups.kind[groups.kind != SAME]
    for kind, least, most in ((VARIANT, 0.15, 0.5), (SIBLING, 0.05, 0.35), (OTHER, 0.3, 0.8)):
        assert least < (negatives == kind).mean() < most


def test_matches_name_the_token_of_the_query_with_the_same_keypoint(photos):
    groups = sampler(photos).draw(np.random.default_rng(3), 10, PLAIN)
    # Photos of one subject have the same keypoints at the same places here, so that all of them match.
    for group, number in np.argwhere(groups.kind == SAME):
        match = groups.match[group, number]
        assert sorted(match) == list(range(40))
        np.testing.assert_array_equal(groups.query[group, match], groups.candidates[group, number])


@pytest.mark.parametrize("hardship", [0.0, 1.0])
def test_augmentation_changes_neither_matches_nor_which_keypoint_is_which(photos, hardship):
    settings = dataclasses.replace(PLAIN, augment=True, hardship=hardship)
    groups = sampler(photos).draw(np.random.default_rng(3), 10, settings)
    same, changed = [], []
    for group, number in np.argwhere(groups.kind == SAME):
        match = groups.match[group, number]
        own = groups.query[group, match[match >= 0]]
        their = groups.candidates[group, number, match >= 0]
        same.append((own[:, :DESCRIPTOR] * their[:, :DESCRIPTOR]).sum(axis=1) / DESCRIPTOR)
        changed.append(np.abs(own[:, DESCRIPTOR:] - their[:, DESCRIPTOR:]).max())
    assert np.median(np.concatenate(same)) > 0.8
    assert min(changed) > 0.01


def test_augmentation_turns_scales_and_shifts_a_photo_as_a_whole(photos):
    originals = np.concatenate([inputs_of(one) for one in photos.keypoints])
    settings = GroupSettings(tokens=24, candidate_tokens=4, choice_noise=0.0)
    turns = []
    for query in sampler(photos).draw(np.random.default_rng(13), 12, settings).query:
        own = originals[(query[:, :DESCRIPTOR] @ originals[:, :DESCRIPTOR].T).argmax(axis=1)]
        before, after = (rows[:, -4:].astype(np.float64) for rows in (own, query))
        # In the complex plane: z' = a z + b, by least squares.
        z, moved_z = (rows[:, 0] + 1j * rows[:, 1] for rows in (before, after))
        (a, b), *_ = np.linalg.lstsq(np.stack([z, np.ones_like(z)], axis=1), moved_z, rcond=None)
        np.testing.assert_allclose(a * z + b, moved_z, atol=1e-5)
        np.testing.assert_allclose(after[:, 2] - before[:, 2], np.log2(abs(a)), atol=1e-4)
        np.testing.assert_allclose(np.exp(1j * (after[:, 3] - before[:, 3])), a / abs(a), atol=1e-4)
        assert np.abs(after[:, :2]).max() < 0.5
        turns.append(np.angle(a))
    assert np.std(turns) > 0.01


def test_without_noise_and_augmentation_the_tokens_are_those_of_inference(photos):
    count = 12
    expected = [inputs_of(one, chosen(one, count)) for one in photos.keypoints]
    known = {
        rows[np.lexsort(rows.T)].tobytes(): (s, r)
        for rows, s, r in zip(expected, photos.subject, photos.role, strict=True)
    }
    settings = dataclasses.replace(PLAIN, tokens=count, candidate_tokens=count)
    groups = sampler(photos).draw(np.random.default_rng(4), 20, settings)
    for query, candidates, kinds in zip(groups.query, groups.candidates, groups.kind, strict=True):
        subject, role = known[query[np.lexsort(query.T)].tobytes()]
        assert role == SAME
        for candidate, kind in zip(candidates, kinds, strict=True):
            other, its_role = known[candidate[np.lexsort(candidate.T)].tobytes()]
            assert (other == subject) == (kind != OTHER)
            assert kind == OTHER or kind == its_role


def test_noise_chooses_other_keypoints_each_time(photos):
    settings = dataclasses.replace(PLAIN, tokens=12, candidate_tokens=12, choice_noise=0.7)
    groups = sampler(only(photos, SAME)).draw(np.random.default_rng(4), 20, settings)
    expected = {inputs_of(one, chosen(one, 12)).tobytes() for one in photos.keypoints}
    assert sum(query[np.lexsort(query.T)].tobytes() in expected for query in groups.query) < 10


@pytest.mark.parametrize(
    "settings", [GroupSettings(tokens=16, candidate_tokens=8), PLAIN, dataclasses.replace(PLAIN, hardship=0.5)]
)
def test_equal_randomness_gives_equal_groups(photos, settings):
    first, again, other = (sampler(photos).draw(np.random.default_rng(seed), 3, settings) for seed in (5, 5, 6))
    for field in dataclasses.fields(Groups):
        np.testing.assert_array_equal(getattr(first, field.name), getattr(again, field.name))
    assert not np.array_equal(first.query, other.query)


def test_drawing_leaves_the_photos_as_they_were(photos):
    before = [(one.root_sift.copy(), one.places.copy(), one.colours.copy()) for one in photos.keypoints]
    sampler(photos).draw(np.random.default_rng(6), 10, GroupSettings(tokens=16, candidate_tokens=16, hardship=1.0))
    for one, parts in zip(photos.keypoints, before, strict=True):
        for name, part in zip(("root_sift", "places", "colours"), parts, strict=True):
            np.testing.assert_array_equal(getattr(one, name), part)


def test_a_photo_with_few_keypoints_repeats_them():
    photos = made_photos(3, points=5)
    groups = sampler(photos).draw(
        np.random.default_rng(7), 4, dataclasses.replace(PLAIN, tokens=12, candidate_tokens=7)
    )
    for query in groups.query:
        assert len(np.unique(query, axis=0)) == 5
        np.testing.assert_array_equal(query[:5], query[5:10])
    assert all(len(np.unique(one, axis=0)) == 5 for one in groups.candidates.reshape(-1, 7, INPUTS))


@pytest.mark.parametrize("augment", [True, False])
def test_photos_without_keypoints_are_zeros(augment):
    photos = made_photos(3, points=5)
    bare = emptied(photos, range(1, len(photos), 2))
    settings = GroupSettings(tokens=12, candidate_tokens=8, augment=augment)
    groups = sampler(bare).draw(np.random.default_rng(8), 30, settings)
    empty_queries = (groups.query == 0).all(axis=(1, 2))
    empty = (groups.candidates == 0).all(axis=(2, 3))
    assert 0 < empty_queries.mean() < 1
    assert 0 < empty.mean() < 1
    one_is_empty = (empty != empty_queries[:, None]) & (groups.kind == SAME)
    assert one_is_empty.any()
    assert (groups.match[one_is_empty] == NO_MATCH).all()


def test_a_few_hard_negatives_are_photos_without_keypoints(photos):
    settings = dataclasses.replace(PLAIN, tokens=4, candidate_tokens=4, hardship=1.0)
    groups = sampler(photos).draw(np.random.default_rng(2), 150, settings)
    empty = (groups.candidates == 0).all(axis=(2, 3))
    assert 0.01 < empty[groups.kind != SAME].mean() < 0.06
    assert (groups.kind[empty] == OTHER).all()
    assert (groups.match[empty] == NO_MATCH).all()


def test_photos_without_keypoints_bear_hardship_too():
    bare = emptied(made_photos(3, points=5), range(1, 15, 2))
    settings = GroupSettings(tokens=12, candidate_tokens=8, hardship=1.0)
    groups = sampler(bare).draw(np.random.default_rng(8), 30, settings)
    assert np.isfinite(groups.query).all()
    assert np.isfinite(groups.candidates).all()


def test_nothing_matches_nothing():
    bare = emptied(made_photos(2, points=5), range(2 * len(ROLES)))
    groups = sampler(bare).draw(np.random.default_rng(9), 6, PLAIN)
    assert (groups.match[groups.kind == SAME] == NO_MATCH).all()


def test_a_subject_of_one_photo_has_negatives_only():
    photos = made_photos(3)
    lone = photos.take(np.arange(0, len(photos), len(ROLES)))
    groups = sampler(lone).draw(np.random.default_rng(10), 5, PLAIN)
    assert groups.same.sum() == 0
    assert (groups.kind == OTHER).all()


@pytest.mark.parametrize("candidates", [1, 2])
def test_a_group_may_be_small(photos, candidates):
    settings = dataclasses.replace(PLAIN, candidates=candidates)
    groups = sampler(photos).draw(np.random.default_rng(11), 12, settings)
    assert groups.same.shape == (12, candidates)


def test_near_photos_come_as_negatives_more_often_than_far_ones(photos):
    lone = only(photos, SAME)
    nearest = neighbours(lone)
    groups = Sampler(lone, nearest).draw(np.random.default_rng(12), 60, dataclasses.replace(PLAIN, augment=False))
    known = {np.sort(inputs_of(one)[:, 0]).tobytes(): number for number, one in enumerate(lone.keypoints)}
    # Photos of one subject hold the same keypoints here, so a subject is told by any of them.
    subject_of = {key: lone.subject[number] for key, number in known.items()}
    ranks = []
    for query, candidates, kinds in zip(groups.query, groups.candidates, groups.kind, strict=True):
        subject = subject_of[np.sort(query[:, 0]).tobytes()]
        order = lone.subject[nearest[np.flatnonzero(lone.subject == subject)[0]]]
        subjects = list(dict.fromkeys(order.tolist()))
        ranks += [
            subjects.index(subject_of[np.sort(one[:, 0]).tobytes()])
            for one, kind in zip(candidates, kinds, strict=True)
            if kind == OTHER
        ]
    counts = np.bincount(ranks, minlength=3)
    assert counts[0] > counts[1] > counts[2] > 0
