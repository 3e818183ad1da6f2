"""Several scales of a photo, and the exponent of generalised means."""

import numpy as np
import pytest

from imgrank.config import EncoderSettings
from imgrank.encode.registry import load_encoder
from imgrank.errors import SettingsError
from tests import tiny_encoders
from tests.encode.test_huggingface import encoder, photos

NAMES = ["dinov2", "dinov3", "dinov3_convnext", "siglip", "naflex"]


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    root = tmp_path_factory.mktemp("tiny")
    return {name: tiny_encoders.FAMILIES[name](root / name) for name in NAMES}


# Sides of what each sees at 0.5 and 1.5 times its own, in whole patches.
SIDES = {
    "dinov2": (28, 56),  # 21 and 63 in patches of 14, halves to the even number of patches
    "dinov3": (16, 48),
    "dinov3_convnext": (32, 96),
    "siglip": (16, 48),
    "naflex": (16, 48),
}


@pytest.mark.parametrize("name", NAMES)
def test_scales_are_the_mean_of_separate_encoders(folders, name):
    images = photos()
    several = encoder(folders[name], scales=(1.0, 0.5, 1.5))
    parts = [encoder(folders[name]), *(encoder(folders[name], image_size=side) for side in SIDES[name])]
    mean = np.mean([one.encode(images).descriptors.astype(np.float64) for one in parts], axis=0)
    expected = mean / np.linalg.norm(mean, axis=1, keepdims=True)
    found = several.encode(images).descriptors
    np.testing.assert_allclose(found, expected, atol=1e-6)
    assert np.abs(found - parts[0].encode(images).descriptors).max() > 1e-3
    assert several.longer_side == max(one.longer_side for one in parts)
    assert len(several.settings["scales"]) == 3


def test_gem_joins_scales_with_its_own_exponent(folders):
    images, p = photos(), 4.0
    several = encoder(folders["dinov3"], pooling="gem", gem_p=p, scales=(1.0, 1.5))
    parts = [encoder(folders["dinov3"], pooling="gem", gem_p=p, image_size=side) for side in (32, 48)]
    mean = np.mean([one.encode(images).descriptors.astype(np.float64) ** p for one in parts], axis=0) ** (1 / p)
    expected = mean / np.linalg.norm(mean, axis=1, keepdims=True)
    np.testing.assert_allclose(several.encode(images).descriptors, expected, atol=1e-6)


def test_gem_with_exponent_1_is_the_mean_of_positive_values(folders):
    """And 3 is what it was without a choice."""
    images = photos()
    of = lambda **settings: encoder(folders["dinov3"], pooling="gem", **settings).encode(images).descriptors  # noqa: E731
    np.testing.assert_array_equal(of(), of(gem_p=3.0))
    assert np.abs(of() - of(gem_p=1.0)).max() > 1e-2
    with pytest.raises(SettingsError, match="use --pooling gem"):
        encoder(folders["dinov3"], gem_p=2.0)
    with pytest.raises(SettingsError, match="from 1"):
        encoder(folders["dinov3"], pooling="gem", gem_p=0.5)


def test_the_scale_of_its_own_size_changes_no_bit(folders):
    for name in NAMES:
        one = encoder(folders[name], scales=(1.0,)).encode(photos()).descriptors
        assert one.tobytes() == encoder(folders[name]).encode(photos()).descriptors.tobytes()


def test_scales_start_from_the_image_size(folders):
    scaled = encoder(folders["dinov3"], image_size=48, scales=(0.5,)).encode(photos()).descriptors
    np.testing.assert_array_equal(scaled, encoder(folders["dinov3"], image_size=24).encode(photos()).descriptors)


@pytest.mark.parametrize(
    ("scales", "message"),
    [
        ((1.0, 1.05), "sides of 32, 32 pixels"),
        ((0.1,), "is 3, and sides go from 8"),
        ((), "1 to 8 numbers"),
        ((float("nan"),), "1 to 8 numbers"),
    ],
)
def test_scales_that_give_nothing_are_refused(folders, scales, message):
    with pytest.raises(SettingsError, match=message):
        encoder(folders["dinov3"], scales=scales)


def test_the_builtin_encoder_has_one_scale():
    for settings in ({"scales": (1.0, 2.0)}, {"gem_p": 2.0}):
        with pytest.raises(SettingsError, match="the builtin encoder has no"):
            load_encoder(EncoderSettings(**settings))


def test_settings_travel_as_json_and_unused_ones_stay_out():
    several = EncoderSettings(model="x", scales=(1.0, 0.5), gem_p=2.0, projection_dim=8, whitening=1.0)
    assert EncoderSettings.from_json(several.to_json()) == several
    assert not {"scales", "gem_p", "projection_dim", "whitening"} & set(EncoderSettings().to_json().split('"'))
    with pytest.raises(SettingsError, match="scales cannot be"):
        EncoderSettings.from_json('{"scales": [1, "2"]}')
