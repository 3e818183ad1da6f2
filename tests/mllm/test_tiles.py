"""Tiles worked by hand, and against the image processors of transformers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from transformers.models.got_ocr2.image_processing_pil_got_ocr2 import (
    GotOcr2ImageProcessorPil,
    get_optimal_tiled_canvas,
)
from transformers.models.llava_onevision.image_processing_pil_llava_onevision import LlavaOnevisionImageProcessorPil

from imgrank.errors import SettingsError
from imgrank.mllm.tiles import TileSettings, cut, pad_to_square, tile_grid, tile_settings

MEAN, STD = (0.48, 0.46, 0.41), (0.23, 0.22, 0.23)
NUMBERS = TileSettings(32, MEAN, STD, 1 / 255, 3)
VALUES = {"size": {"height": 32, "width": 32}, "image_mean": list(MEAN), "image_std": list(STD), "resample": 3}


def photo(height, width):
    return np.random.default_rng(height + width).integers(0, 256, (height, width, 3), dtype=np.uint8)


@pytest.mark.parametrize(
    ("height", "width", "most", "grid"),
    [
        (420, 560, 12, (1, 1)),  # 1.17 tiles of pixels
        (560, 560, 12, (1, 1)),  # 1.56
        (776, 1034, 12, (1, 1)),  # 3.998: 1 x 2 and 1 x 3 are further from 4 x 3 than 1 x 1 is
        (776, 1035, 12, (2, 2)),  # 4.0017: as near as 1 x 1, and more
        (776, 1035, 3, (1, 1)),
        (448, 896, 12, (1, 2)),
        (896, 448, 12, (2, 1)),
        (448, 895, 12, (1, 1)),  # one pixel short
        (1344, 1792, 12, (3, 4)),
        (1344, 1792, 0, (1, 1)),
        (448, 100000, 5, (1, 5)),
        (1, 10**9, 5, (1, 5)),
    ],
)
def test_grids_worked_by_hand(height, width, most, grid):
    assert tile_grid(height, width, side=448, most=most) == grid


@given(height=st.integers(1, 3000), width=st.integers(1, 3000), side=st.integers(28, 512), most=st.integers(1, 40))
def test_grids_are_those_of_transformers_for_as_many_tiles(height, width, side, most):
    rows, columns = tile_grid(height, width, side=side, most=most)
    assert rows * columns == 1 or rows * columns * side**2 <= height * width
    allowed = max(1, min(most, height * width // side**2))
    assert (columns, rows) == get_optimal_tiled_canvas.__wrapped__((height, width), (side, side), 1, allowed)


@pytest.mark.parametrize(("height", "width"), [(64, 96), (100, 70), (40, 200), (20, 20), (32, 32)])
@pytest.mark.parametrize("resample", [2, 3])
def test_tiles_are_those_of_transformers(height, width, resample):
    image = photo(height, width)
    rows, columns = tile_grid(height, width, side=32, most=6)
    tiles = cut(image, rows, columns, TileSettings(32, MEAN, STD, 1 / 255, resample))
    assert tiles.shape == (rows * columns + (rows * columns > 1), 3, 32, 32)
    processor = GotOcr2ImageProcessorPil(**(VALUES | {"resample": resample}), crop_to_patches=True)
    theirs = processor([image], max_patches=rows * columns, return_tensors="np")["pixel_values"]
    np.testing.assert_allclose(tiles, theirs, atol=2e-6, rtol=0)


def test_tiles_run_row_by_row_and_the_whole_comes_last():
    image = np.repeat(np.repeat(np.arange(6, dtype=np.uint8).reshape(2, 3), 8, 0), 8, 1)[..., None].repeat(3, 2)
    tiles = cut(image, 2, 3, TileSettings(8, (0, 0, 0), (1, 1, 1), 1, 0))
    assert [set(tile.ravel()) for tile in tiles[:6]] == [{float(number)} for number in range(6)]
    assert len(tiles) == 7
    assert set(tiles[6].ravel()) == set(range(6))


@pytest.mark.parametrize(("height", "width"), [(10, 15), (15, 10), (1, 8), (7, 7), (4, 9)])
def test_squares_are_those_of_transformers(height, width):
    image = photo(height, width)
    square = pad_to_square(image, NUMBERS)
    theirs = LlavaOnevisionImageProcessorPil(image_mean=list(MEAN)).pad_to_square(
        image.transpose(2, 0, 1), tuple(int(mean * 255) for mean in MEAN)
    )
    np.testing.assert_array_equal(square, theirs.transpose(1, 2, 0))


class Folder:
    name = "mine"

    def __init__(self, **values):
        self.image_processor = VALUES | values


def test_numbers_come_from_the_folder():
    numbers = tile_settings(Folder(rescale_factor=0.5, resample=0))
    assert numbers == TileSettings(32, MEAN, STD, 0.5, 0)
    assert tile_settings(Folder(resample=None)) == NUMBERS


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"size": {"shortest_edge": 32}}, "unusable"),
        ({"size": 32}, "unusable"),
        ({"size": {"height": 32, "width": 33}}, "33 x 32 pixels"),
        ({"size": {"height": 0, "width": 0}}, "0 x 0 pixels"),
        ({"size": {"height": 10**6, "width": 10**6}}, "up to 4096"),
        ({"image_mean": None}, "unusable"),
        ({"image_mean": [0.5, 0.5]}, "unusable"),
        ({"image_mean": [0.5, 0.5, float("nan")]}, "no number"),
        ({"image_std": [1, 0, 1]}, "not positive"),
        ({"rescale_factor": -1}, "not positive"),
        ({"resample": 9}, "filter, 9"),
        ({"do_resize": False}, "do_resize"),
        ({"do_normalize": False}, "do_normalize"),
        ({"do_center_crop": True}, "do_center_crop"),
    ],
)
def test_unusable_numbers_are_refused(values, message):
    with pytest.raises(SettingsError, match=f"'mine': preprocessor_config.json.*{message}"):
        tile_settings(Folder(**values))
