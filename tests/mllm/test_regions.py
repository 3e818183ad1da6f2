"""Which part of a photo each token stands for."""

import numpy as np
import pytest

from imgrank.config import BUILTIN
from imgrank.local.keypoints import LocalSettings, detect
from imgrank.mllm.regions import grid_regions, out_of_square
from imgrank.mllm.registry import load_mllm
from tests.local.drawing import picture
from tests.tiny_mllms import FAMILIES, TINY


def test_the_cells_of_a_grid_by_hand():
    boxes = grid_regions((2, 4))
    assert boxes.shape == (8, 4)
    np.testing.assert_allclose(boxes[0], [0, 0, 0.25, 0.5])
    np.testing.assert_allclose(boxes[6], [0.5, 0.5, 0.25, 0.5])  # second row, third column


def test_tiles_lie_side_by_side_and_the_last_one_shows_the_whole():
    boxes = grid_regions((2, 2), (1, 2))
    assert boxes.shape == (12, 4)
    np.testing.assert_allclose(boxes[3], [0.25, 0.5, 0.25, 0.5])  # lower right of the left tile
    np.testing.assert_allclose(boxes[4], [0.5, 0, 0.25, 0.5])  # upper left of the right tile
    np.testing.assert_allclose(boxes[11], [0.5, 0.5, 0.5, 0.5])  # lower right of the whole
    assert boxes[:8, 2:].prod(axis=1).sum() == pytest.approx(1)
    assert boxes[8:, 2:].prod(axis=1).sum() == pytest.approx(1)


def test_margins_of_a_padded_square_lie_outside_the_photo():
    # A photo of 200 x 100: 50 pixels above and below it belong to the square.
    found = out_of_square(np.array([[0, 0, 0.5, 0.25], [0.5, 0.25, 0.25, 0.5]], np.float32), (100, 200))
    np.testing.assert_allclose(found, [[0, -0.5, 0.5, 0.5], [0.5, 0, 0.25, 1]])


@pytest.mark.parametrize("family", FAMILIES)
def test_every_family_knows_the_place_of_each_of_its_tokens(family: str, model_folder):
    tiny = TINY[family]
    model = load_mllm(str(model_folder(family)), device="cpu", dtype="float32")
    photo = np.zeros((160, 240, 3), np.uint8)
    (tokens,) = model.encode([photo], longer_side=tiny.longer_side, max_tokens=tiny.max_tokens)
    assert model.on_grid
    boxes = model.regions(tokens, photo.shape[:2], None)
    assert boxes.shape == (tokens.full_length, 4)
    # Together they cover the photo, once for the tiles and once for the tile of the whole.
    ends = np.clip(np.concatenate([boxes[:, :2], boxes[:, :2] + boxes[:, 2:]], axis=1), 0, 1)
    area = (ends[:, 2:] - ends[:, :2]).prod(axis=1).sum()
    assert area == pytest.approx(2 if tokens.tile_count > 1 else 1, abs=1e-4)


def test_keypoints_are_where_they_were_found_and_unknown_without_the_photo():
    model = load_mllm(BUILTIN, device="cpu", dtype="float32")
    photo = picture(0, 200, 300)
    (tokens,) = model.encode([photo], longer_side=512, max_tokens=20)
    assert not model.on_grid
    boxes = model.regions(tokens, photo.shape[:2], photo)
    assert boxes.shape == (20, 4)
    found = detect(photo, LocalSettings()).places[:, :2]
    centres = boxes[:, :2] + boxes[:, 2:] / 2
    longer = np.array(photo.shape[1::-1]) / max(photo.shape)
    for centre in centres * longer:
        assert np.abs(found - centre).max(axis=1).min() < 1e-5
    assert model.regions(tokens, photo.shape[:2], None) is None
    flat = np.full((40, 40, 3), 90, np.uint8)  # has no keypoint, so nothing can be said
    assert model.regions(tokens, (40, 40), flat) is None
