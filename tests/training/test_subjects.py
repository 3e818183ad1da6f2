"""Drawn subjects: what their photos show, and where."""

import dataclasses
from functools import cache

import numpy as np
import pytest

from imgrank.arrays import unit_rows
from imgrank.local.keypoints import LocalSettings, detect
from imgrank.training import subjects
from imgrank.training.camera import Camera
from imgrank.training.objects import Drawn
from imgrank.training.pairs import true_matches
from imgrank.training.subjects import SAME, SIBLING, VARIANT, VIEWS, draw_subject
from imgrank.training.views import View
from tests.training.conftest import OBJECT, PLACE

BLOB = np.array([0.3, 0.6])  # across and down
VIEWS_OF_BLOB = [
    View(scale=0.9),
    View(scale=0.6, centre=(0.4, 0.6), rotation=35),
    View(scale=0.8, yaw=35, pitch=-20),
    View(scale=0.7, centre=(0.6, 0.45), rotation=-120, yaw=-15, crop=(0.15, 0, 0, 0.2)),
    View(scale=0.8, crop=(0, 0.3, 0.3, 0)),
    View(),
]


def painted(height=240, width=180, colour=(120, 120, 120), blob=(255, 0, 0)):
    """Return an opaque sheet of one colour with a disc at BLOB."""
    y, x = np.mgrid[0:height, 0:width] + 0.5
    rgba = np.full((height, width, 4), 255, np.uint8)
    rgba[..., :3] = colour
    rgba[np.hypot(x - BLOB[0] * width, y - BLOB[1] * height) < 7, :3] = blob
    return Drawn("poster", rgba)


def redness(pixels):
    return np.clip(pixels[..., 0].astype(float) - pixels[..., 1] - 40, 0, None)


def middle_of_red(pixels):
    """Return (x, y) of what is red, in units of the longer side."""
    weights = redness(pixels)
    y, x = np.indices(weights.shape) + 0.5
    return np.array([(x * weights).sum(), (y * weights).sum()]) / weights.sum() / max(pixels.shape[:2])


def sent(plane, at):
    x, y, w = plane @ [*at, 1.0]
    return np.array([x, y]) / w


@cache
def found_in(shot):
    return detect(shot.pixels, LocalSettings())


def matches(first, second):
    """Return how many keypoints have an equal one in the other photo, and the share whose equal is in its place."""
    own, their = found_in(first), found_in(second)
    units = [unit_rows(one.root_sift) for one in (own, their)]
    similar = units[1] @ units[0].T
    best = similar.argmax(axis=1)
    sure = (similar.argmax(axis=0)[best] == np.arange(len(best))) & (similar.max(axis=1) > 0.93)
    back = first.plane @ np.linalg.inv(second.plane)
    true = true_matches(own.places.astype(np.float64), their.places.astype(np.float64), back)
    return int(sure.sum()), float((true == best)[sure].mean())


def test_an_object_has_photos_of_itself_and_one_of_each_look_alike(object_shots):
    assert [shot.role for shot in object_shots] == [SAME] * VIEWS + [SIBLING, VARIANT]


def test_a_place_has_photos_of_itself_only(place_shots):
    assert [shot.role for shot in place_shots] == [SAME] * VIEWS


def test_photos_are_as_large_as_keypoints_are_found_at_and_all_differ(object_shots, place_shots):
    for shots in (object_shots, place_shots):
        for shot in shots:
            assert shot.pixels.shape in ((512, 384, 3), (384, 512, 3))
            assert shot.pixels.dtype == np.uint8
            assert (shot.plane.shape, shot.plane.dtype) == ((3, 3), np.float64)
            assert abs(np.linalg.det(shot.plane)) > 1e-4
        assert len({shot.pixels.tobytes() for shot in shots}) == len(shots)


@pytest.mark.parametrize("seed", [OBJECT, PLACE])
def test_equal_seeds_give_equal_bits(seed, object_shots, place_shots):
    first = {OBJECT: object_shots, PLACE: place_shots}[seed]
    for shot, again in zip(first, draw_subject(seed), strict=True):
        assert shot.role == again.role
        np.testing.assert_array_equal(shot.pixels, again.pixels)
        np.testing.assert_array_equal(shot.plane, again.plane)


def test_equal_descriptors_are_where_the_planes_send_them(object_shots, place_shots):
    for shots in (object_shots, place_shots):
        for other in shots[1:VIEWS]:
            count, share = matches(shots[0], other)
            assert count > 30
            assert share > 0.7


def test_a_sibling_has_nothing_of_the_object_where_it_would_be(object_shots):
    assert matches(object_shots[0], object_shots[VIEWS])[1] < 0.1


def test_most_subjects_are_objects(monkeypatch):
    monkeypatch.setattr(subjects, "_place_shots", lambda rng: ["place"])
    monkeypatch.setattr(subjects, "draw_object", lambda *args, **kwargs: painted())
    monkeypatch.setattr(subjects, "staged", lambda *args: (np.full((60, 60, 3), 90, np.uint8), View()))
    places = sum(draw_subject(seed) == ["place"] for seed in range(50))
    assert 3 <= places <= 18


