import numpy as np
import pytest

from imgrank.local.features import DIM, LocalFeatures
from imgrank.local.geometry import correspondences, match_score
from imgrank.local.keypoints import LocalSettings, extract
from tests.local.drawing import picture, view


def features(image):
    return extract(image, LocalSettings(keep=300))


def of(keypoints, seed=0):
    """One distinct descriptor for each keypoint row, the same for the same seed."""
    rng = np.random.default_rng(seed)
    descriptors = rng.integers(0, 256, (len(keypoints), DIM)).astype(np.uint8)
    return LocalFeatures(descriptors, np.asarray(keypoints, np.float32))


def scattered(count, seed=0):
    rng = np.random.default_rng(seed)
    return np.column_stack([rng.uniform(0.2, 0.8, (count, 2)), np.full(count, 0.02), rng.uniform(0, 360, count)])


@pytest.mark.parametrize(("turn", "scale", "tilt"), [(0, 1, 0), (35, 0.9, 0), (-120, 0.7, 0), (10, 1, 6e-4)])
def test_a_view_of_the_same_picture_matches_and_others_do_not(turn, scale, tilt):
    image = picture(0)
    query = features(image)
    found = match_score(query, [features(view(image, turn, scale, tilt)), features(picture(1)), features(picture(2))])
    assert found.inliers[0] > 40
    assert found.inliers[1:].max() < 10
    assert found.scores[0] > 0.5
    assert found.scores[1:].max() < 0.15


def test_features_at_mapped_places_are_all_inliers_and_scrambled_places_are_not():
    places = scattered(40)
    mapped = places.copy()
    angle = np.deg2rad(30)
    rotation = 0.8 * np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]])
    mapped[:, :2] = (places[:, :2] - 0.5) @ rotation.T + 0.5
    mapped[:, 2] *= 0.8
    mapped[:, 3] = (mapped[:, 3] + 30) % 360
    scrambled = mapped[np.random.default_rng(1).permutation(40)]
    found = match_score(of(places), [of(mapped), of(scrambled)])
    assert found.inliers[0] == 40
    assert found.inliers[1] < 8
    assert found.scores[0] > 3 * found.scores[1]


def test_evidence_is_the_sum_of_roots_over_the_cells():
    # Four features in one cell, then each in a cell of its own; all matches sure, so evidence 2, then 4.
    together = np.array([[0.51 + 0.005 * i, 0.51, 0.02, 0.0] for i in range(4)])
    apart = np.array([[0.1 + 0.2 * i, 0.51, 0.02, 0.0] for i in range(4)])
    for places, evidence in ((together, 2), (apart, 4)):
        found = match_score(of(places), [of(places)])
        assert found.inliers.tolist() == [4]
        assert found.scores[0] == pytest.approx(1 - np.exp(-(evidence - 1) / 20), abs=1e-6)


def test_a_turned_keypoint_at_the_right_place_is_no_inlier():
    places = scattered(20)
    turned = places.copy()
    turned[:5, 3] = (turned[:5, 3] + 90) % 360
    assert match_score(of(places), [of(turned)]).inliers[0] == 15


def test_equal_features_are_matched_one_to_one():
    places = scattered(30)
    one = of(places)
    doubled = LocalFeatures(np.repeat(one.descriptors[:3], 10, axis=0), one.keypoints)
    assert match_score(doubled, [one]).inliers[0] <= 3


def test_a_candidate_is_scored_on_its_own_and_twice_the_same():
    query, a, b = (features(picture(seed)) for seed in (3, 3, 4))
    both, alone = match_score(query, [a, b]), match_score(query, [b])
    assert both.scores[1] == alone.scores[0]
    assert np.array_equal(match_score(query, [a, b]).scores, both.scores)
    assert both.scores.dtype == np.float32
    assert both.inliers.dtype == np.int64


def test_empty_and_tiny_sets_score_zero():
    query = features(picture(5))
    tiny = of(scattered(2))
    assert match_score(query, [LocalFeatures.empty(), tiny]).scores.tolist() == [0, 0]
    assert match_score(LocalFeatures.empty(), [query]).scores.tolist() == [0]
    assert match_score(query, []).scores.shape == (0,)


def test_extreme_keypoints_give_finite_scores():
    places = np.zeros((6, 4))
    places[3:] = [1, 1, 1, 359.9]
    found = match_score(of(places), [of(places), of(places, seed=1)])
    assert np.isfinite(found.scores).all()
    assert ((found.scores >= 0) & (found.scores <= 1)).all()


def test_correspondences_are_the_matches_that_the_score_counts():
    image = picture(0)
    query, candidate = features(image), features(view(image, 25, 0.9))
    pairs = correspondences(query, candidate)
    assert pairs.inliers.sum() == match_score(query, [candidate]).inliers[0]
    assert len(set(pairs.query.tolist())) == len(set(pairs.candidate.tolist())) == len(pairs.weights)
    # They are mutual neighbours.
    cosines = query.vectors() @ candidate.vectors().T
    np.testing.assert_array_equal(cosines[pairs.query].argmax(axis=1), pairs.candidate)
    np.testing.assert_array_equal(cosines[:, pairs.candidate].argmax(axis=0), pairs.query)
    none = correspondences(LocalFeatures.empty(), candidate)
    assert (len(none.query), len(none.inliers)) == (0, 0)


def test_correspondences_name_the_features_of_mapped_places():
    places = scattered(40)
    order = np.random.default_rng(5).permutation(40)
    shuffled = LocalFeatures(of(places).descriptors[order], np.asarray(places[order], np.float32))
    pairs = correspondences(of(places), shuffled)
    assert pairs.inliers.all()
    np.testing.assert_array_equal(order[pairs.candidate], pairs.query)
