import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgrank.errors import InputError
from imgrank.local.features import (
    COLUMNS,
    DIM,
    LocalFeatures,
    dequantize_keypoints,
    quantize_keypoints,
)


def some(count: int = 5, seed: int = 0) -> LocalFeatures:
    rng = np.random.default_rng(seed)
    return LocalFeatures.from_columns(
        {
            "descriptors": rng.integers(0, 256, (count, DIM)).astype(np.uint8),
            "keypoints": rng.integers(0, 65536, (count, 4)).astype(np.uint16),
        }
    )


def test_columns_come_back_unchanged():
    features = some()
    columns = features.to_columns()
    assert {name: (str(c.dtype), c.shape[1:]) for name, c in columns.items()} == COLUMNS
    again = LocalFeatures.from_columns(columns)
    assert np.array_equal(again.descriptors, features.descriptors)
    assert np.array_equal(again.keypoints, features.keypoints)


@given(
    st.lists(
        st.tuples(st.floats(0, 1), st.floats(0, 1), st.floats(0, 1), st.floats(0, 360, exclude_max=True)),
        min_size=1,
        max_size=20,
    )
)
def test_rounding_of_keypoints_is_bounded_and_happens_once(rows):
    keypoints = np.array(rows, dtype=np.float32)
    once = dequantize_keypoints(quantize_keypoints(keypoints))
    assert np.abs(once[:, :3] - keypoints[:, :3]).max() <= 0.5 / 65535 + 1e-7
    turn = np.abs(once[:, 3] - keypoints[:, 3])
    assert np.minimum(turn, 360 - turn).max() <= 0.5 * 360 / 65536 + 1e-4
    assert np.array_equal(dequantize_keypoints(quantize_keypoints(once)), once)


def test_lengths_beyond_the_photo_are_clipped_and_angles_wrap():
    stored = quantize_keypoints(np.array([[-0.1, 1.5, 2.0, 360.0]], dtype=np.float32))
    assert stored.tolist() == [[0, 65535, 65535, 0]]


def test_vectors_are_unit_rows_around_the_zero_byte():
    descriptors = np.full((2, DIM), 128, dtype=np.uint8)
    descriptors[0, :2] = [128 + 3, 128 - 4]
    vectors = LocalFeatures(descriptors, np.zeros((2, 4), np.float32)).vectors()
    assert vectors.dtype == np.float32
    assert vectors[0, :2] == pytest.approx([0.6, -0.8])
    assert not vectors[0, 2:].any()
    assert not vectors[1].any()


def test_no_features_are_a_valid_set():
    empty = LocalFeatures.empty()
    assert len(empty) == 0
    assert empty.vectors().shape == (0, DIM)
    assert len(LocalFeatures.from_columns(empty.to_columns())) == 0


@pytest.mark.parametrize(
    "change",
    [
        lambda c: c.pop("keypoints"),
        lambda c: c.update(descriptors=c["descriptors"].astype(np.int8)),
        lambda c: c.update(descriptors=c["descriptors"][:, :-1]),
        lambda c: c.update(keypoints=c["keypoints"][:-1]),
        lambda c: c.update(keypoints=c["keypoints"].ravel()),
    ],
)
def test_columns_of_another_form_are_refused(change):
    columns = some().to_columns()
    change(columns)
    with pytest.raises(InputError, match="compute them again"):
        LocalFeatures.from_columns(columns)
