import dataclasses

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers.models.qwen2_vl.image_processing_pil_qwen2_vl import Qwen2VLImageProcessorPil

from imgrank.errors import InputError, SettingsError
from imgrank.mllm.preprocess import PatchSettings, patches, token_grid

QWEN25 = PatchSettings(14, 2, 2, (0.48, 0.46, 0.41), (0.27, 0.26, 0.28), min_pixels=56 * 56)
QWEN3 = PatchSettings(16, 2, 2, (0.5,) * 3, (0.5,) * 3, min_pixels=256 * 256)


@pytest.mark.parametrize(("longer_side", "grid"), [(336, (9, 12)), (448, (12, 16)), (560, (15, 20)), (756, (20, 27))])
def test_grids_of_a_four_to_three_photo(longer_side, grid):
    # 28 pixels a token: 756 x 567 pixels are 27 columns and 20.25 rows.
    assert token_grid(1200, 1600, longer_side=longer_side, max_tokens=1280, settings=QWEN25) == grid


def test_a_photo_below_the_longer_side_keeps_its_size():
    assert token_grid(280, 140, longer_side=756, max_tokens=1280, settings=QWEN25) == (10, 5)


def test_a_photo_below_the_model_minimum_is_enlarged_to_it():
    # 64 x 16 pixels become 512 x 128, which has 256 x 256 pixels: 16 x 4 tokens of 32.
    assert token_grid(64, 16, longer_side=560, max_tokens=1280, settings=QWEN3) == (16, 4)
    # ... but never beyond the longer side that was asked for.
    assert token_grid(64, 16, longer_side=256, max_tokens=1280, settings=QWEN3) == (8, 2)


def test_too_many_tokens_shrink_both_sides():
    # 20 x 27 = 540 tokens; sqrt(100 * 28**2 / (1200 * 1600)) scales to 8.66 rows and 11.55 columns.
    assert token_grid(1200, 1600, longer_side=756, max_tokens=100, settings=QWEN25) == (8, 11)


@given(
    height=st.integers(1, 20000),
    width=st.integers(1, 20000),
    longer_side=st.integers(1, 3000),
    max_tokens=st.integers(1, 2000),
)
def test_a_grid_is_never_empty_and_never_too_large(height, width, longer_side, max_tokens):
    rows, columns = token_grid(height, width, longer_side=longer_side, max_tokens=max_tokens, settings=QWEN3)
    assert min(rows, columns) >= 1
    assert rows * columns <= max_tokens
    assert max(rows, columns) <= max(1, longer_side / 32 + 0.5)
    flipped = token_grid(width, height, longer_side=longer_side, max_tokens=max_tokens, settings=QWEN3)
    if min(rows, columns) > 1:
        assert flipped == (columns, rows)


@pytest.mark.parametrize(("longer_side", "max_tokens"), [(0, 10), (10, 0), (-1, 10)])
def test_sizes_below_one_are_refused(longer_side, max_tokens):
    with pytest.raises(SettingsError, match="at least 1"):
        token_grid(10, 10, longer_side=longer_side, max_tokens=max_tokens, settings=QWEN25)


@pytest.mark.parametrize("settings", [QWEN25, QWEN3])
@pytest.mark.parametrize(("height", "width"), [(300, 411), (512, 320), (97, 640)])
def test_patches_equal_those_of_the_image_processor_of_transformers(settings, height, width):
    settings = dataclasses.replace(settings, min_pixels=1024)
    photo = np.random.default_rng(0).integers(0, 256, (height, width, 3), dtype=np.uint8)
    processor = Qwen2VLImageProcessorPil(
        patch_size=settings.patch,
        image_mean=list(settings.mean),
        image_std=list(settings.std),
        size={"shortest_edge": 1024, "longest_edge": 2**24},
    )
    expected = processor([photo], return_tensors="pt")
    rows, columns = token_grid(height, width, longer_side=1000, max_tokens=2000, settings=settings)
    assert expected["image_grid_thw"].tolist() == [[1, 2 * rows, 2 * columns]]
    np.testing.assert_allclose(patches(photo, rows, columns, settings), expected["pixel_values"], atol=2e-6, rtol=0)


def test_what_is_not_a_photo_is_refused():
    with pytest.raises(InputError, match=r"the photo is float64 \(4, 4, 3\)"):
        patches(np.zeros((4, 4, 3)), 1, 1, QWEN3)
