"""Copies of a shot against other shots of the same thing."""

import cv2
import numpy as np
import pytest

from imgrank.local.features import LocalFeatures
from imgrank.local.overlay import overlay_score
from tests.local.drawing import picture, view
from tests.local.test_geometry import features, of, scattered


def mapped(places, factor, shift):
    """Move keypoints by z -> factor z + shift."""
    z = (places[:, 0] + 1j * places[:, 1]) * factor + shift
    turned = (places[:, 3] + np.rad2deg(np.angle(factor))) % 360
    return np.column_stack([z.real, z.imag, places[:, 2] * abs(factor), turned])


def test_matches_in_place_count_and_those_beside_it_do_not():
    # A map of scale 0.8; 5 of 40 matches lie 0.02 beside their places: 35 / 40, and all of both photos is shared.
    places = scattered(40)
    moved = mapped(places, 0.8, 0.1 + 0.05j)
    assert overlay_score(of(places), [of(moved)])[0] == pytest.approx(1.0)
    inside = np.argsort(np.abs(places[:, :2] - 0.5).max(axis=1))[:5]
    moved[inside, 0] += 0.02
    assert overlay_score(of(places), [of(moved)])[0] == pytest.approx(35 / 40)


def test_a_part_is_shared_as_far_as_the_whole_goes():
    # The candidate has 30 of the keypoints, those in the lower part; the rest of the query lies outside of their box.
    places = scattered(40)
    order = np.argsort(places[:, 1])
    lower, whole = places[order[10:]], of(places)
    part = LocalFeatures(whole.descriptors[order[10:]], lower.astype(np.float32))
    beside = np.count_nonzero(places[:, 1] >= lower[:, 1].min() - 0.01)
    assert overlay_score(whole, [part])[0] == pytest.approx(beside / 40, abs=0.051)  # its box may be narrower, too
    assert overlay_score(part, [whole])[0] == overlay_score(whole, [part])[0]


def test_copies_of_a_picture_lie_on_it_and_views_of_it_do_not():
    image = picture(0)
    height, width = image.shape[:2]
    _, saved = cv2.imencode(".jpg", image, [cv2.IMWRITE_JPEG_QUALITY, 30])
    copies = [
        cv2.resize(image, (width // 2, height // 2), interpolation=cv2.INTER_AREA),
        cv2.imdecode(saved, cv2.IMREAD_COLOR),
        image[: int(0.95 * height), : int(0.95 * width)],
        np.clip(image * 1.15, 0, 255).astype(np.uint8),
        np.ascontiguousarray(np.rot90(image)),
    ]
    others = [view(image, 10, 0.9, 6e-4), picture(1)]
    scores = overlay_score(features(image), [features(other) for other in (*copies, *others)])
    assert scores[: len(copies)].min() > 0.65
    assert scores[len(copies) :].max() < 0.65


def test_too_few_features_prove_nothing():
    query = of(scattered(40))
    seven = of(scattered(7))
    assert overlay_score(query, [LocalFeatures.empty(), of(scattered(2))]).tolist() == [0, 0]
    assert overlay_score(seven, [seven]).tolist() == [0]
    assert overlay_score(query, []).shape == (0,)
    one_place = of(np.tile([0.5, 0.5, 0.02, 0.0], (12, 1)))
    assert overlay_score(one_place, [one_place]).tolist() == [0]