@pytest.fixture
def staged_shots(monkeypatch):
    """Return a function that draws a subject of painted sheets, and what was before the camera."""
    things = []

    def staged(thing, numbers, difficulty):
        things.append(thing)
        return np.full((384, 512, 3), 90, np.uint8), VIEWS_OF_BLOB[numbers[-1]]

    def draw_object(number, *, longer_side, sibling=0):
        return [painted(), painted(colour=(60, 60, 60)), painted(colour=(0, 0, 255), blob=(0, 0, 255))][sibling]

    monkeypatch.setattr(subjects, "staged", staged)
    monkeypatch.setattr(subjects, "draw_object", draw_object)

    def draw(seed):
        things.clear()
        return draw_subject(seed), list(things)

    return draw


def test_the_plane_sends_a_point_of_an_object_to_where_the_photo_shows_it(staged_shots):
    shots, _ = staged_shots(OBJECT)
    found = [middle_of_red(shot.pixels) for shot in shots[: VIEWS + 1]]
    for shot, place in zip(shots, found, strict=False):
        np.testing.assert_allclose(sent(shot.plane, BLOB), place, atol=1.5 / 512)
    for shot, place in zip(shots, found, strict=False):
        back = shots[0].plane @ np.linalg.inv(shot.plane)
        np.testing.assert_allclose(sent(back, place), found[0], atol=3 / 512)


def test_a_crop_moves_the_corners_of_what_is_shown_and_not_the_plane(monkeypatch):
    view = View(scale=0.8, yaw=10)
    planes = []
    for crop in ((0.0, 0.0, 0.0, 0.0), (0.2, 0.1, 0.3, 0.0)):
        cropped = dataclasses.replace(view, crop=crop)
        monkeypatch.setattr(subjects, "staged", lambda *args, v=cropped: (np.full((384, 512, 3), 90, np.uint8), v))
        monkeypatch.setattr(subjects, "draw_object", lambda *args, **kwargs: painted())
        shot = draw_subject(OBJECT)[0]
        np.testing.assert_allclose(sent(shot.plane, BLOB), middle_of_red(shot.pixels), atol=1.5 / 512)
        planes.append(shot.plane)
    # What is left is put in the middle, so the blob is elsewhere.
    assert np.abs(sent(planes[0], BLOB) - sent(planes[1], BLOB)).max() > 10 / 512


def test_the_plane_sends_a_point_of_a_place_to_where_the_photo_shows_it(monkeypatch):
    def draw_photo(seed, size):
        height, width = size
        y, x = np.mgrid[0:height, 0:width] + 0.5
        scene = np.full((height, width, 3), 120, np.uint8)
        scene[np.hypot(x - 0.53 * width, y - 0.47 * height) < 8] = (255, 0, 0)
        return scene

    monkeypatch.setattr(subjects, "draw_photo", draw_photo)
    monkeypatch.setattr(subjects, "random_camera", lambda rng, difficulty: Camera())
    nothing = Drawn("natural", np.zeros((8, 8, 4), np.uint8))
    monkeypatch.setattr(subjects, "draw_object", lambda *args, **kwargs: nothing)
    places = [seed for seed in range(40) if np.random.default_rng([0x5AB7EC7, seed]).uniform() < subjects.PLACES]
    seen = 0
    for seed in places[:5]:
        for shot in draw_subject(seed):
            expected = sent(shot.plane, (0.53, 0.47))
            height, width = shot.pixels.shape[:2]
            if (0.05 < expected).all() and (expected < np.array([width, height]) / 512 - 0.05).all():
                np.testing.assert_allclose(middle_of_red(shot.pixels), expected, atol=1.5 / 512)
                seen += 1
            else:  # a view of a part that it is not on
                assert redness(shot.pixels).mean() < 0.2
    assert seen > 12


def test_a_variant_is_the_object_with_a_part_replaced(staged_shots):
    shares = []
    for seed in range(12):
        shots, things = staged_shots(seed) if seed != PLACE else ([], [])
        if len(shots) != VIEWS + 2:
            continue
        thing, variant = things[0].rgba, things[-1].rgba
        assert variant.shape == thing.shape
        np.testing.assert_array_equal(variant[..., 3], thing[..., 3])
        replaced = (variant != thing).any(axis=2)
        np.testing.assert_array_equal(variant[replaced, :3], np.tile([0, 0, 255], (replaced.sum(), 1)))
        shares.append(replaced.mean())
    assert len(shares) >= 6
    assert 0.3 < min(shares) < max(shares) < 0.9
    assert all(one is things[0] for one in things[:VIEWS])


def test_a_variant_replaces_nothing_beyond_either_outline(monkeypatch):
    thing, other = painted(), painted(colour=(0, 0, 255), blob=(0, 0, 255))
    thing.rgba[:60, :, 3] = 0
    other.rgba[:, :50, 3] = 0
    seen = []
    monkeypatch.setattr(subjects, "draw_object", lambda number, *, longer_side, sibling=0: other if sibling else thing)
    monkeypatch.setattr(
        subjects, "staged", lambda one, *args: seen.append(one) or (np.full((60, 60, 3), 90, np.uint8), View())
    )
    draw_subject(OBJECT)
    variant = seen[-1].rgba
    np.testing.assert_array_equal(variant[..., 3], thing.rgba[..., 3])
    np.testing.assert_array_equal(variant[:, :50], thing.rgba[:, :50])
    assert (variant[60:, 50:] != thing.rgba[60:, 50:]).any()
