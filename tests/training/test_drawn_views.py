"""Views of drawn objects and whole photos: geometry, camera, and the statistics that make them photo-like."""

import dataclasses

import numpy as np
import pytest

from imgrank.errors import InputError
from imgrank.training.camera import Camera, expose, random_camera
from imgrank.training.objects import Drawn, draw_object
from imgrank.training.photos import draw_photo
from imgrank.training.scenes import draw_background
from imgrank.training.views import View, random_view, render_view

GREY = np.full((160, 200, 3), 90, np.uint8)


@pytest.fixture
def square():
    rng = np.random.default_rng(0)
    rgba = rng.integers(0, 256, (160, 160, 4), dtype=np.uint8)
    rgba[..., 3] = 255
    rgba[:20, :30, 3] = 0
    return Drawn("poster", rgba)


def test_the_identity_view_keeps_every_opaque_pixel_in_its_place(square):
    photo = render_view(square, GREY, View())
    expected = GREY.copy()
    opaque = square.rgba[..., 3] == 255
    expected[:, 20:180][opaque] = square.rgba[..., :3][opaque]
    np.testing.assert_array_equal(photo, expected)


def test_the_identity_view_keeps_a_drawn_object_too():
    thing = draw_object(4, kind="natural", longer_side=160)
    photo = render_view(thing, GREY, View())
    height, width = thing.rgba.shape[:2]
    top, left = round(80 - height / 2), round(100 - width / 2)
    opaque = thing.rgba[..., 3] == 255
    np.testing.assert_array_equal(photo[top : top + height, left : left + width][opaque], thing.rgba[..., :3][opaque])


def test_a_quarter_turn_counterclockwise_is_numpys():
    # Smooth content, so that half a pixel of resampling does not matter.
    y, x = np.mgrid[0:160, 0:160]
    rgba = np.dstack([x, y, 159 - x, np.full_like(x, 255)]).astype(np.uint8)
    photo = render_view(Drawn("poster", rgba), GREY, View(rotation=90))
    difference = photo[2:-2, 22:-22].astype(int) - np.rot90(rgba)[2:-2, 2:-2, :3]
    assert np.abs(difference).max() <= 2


def test_crop_takes_away_the_side_it_names(square):
    photo = render_view(square, GREY, View(crop=(0.5, 0, 0, 0), scale=0.5))
    # Half the columns at half the size: 40 wide and 80 tall.
    changed = (photo != 90).any(axis=2)
    rows, columns = np.nonzero(changed.any(axis=1))[0], np.nonzero(changed.any(axis=0))[0]
    assert (rows[0], rows[-1]) == (40, 119)
    assert (columns[0], columns[-1]) == (80, 119)
    whole = render_view(square, GREY, View(scale=0.5))
    np.testing.assert_allclose(photo[42:118, 84:118].astype(int), whole[42:118, 104:138], atol=1)


def test_yaw_narrows_and_makes_one_side_taller(square):
    square.rgba[..., 3] = 255
    photo = render_view(square, GREY, View(scale=0.8, yaw=45))
    changed = (photo != 90).any(axis=2)
    columns = np.nonzero(changed.any(axis=0))[0]
    assert columns[-1] - columns[0] < 0.8 * 128
    heights = changed.sum(axis=0)[columns]
    assert abs(int(heights[3]) - int(heights[-4])) > 15


def test_the_view_decides_the_bits(square):
    view = random_view(np.random.default_rng(3), 0.9)
    background = draw_background(1, 160, 200)
    first = render_view(square, background, view)
    np.testing.assert_array_equal(first, render_view(square, background, view))
    other = dataclasses.replace(view, seed=view.seed + 1)
    assert (first != render_view(square, background, other)).any()


def test_random_views_of_every_difficulty_render(square):
    for seed in range(6):
        for difficulty in (0.0, 0.5, 1.0):
            photo = render_view(square, GREY, random_view(np.random.default_rng(seed), difficulty))
            assert photo.shape == GREY.shape
            assert photo.dtype == np.uint8


def test_harder_views_are_smaller_on_average():
    scales = [np.mean([random_view(np.random.default_rng(s), d).scale for s in range(100)]) for d in (0.0, 0.5, 1.0)]
    assert scales[0] > scales[1] > scales[2]


