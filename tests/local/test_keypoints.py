import cv2
import numpy as np
import pytest

from imgrank.errors import InputError, MissingModelError
from imgrank.local import compact
from imgrank.local.compact import shipped_reduction
from imgrank.local.keypoints import COLOUR_POINTS, Keypoints, LocalSettings, detect, extract, kept
from tests.local.drawing import picture

SETTINGS = LocalSettings()


def test_the_same_photo_gives_the_same_bits_whatever_the_number_of_threads():
    threads = cv2.getNumThreads()
    try:
        found = []
        for count in (1, 4):
            cv2.setNumThreads(count)
            found.append(extract(picture(0), SETTINGS).to_columns())
    finally:
        cv2.setNumThreads(threads)
    assert all(np.array_equal(found[0][name], found[1][name]) for name in found[0])
    assert len(found[0]["descriptors"]) > 100


def test_extracted_features_lie_on_the_grid_they_are_stored_on():
    features = extract(picture(1), SETTINGS)
    again = type(features).from_columns(features.to_columns())
    assert np.array_equal(again.keypoints, features.keypoints)


def test_a_blob_is_found_where_it_is():
    image = np.full((100, 200, 3), 255, dtype=np.uint8)
    cv2.circle(image, (150, 40), 8, (0, 0, 0), -1)
    places = detect(image, SETTINGS).places
    nearest = places[np.abs(places[:, :2] - [150 / 200, 40 / 200]).sum(axis=1).argmin()]
    assert nearest[:2] == pytest.approx([0.75, 0.2], abs=0.01)
    assert (places[:, 3] >= 0).all()
    assert (places[:, 3] < 360).all()


def test_colours_are_those_of_the_photo():
    image = np.full((120, 120, 3), 255, dtype=np.uint8)
    cv2.circle(image, (60, 60), 14, (255, 0, 0), -1)
    keypoints = detect(image, SETTINGS)
    middle = np.abs(keypoints.places[:, :2] - 0.5).sum(axis=1).argmin()
    red = cv2.cvtColor(np.array([[[255, 0, 0]]], np.uint8), cv2.COLOR_RGB2LAB)[0, 0].astype(int)
    assert np.abs(keypoints.colours[middle, :3].astype(int) - red).max() <= 12
    assert keypoints.colours.shape == (len(keypoints), 3 * COLOUR_POINTS)


@pytest.mark.parametrize("shape", [(1, 1), (1, 500), (7, 7), (3000, 9), (64, 64)])
def test_photos_without_features_give_none(shape):
    features = extract(np.full((*shape, 3), 90, dtype=np.uint8), SETTINGS)
    assert len(features) == 0


def test_a_large_photo_is_reduced_first():
    image = picture(2, 720, 960)
    small = cv2.resize(image, (512, 384), interpolation=cv2.INTER_AREA)
    large, reduced = detect(image, SETTINGS), detect(small, SETTINGS)
    assert abs(len(large) - len(reduced)) < 0.2 * len(reduced)


def test_what_is_kept_is_strong_and_near_the_middle():
    places = np.zeros((4, 4), dtype=np.float32)
    places[:, :2] = [[0.0, 0.0], [0.5, 0.25], [0.5, 0.25], [1.0, 0.5]]
    root_sift = np.tile(np.arange(4, dtype=np.uint8)[:, None] * 9 + 1, (1, 128))
    keypoints = Keypoints(root_sift, places, np.zeros((4, 15), np.uint8), (1.0, 0.5))
    # The costs are ln 1 + 1.28, ln 2, ln 3 and ln 4 + 1.28.
    chosen = kept(keypoints, LocalSettings(keep=2))
    assert np.array_equal(chosen.keypoints, places[1:3])
    assert np.array_equal(kept(keypoints, LocalSettings(keep=3)).keypoints, places[:3])


def test_no_more_are_found_and_kept_than_asked_for():
    settings = LocalSettings(max_features=50, keep=20)
    assert len(detect(picture(3), settings)) == 50
    assert len(extract(picture(3), settings)) == 20


@pytest.mark.parametrize("pixels", [np.zeros((5, 5), np.uint8), np.zeros((5, 5, 3)), np.zeros((0, 5, 3), np.uint8)])
def test_other_arrays_are_refused(pixels):
    with pytest.raises(InputError, match="uint8"):
        extract(pixels, SETTINGS)


def test_the_reduction_keeps_the_order_of_distances():
    keypoints = detect(picture(4), SETTINGS)
    full = keypoints.root_sift[:100].astype(np.float64)
    full /= np.linalg.norm(full, axis=1, keepdims=True)
    reduced = shipped_reduction().to_bytes(keypoints.root_sift[:100]).astype(np.float64) - 128
    assert np.abs(np.linalg.norm(reduced, axis=1) - 256).max() < 8  # rounding, and clipping of a few
    reduced /= np.linalg.norm(reduced, axis=1, keepdims=True)
    upper = np.triu_indices(100, 1)
    assert np.corrcoef((full @ full.T)[upper], (reduced @ reduced.T)[upper])[0, 1] > 0.7


def test_a_missing_reduction_says_what_to_do(monkeypatch):
    monkeypatch.setattr(compact, "REDUCTION_FILE", "absent.safetensors")
    with pytest.raises(MissingModelError, match="reinstall imgrank"):
        compact.shipped_reduction.__wrapped__()
