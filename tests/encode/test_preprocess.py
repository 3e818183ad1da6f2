import json
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers.models.bit.image_processing_pil_bit import BitImageProcessorPil
from transformers.models.clip.image_processing_pil_clip import CLIPImageProcessorPil
from transformers.models.siglip.image_processing_pil_siglip import SiglipImageProcessorPil
from transformers.models.siglip2.image_processing_pil_siglip2 import (
    Siglip2ImageProcessorPil,
    get_image_size_for_max_num_patches,
)

from imgrank.encode.preprocess import FixedSize, Patches, naflex_grid, read_preprocessor
from imgrank.errors import SettingsError

SIZES = [(300, 500), (500, 300), (224, 224), (31, 90), (401, 399), (640, 223)]


def photo(height, width, seed=0):
    """Smooth waves plus noise, so that a wrong filter and a wrong offset both show."""
    rng = np.random.default_rng(seed)
    rows, columns = np.mgrid[:height, :width]
    waves = 127 + 90 * np.sin(rows / 9)[..., None] * np.cos(columns[..., None] / np.array([5, 7, 11]))
    return np.clip(waves + rng.normal(0, 12, (height, width, 3)), 0, 255).astype(np.uint8)


def published(processor):
    return json.loads(processor.to_json_string())


@pytest.mark.parametrize(
    ("processor", "family"),
    [
        (CLIPImageProcessorPil(), "CLIPImageProcessor"),
        (
            CLIPImageProcessorPil(size={"shortest_edge": 40}, crop_size={"height": 33, "width": 36}),
            "CLIPImageProcessor",
        ),
        (BitImageProcessorPil(size={"shortest_edge": 256}, image_mean=[0.485, 0.456, 0.406]), "BitImageProcessor"),
        (SiglipImageProcessorPil(), "SiglipImageProcessor"),
        (SiglipImageProcessorPil(size={"height": 64, "width": 48}, resample=2), "SiglipImageProcessor"),
        (CLIPImageProcessorPil(do_normalize=False, rescale_factor=1 / 127), "CLIPImageProcessor"),
        (CLIPImageProcessorPil(do_rescale=False), "CLIPImageProcessor"),
    ],
)
@pytest.mark.parametrize("size", SIZES)
def test_pixel_values_equal_those_of_transformers(processor, family, size):
    steps = read_preprocessor("tiny", published(processor), family)
    expected = processor(photo(*size), return_tensors="np")["pixel_values"][0]
    ours = steps(photo(*size))
    assert ours.dtype == np.float32
    assert ours.shape == (3, *steps.size)
    np.testing.assert_allclose(ours, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", [*SIZES, (3, 200), (1, 1)])
def test_naflex_patches_equal_those_of_transformers(size):
    processor = Siglip2ImageProcessorPil(patch_size=16, max_num_patches=64)
    steps = read_preprocessor("tiny", published(processor), "Siglip2ImageProcessor")
    expected = processor(photo(*size), input_data_format="channels_last", return_tensors="np")
    values, grid = steps(photo(*size))
    assert list(grid) == expected["spatial_shapes"][0].tolist()
    np.testing.assert_allclose(values, expected["pixel_values"][0], rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("size", SIZES)
def test_dinov3_differs_from_floating_point_resizing_by_rounding_only(size):
    values = {"image_processor_type": "DINOv3ViTImageProcessorFast", "size": {"height": 96, "width": 80}}
    steps = read_preprocessor("tiny", values, "DINOv3ViTImageProcessor")
    pixels = torch.from_numpy(photo(*size)).permute(2, 0, 1)[None] / 255
    exact = torch.nn.functional.interpolate(pixels, (96, 80), mode="bilinear", antialias=True)[0].numpy()
    ours = steps(photo(*size)) * np.array(steps.std)[:, None, None] + np.array(steps.mean)[:, None, None]
    # Pillow rounds after each of its two passes: at most one grey level, a quarter of one on average.
    assert np.abs(ours - exact).max() < 1.01 / 255
    assert np.abs(ours - exact).mean() < 0.4 / 255


def test_a_silent_file_means_the_defaults_of_its_class():
    for processor, family in [
        (CLIPImageProcessorPil(), "CLIPImageProcessor"),
        (BitImageProcessorPil(), "BitImageProcessor"),
        (SiglipImageProcessorPil(), "SiglipImageProcessor"),
        (Siglip2ImageProcessorPil(), "Siglip2ImageProcessor"),
    ]:
        assert read_preprocessor("tiny", {}, family) == read_preprocessor("tiny", published(processor), family)


def test_old_files_give_plain_numbers_and_feature_extractors():
    old = {"feature_extractor_type": "CLIPFeatureExtractor", "size": 40, "crop_size": 32, "do_center_crop": True}
    steps = read_preprocessor("tiny", old, "CLIPImageProcessor")
    assert (steps.resize_to, steps.crop_to) == (40, (32, 32))
    assert read_preprocessor("tiny", {"size": 40}, "DINOv3ViTImageProcessor").resize_to == (40, 40)


@pytest.mark.parametrize(
    ("values", "names"),
    [
        ({"image_processor_type": "ConvNextImageProcessor"}, "ConvNextImageProcessor"),
        ({"image_processor_type": "Siglip2ImageProcessor"}, "its family uses CLIPImageProcessor"),
        ({"do_resize": False}, "do_resize"),
        ({"do_pad": True}, "do_pad"),
        ({"do_center_crop": False}, "size"),
        ({"do_center_crop": "yes"}, "do_center_crop"),
        ({"size": {"longest_edge": 9}}, "size"),
        ({"size": {"shortest_edge": 10**9}}, "size"),
        ({"size": {"shortest_edge": 0}}, "size"),
        ({"size": {"shortest_edge": 100}, "crop_size": 101}, "crop_size"),
        ({"size": {"height": 300, "width": 100}, "crop_size": 200}, "crop_size"),
        ({"crop_size": {"shortest_edge": 9}}, "crop_size"),
        ({"resample": 6}, "resample"),
        ({"resample": True}, "resample"),
        ({"image_mean": 0.5}, "image_mean"),
        ({"image_mean": [0, 0, math.nan]}, "image_mean"),
        ({"image_std": [1, 0, 1]}, "image_std"),
        ({"rescale_factor": 0}, "rescale_factor"),
        ({"rescale_factor": "1"}, "rescale_factor"),
    ],
)
def test_what_is_not_understood_is_refused_by_name(values, names):
    with pytest.raises(SettingsError, match="model 'tiny'") as error:
        read_preprocessor("tiny", values, "CLIPImageProcessor")
    assert names in str(error.value)


def test_another_side_keeps_the_cropped_share():
    cropped = FixedSize(256, (224, 224), 3, (0, 0, 0), (1, 1, 1), 1.0).with_side(448)
    assert (cropped.resize_to, cropped.crop_to) == (512, (448, 448))
    square = FixedSize((384, 384), None, 3, (0, 0, 0), (1, 1, 1), 1.0).with_side(128)
    assert (square.resize_to, square.crop_to, square.size) == ((128, 128), None, (128, 128))
    assert Patches(16, 256, 2, (0, 0, 0), (1, 1, 1), 1.0).with_side(320).most == 400


def test_a_strip_of_pixels_is_not_enlarged_to_gigabytes():
    steps = read_preprocessor("tiny", {}, "CLIPImageProcessor")
    strip = np.zeros((1, 60_000, 3), dtype=np.uint8)
    strip[0, 30_000 - 40 : 30_000 + 40] = 255
    for values in (steps(strip), steps(strip.transpose(1, 0, 2))):
        assert values.shape == (3, 224, 224)
        assert (values == values[:, :1, :1]).all()  # the middle, white throughout
        assert values.min() > 1


def test_decode_side_is_four_times_what_the_model_sees():
    assert read_preprocessor("tiny", {}, "CLIPImageProcessor").decode_side == 896
    assert read_preprocessor("tiny", {"size": {"shortest_edge": 256}}, "BitImageProcessor").decode_side == 1024
    assert read_preprocessor("tiny", {}, "Siglip2ImageProcessor").decode_side == 1024


def test_reducing_beforehand_hardly_changes_the_pixel_values():
    # One grey level is 1 / (255 * 0.2686) = 0.0146 in CLIP's units.
    from imgrank.images.resize import fit_longer_side

    steps = read_preprocessor("tiny", {}, "CLIPImageProcessor")
    large = photo(1500, 2000)
    difference = np.abs(steps(large) - steps(fit_longer_side(large, steps.decode_side)))
    assert difference.mean() < 0.0146


def test_settings_are_plain_json():
    for family in ("CLIPImageProcessor", "SiglipImageProcessor", "Siglip2ImageProcessor"):
        values = read_preprocessor("tiny", {}, family).to_json()
        assert json.loads(json.dumps(values)) == values


# The photo 100 x 200 in patches of 10, at most 50: scale 1 would be 10 x 20 = 200 patches, scale 1/2 is 5 x 10 = 50.
@pytest.mark.parametrize(
    ("size", "patch", "most", "grid"),
    [
        ((100, 200), 10, 50, (5, 10)),
        ((100, 200), 10, 49, (5, 9)),  # scale 0.45: 4.5 rows, so 5, and 9 columns
        ((64, 64), 16, 16, (4, 4)),
        ((1, 5000), 16, 8, (1, 8)),
        ((1, 1), 16, 256, (7, 7)),  # enlarged 100 times, no more
    ],
)
def test_grid_by_hand(size, patch, most, grid):
    assert naflex_grid(*size, patch, most) == grid


@settings(max_examples=100)
@given(st.integers(1, 4000), st.integers(1, 4000), st.sampled_from([14, 16]), st.integers(1, 100))
def test_grid_is_the_largest_that_some_scale_gives(height, width, patch, most):
    rows, columns = naflex_grid(height, width, patch, most)
    assert 1 <= rows * columns <= most
    # Slower and plainer: every scale at which a row or a column fills up.
    scales = [count * patch / side for side in (height, width) for count in range(1, most + 1)] + [100.0]
    grids = [(math.ceil(height * s / patch - 1e-9), math.ceil(width * s / patch - 1e-9)) for s in scales if s <= 100.0]
    assert rows * columns == max(r * c for r, c in grids if r * c <= most)


def test_grid_equals_the_bisection_of_transformers():
    rng = np.random.default_rng(0)
    for height, width in rng.integers(1, 4000, (300, 2)).tolist():
        target = get_image_size_for_max_num_patches(height, width, 16, 256)
        assert naflex_grid(height, width, 16, 256) == (target[0] // 16, target[1] // 16)