@pytest.mark.parametrize("view", [View(scale=0), View(yaw=80), View(pitch=-61), View(crop=(0.5, 0, 0.5, 0))])
def test_unusable_views_are_refused(square, view):
    with pytest.raises(InputError):
        render_view(square, GREY, view)
    with pytest.raises(InputError):
        random_view(np.random.default_rng(0), 1.5)


def test_the_default_camera_changes_nothing():
    image = np.random.default_rng(0).integers(0, 256, (20, 30, 3)).astype(np.float32)
    np.testing.assert_array_equal(expose(image, Camera(), np.random.default_rng(0)), image)


def test_each_camera_effect_does_what_it_is_named_after():
    rng = np.random.default_rng
    flat = np.full((60, 80, 3), 100, np.float32)
    assert (expose(flat, Camera(exposure=1.5), rng(0)) == 150).all()
    assert (expose(flat, Camera(contrast=2), rng(0)) == 82).all()  # 118 + 2 * (100 - 118)
    np.testing.assert_array_equal(expose(flat, Camera(warmth=0.1), rng(0))[0, 0], [110, 100, 90])
    shaded = expose(flat, Camera(vignette=1), rng(0))
    assert shaded[0, 0, 0] < 5 < 95 < shaded[30, 40, 0]
    lit = expose(flat, Camera(side_light=1), rng(0)).astype(int)
    assert lit[30, 79, 0] > 2 * lit[30, 0, 0]
    assert 3 < expose(flat, Camera(noise=5), rng(0)).std() < 9
    checks = np.where((np.indices((60, 80)).sum(0) % 2 == 0)[..., None], 0, 255).astype(np.float32).repeat(3, 2)
    assert expose(checks, Camera(blur=2), rng(0)).std() < 20
    columns = np.where((np.arange(80) // 4 % 2 == 0)[None, :, None], 0, 255).astype(np.float32) + flat * 0
    level = expose(columns, Camera(shake=8), rng(0))
    upright = expose(columns, Camera(shake=8, shake_angle=np.pi / 2), rng(0))
    assert level.std() < 40 < 100 < upright.std()
    assert (expose(checks, Camera(jpeg=10), rng(0)) != checks).any()


def test_random_cameras_stay_in_range():
    for seed in range(200):
        camera = random_camera(np.random.default_rng(seed), 1.0)
        assert 1 <= camera.jpeg <= 95
        assert camera.blur > 0
        assert camera.noise >= 0
        assert abs(camera.warmth) <= 0.3


def test_photos_repeat_bit_for_bit_and_differ_by_seed():
    first = draw_photo(7)
    np.testing.assert_array_equal(first, draw_photo(7))
    assert first.dtype == np.uint8
    other = draw_photo(8)
    assert first.shape != other.shape or (first != other).mean() > 0.5


def test_photos_have_the_usual_sizes_or_the_one_asked_for():
    shapes = [draw_photo(seed).shape for seed in range(8)]
    assert all(480 <= max(h, w) <= 512 and c == 3 for h, w, c in shapes)
    assert len(set(shapes)) > 3
    assert draw_photo(3, size=(96, 130)).shape == (96, 130, 3)
    with pytest.raises(InputError):
        draw_photo(-1)
    with pytest.raises(InputError):
        draw_photo(0, size=(4, 130))


def test_the_mean_spectrum_of_photos_falls_like_that_of_photos():
    # Real photos of this size, JPEG-compressed, gave -1.42 on average (5th to 95th percentile -1.82 to -1.03).
    side, slopes = 192, []
    window = np.hanning(side)[:, None] * np.hanning(side)
    axis = np.fft.fftfreq(side) * side
    radius = np.hypot(axis[:, None], axis[None, :]).round().astype(int).ravel()
    for seed in range(16):
        grey = draw_photo(seed).mean(axis=2)
        y, x = (grey.shape[0] - side) // 2, (grey.shape[1] - side) // 2
        patch = grey[y : y + side, x : x + side]
        amplitude = np.abs(np.fft.fft2((patch - patch.mean()) * window)).ravel()
        mean = np.bincount(radius, amplitude) / np.bincount(radius)
        frequencies = np.arange(4, 68)
        slopes.append(np.polyfit(np.log(frequencies), np.log(mean[frequencies] + 1e-9), 1)[0])
    assert -1.8 < np.mean(slopes) < -1.0
