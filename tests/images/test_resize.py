import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from imgrank.errors import InputError, SettingsError
from imgrank.images.resize import center_crop, check_pixels, fit_longer_side, fitted_size, normalize, resize


def flat(height, width, value=128):
    return np.full((height, width, 3), value, dtype=np.uint8)


@pytest.mark.parametrize(
    ("size", "longer", "enlarge", "expected"),
    [
        ((1000, 500), 480, False, (480, 240)),
        ((500, 1000), 480, False, (240, 480)),
        ((3, 2), 2, False, (2, 1)),  # 1.33 rounds down
        ((4, 3), 2, False, (2, 2)),  # 1.5 rounds up
        ((10000, 1), 100, False, (100, 1)),
        ((300, 200), 480, False, (300, 200)),
        ((300, 200), 480, True, (480, 320)),
    ],
)
def test_fitted_size(size, longer, enlarge, expected):
    assert fitted_size(*size, longer, enlarge=enlarge) == expected


@given(st.integers(1, 5000), st.integers(1, 5000), st.integers(1, 5000))
def test_fitted_size_keeps_proportions_and_never_enlarges(width, height, longer):
    new_width, new_height = fitted_size(width, height, longer)
    assert max(new_width, new_height) == min(longer, max(width, height))
    assert abs(new_width * height - new_height * width) <= max(width, height)
    assert fitted_size(height, width, longer) == (new_height, new_width)


def test_fit_longer_side_reduces_without_aliasing():
    stripes = np.zeros((100, 400, 3), dtype=np.uint8)
    stripes[:, ::2] = 255  # finer than the result can show: must become even grey
    fitted = fit_longer_side(stripes, 100)
    assert fitted.shape == (25, 100, 3)
    assert fitted.dtype == np.uint8
    assert np.abs(fitted[:, 5:-5].astype(int) - 127).max() <= 4
    assert fit_longer_side(flat(20, 30), 30).shape == (20, 30, 3)
    assert fit_longer_side(flat(20, 30), 60, enlarge=True).shape == (40, 60, 3)


def test_resize_takes_names_and_pillow_numbers():
    pixels = np.random.default_rng(0).integers(0, 256, (40, 60, 3), dtype=np.uint8)
    by_name = resize(pixels, 15, 20, "bicubic")
    np.testing.assert_array_equal(by_name, resize(pixels, 15, 20, 3))
    np.testing.assert_array_equal(
        by_name, np.asarray(Image.fromarray(pixels).resize((20, 15), Image.Resampling.BICUBIC))
    )
    assert not np.array_equal(by_name, resize(pixels, 15, 20, "bilinear"))
    assert resize(pixels, 40, 60) is pixels


@pytest.mark.parametrize(("height", "resample"), [(0, "bicubic"), (5, "cubic"), (5, 9)])
def test_resize_refuses(height, resample):
    with pytest.raises(SettingsError):
        resize(flat(10, 10), height, 5, resample)


def test_center_crop():
    pixels = np.arange(5 * 6 * 3, dtype=np.uint8).reshape(5, 6, 3)
    np.testing.assert_array_equal(center_crop(pixels, 2, 4), pixels[1:3, 1:5])
    assert center_crop(pixels, 5, 6).shape == (5, 6, 3)
    with pytest.raises(SettingsError, match="7 x 5 out of 6 x 5"):
        center_crop(pixels, 5, 7)


def test_normalize_by_hand():
    pixels = np.zeros((2, 3, 3), dtype=np.uint8)
    pixels[1, 2] = (255, 51, 102)  # 1.0, 0.2, 0.4
    values = normalize(pixels, (0.5, 0.5, 0.2), (0.5, 0.25, 0.1))
    assert values.shape == (3, 2, 3)
    assert values.dtype == np.float32
    assert values.flags.c_contiguous
    np.testing.assert_allclose(values[:, 1, 2], [1.0, -1.2, 2.0], rtol=1e-6)
    np.testing.assert_allclose(values[:, 0, 0], [-1.0, -2.0, -2.0], rtol=1e-6)


def test_normalize_agrees_with_the_formula():
    pixels = np.random.default_rng(0).integers(0, 256, (7, 5, 3), dtype=np.uint8)
    mean, std = [0.48, 0.46, 0.41], [0.27, 0.26, 0.28]
    expected = ((pixels / 255 - mean) / std).transpose(2, 0, 1)
    np.testing.assert_allclose(normalize(pixels, mean, std), expected, rtol=1e-5, atol=1e-6)
    np.testing.assert_array_equal(
        normalize(center_crop(pixels, 3, 3), mean, std), normalize(pixels, mean, std)[:, 2:5, 1:4]
    )


@pytest.mark.parametrize(("mean", "std"), [((0, 0), (1, 1, 1)), ((0, 0, 0), (1, 0, 1)), ((0, 0, 0), (1,))])
def test_normalize_refuses(mean, std):
    with pytest.raises(SettingsError):
        normalize(flat(2, 2), mean, std)


@pytest.mark.parametrize(
    "wrong",
    [np.zeros((4, 4), np.uint8), np.zeros((4, 4, 4), np.uint8), np.zeros((4, 4, 3)), np.zeros((0, 4, 3), np.uint8)],
)
def test_what_is_not_a_photo_is_refused(wrong):
    with pytest.raises(InputError, match=rf"photo 3 is {wrong.dtype} .* expected uint8"):
        check_pixels(wrong, "photo 3")


def test_one_pixel_is_a_photo():
    check_pixels(flat(1, 1))
