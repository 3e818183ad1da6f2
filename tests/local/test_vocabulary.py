"""The script that fits the shipped weights, on a few drawn photos."""

import numpy as np
import pytest
from safetensors.numpy import load

from imgrank.errors import InputError
from imgrank.local.keypoints import LocalSettings, detect
from imgrank.local.projection import unpack
from imgrank.local.vlad import Vocabulary, aggregate
from imgrank.training import vocabulary
from imgrank.training.vocabulary import encoder_bytes, fit, k_means, main, principal_directions
from tests.local.drawing import picture


def test_the_script_writes_the_same_bytes_twice(tmp_path):
    for name in ("a", "b"):
        files = ["-o", str(tmp_path / name), "--features", str(tmp_path / f"{name}.local")]
        main([*files, "--photos", "6", "--workers", "1" if name == "a" else "2"])
    assert (tmp_path / "a").read_bytes() == (tmp_path / "b").read_bytes()
    assert (tmp_path / "a.local").read_bytes() == (tmp_path / "b.local").read_bytes()


def test_the_written_weights_are_those_that_were_fitted():
    photos = [detect(picture(seed), LocalSettings()) for seed in range(8)]
    weights = fit(photos, words=3)
    tensors = load(encoder_bytes(weights, LocalSettings()))
    words = tensors["vocabulary.words"].astype(np.float32)
    assert np.array_equal(words, weights.vocabulary.words)
    stored = unpack(tensors["projection.codes"], tensors["projection.steps"], weights.vocabulary.raw_dim)
    raw = np.stack([aggregate(one, weights.vocabulary) for one in photos]) - weights.projection.mean
    exact, rounded = raw @ weights.projection.basis, raw @ stored
    assert np.corrcoef(exact.ravel(), rounded.ravel())[0, 1] > 0.98
    assert isinstance(weights.vocabulary, Vocabulary)


def test_centres_are_the_means_of_what_is_nearest_to_them():
    rng = np.random.default_rng(0)
    truth = np.array([[0, 0], [10, 0], [0, 10]], np.float32)
    rows = np.repeat(truth, 50, axis=0) + rng.normal(0, 0.1, (150, 2)).astype(np.float32)
    centres = k_means(rows, 3, 20, seed=3)
    assert sorted(map(tuple, np.rint(centres).astype(int).tolist())) == [(0, 0), (0, 10), (10, 0)]
    nearest = np.argmin(((rows[:, None] - centres) ** 2).sum(axis=2), axis=1)
    assert np.abs(centres - [rows[nearest == j].mean(axis=0) for j in range(3)]).max() < 1e-4


def test_directions_are_orthonormal_and_by_falling_variance():
    rows = np.random.default_rng(0).standard_normal((200, 5)).astype(np.float32) * [1, 5, 2, 4, 3] + 7
    mean, basis = principal_directions(rows.astype(np.float32), 4)
    assert np.abs(mean - rows.mean(axis=0)).max() < 1e-5
    assert np.abs(basis.T @ basis - np.eye(4)).max() < 1e-6
    assert np.abs(basis).argmax(axis=0).tolist() == [1, 3, 4, 2]


def test_too_few_keypoints_are_refused():
    with pytest.raises(InputError, match="draw more"):
        fit([detect(np.zeros((40, 40, 3), np.uint8), LocalSettings())])


def test_the_seeds_are_not_those_of_other_drawings():
    assert vocabulary.FIRST_SEED >= 1_000_000
