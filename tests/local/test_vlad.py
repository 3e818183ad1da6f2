import numpy as np

from imgrank.local.keypoints import Keypoints, LocalSettings, detect
from imgrank.local.vlad import HARMONICS, INPUT_DIM, POWER, SPREAD, Vocabulary, aggregate, embed, modulation
from tests.local.drawing import picture


def vocabulary(words: int = 3, dim: int = 6) -> Vocabulary:
    rng = np.random.default_rng(0)
    basis = np.linalg.qr(rng.standard_normal((INPUT_DIM, dim)))[0]
    return Vocabulary(
        np.full(INPUT_DIM, 0.05, np.float32),
        basis.astype(np.float32),
        (0.3 * rng.standard_normal((words, dim))).astype(np.float32),
    )


def by_loops(keypoints: Keypoints, parts: Vocabulary) -> np.ndarray:
    """The same, one keypoint after the other, in double precision."""
    words = parts.words.astype(np.float64)
    sums = np.zeros((len(words), words.shape[1], 3))
    for i in range(len(keypoints)):
        sift = keypoints.root_sift[i].astype(np.float64)
        colour = keypoints.colours[i].reshape(-1, 3) - np.array([0, 128, 128])
        colour = colour * 0.2 * np.array([0.3 / 255, 1 / 60, 1 / 60])
        point = (np.concatenate([sift / np.linalg.norm(sift), colour.ravel()]) - parts.mean) @ parts.basis
        word = int(np.argmin([np.sum((point - one) ** 2) for one in words]))
        residual = (point - words[word]) / np.linalg.norm(point - words[word])
        x, y, _, angle = keypoints.places[i].astype(np.float64)
        far = (x - keypoints.extent[0] / 2) ** 2 + (y - keypoints.extent[1] / 2) ** 2
        turn = np.array([1.0, 0.9 * np.cos(np.deg2rad(angle)), 0.9 * np.sin(np.deg2rad(angle))])
        sums[word] += np.exp(-far / (2 * SPREAD**2)) * residual[:, None] * turn
    rows = sums.reshape(len(words), -1)
    rows = rows / np.maximum(np.linalg.norm(rows, axis=1, keepdims=True), 1e-12)
    rows = np.sign(rows) * np.abs(rows) ** POWER
    return rows.ravel() / np.linalg.norm(rows)


def test_it_equals_the_plain_loops():
    keypoints = detect(picture(0), LocalSettings(max_features=80))
    raw = aggregate(keypoints, vocabulary())
    assert raw.dtype == np.float32
    assert raw.shape == (vocabulary().raw_dim,)
    assert np.abs(raw - by_loops(keypoints, vocabulary())).max() < 1e-3
    assert float(raw @ by_loops(keypoints, vocabulary())) > 0.99999


def test_no_keypoints_give_zeros_and_others_length_one():
    flat = detect(np.full((50, 50, 3), 7, np.uint8), LocalSettings())
    assert not aggregate(flat, vocabulary()).any()
    some = aggregate(detect(picture(1), LocalSettings()), vocabulary())
    assert np.linalg.norm(some) == np.float32(1) or abs(np.linalg.norm(some) - 1) < 1e-6


def test_the_product_of_modulations_depends_on_the_difference_of_the_angles():
    rows = modulation(np.array([10, 40, 200, 230], np.float32)).astype(np.float64)
    expected = HARMONICS[0] ** 2 + HARMONICS[1] ** 2 * np.cos(np.deg2rad(30))
    assert abs(rows[0] @ rows[1] - expected) < 1e-6
    assert abs(rows[2] @ rows[3] - expected) < 1e-6


def test_the_input_holds_unit_sift_and_grey_as_zero_colour():
    keypoints = detect(np.repeat(picture(2).mean(axis=2, keepdims=True).astype(np.uint8), 3, 2), LocalSettings())
    rows = embed(keypoints)
    assert np.abs(np.linalg.norm(rows[:, :128], axis=1) - 1).max() < 1e-6
    assert np.abs(rows[:, 128:].reshape(-1, 5, 3)[:, :, 1:]).max() < 0.2 / 60 * 1.01  # one byte of the Lab rounding
