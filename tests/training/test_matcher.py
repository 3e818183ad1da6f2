"""What a network can do before it has learned, and what its losses say."""

import numpy as np
import pytest
import torch

from imgrank.local.keypoints import Keypoints, LocalSettings, detect
from imgrank.mllm.keypoint_network import inputs_of
from imgrank.training.corpus import Photos
from imgrank.training.matcher import LossWeights, Matcher, losses, new_network
from imgrank.training.pairs import NO_MATCH, UNKNOWN, Groups
from imgrank.training.train import descriptor_basis
from tests.local.drawing import picture
from tests.training.handmade import SMALL

HALF = 60  # tokens


@pytest.fixture(scope="module")
def keypoints():
    return [detect(picture(seed), LocalSettings()) for seed in range(4)]


@pytest.fixture(scope="module")
def basis(keypoints):
    count = len(keypoints)
    return descriptor_basis(Photos(np.arange(count), np.zeros(count, np.uint8), np.zeros((count, 3, 3)), keypoints), 0)


@pytest.fixture(scope="module")
def matcher(basis):
    with torch.random.fork_rng(devices=[]):
        return Matcher(new_network(SMALL, *basis, seed=0)).eval()


def rows_of(keypoints, rows, turn=0.0):
    """Return the numbers of some keypoints, all moved by as much and turned."""
    places = keypoints.places[rows].copy()
    places[:, :2] = 0.6 * places[:, :2] + 0.1
    places[:, 3] = (places[:, 3] + turn) % 360
    return inputs_of(Keypoints(keypoints.root_sift[rows], places, keypoints.colours[rows], keypoints.extent))


@pytest.fixture(scope="module")
def attention(matcher, keypoints):
    """Return (heads, tokens, 1 + query's tokens) shares: HALF tokens as in the query, then HALF of another photo."""
    query = inputs_of(keypoints[0], slice(HALF))
    rows = np.arange(HALF)[::-1]
    candidate = np.concatenate([rows_of(keypoints[0], rows, turn=20), rows_of(keypoints[1], slice(HALF))])
    with torch.inference_mode():
        weights = matcher(torch.from_numpy(query)[None], torch.from_numpy(candidate)[None, None])[2]
    return weights[0, 0].softmax(dim=-1).numpy()


def test_an_equal_token_of_the_other_photo_is_attended_to_from_the_start(attention):
    own = attention[:, np.arange(HALF), 1 + np.arange(HALF)[::-1]]  # (heads, tokens)
    assert np.mean(own > 0.5) > 0.9
    assert (attention[:, :HALF].argmax(axis=-1) == 1 + np.arange(HALF)[::-1]).mean() > 0.95


def test_a_token_without_an_equal_one_attends_to_the_token_for_none(attention):
    none = attention[:, HALF:, 0]
    assert np.mean(none > 0.5) > 0.8
    assert (attention[:, HALF:].argmax(axis=-1) == 0).mean() > 0.9
    assert attention[:, :HALF, 0].max() < attention[:, HALF:, 0].mean()


def test_equal_seeds_give_equal_networks(basis):
    with torch.random.fork_rng(devices=[]):
        first, again, other = (new_network(SMALL, *basis, seed=seed).state_dict() for seed in (1, 1, 2))
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)


def groups_of(keypoints, match):
    """Return a group: a query, the same photo, and another."""
    query = inputs_of(keypoints[0], slice(HALF))
    candidates = np.stack([rows_of(keypoints[0], slice(HALF)), inputs_of(keypoints[1], slice(HALF))])
    same = np.array([[1.0, 0.0]], np.float32)
    return Groups(query[None], candidates[None], same, np.array([[0, 3]], np.uint8), match[None])


def test_true_matches_cost_less_than_false_ones(matcher, keypoints):
    match = np.stack([np.arange(HALF), np.full(HALF, NO_MATCH)])
    wrong = np.stack([np.roll(np.arange(HALF), 1), np.full(HALF, NO_MATCH)])
    with torch.no_grad():
        right, false = (losses(matcher, groups_of(keypoints, m), LossWeights(), "cpu")[1] for m in (match, wrong))
    assert right["match"] < 0.7
    assert false["match"] > right["match"] + 1
    assert right["pair"] == false["pair"]
    assert right["logits"].shape == (1, 2)


def test_tokens_whose_match_is_unknown_teach_nothing(matcher, keypoints):
    match = np.stack([np.arange(HALF), np.full(HALF, NO_MATCH)])
    match[:, HALF // 2 :] = UNKNOWN
    groups = groups_of(keypoints, match)
    with torch.no_grad():
        parts = losses(matcher, groups, LossWeights(), "cpu")[1]
        logits, inlier, weights = matcher(torch.from_numpy(groups.query), torch.from_numpy(groups.candidates))
    known = inlier[-1][0, :, : HALF // 2]
    truth = torch.tensor([[1.0], [0.0]]).expand_as(known)
    expected = torch.nn.functional.binary_cross_entropy_with_logits(known, truth)
    assert float(parts["inlier"]) == pytest.approx(float(expected), rel=1e-5)
    assert torch.isfinite(weights).all()
    torch.testing.assert_close(parts["logits"], logits)


def test_the_parts_of_the_loss_are_those_worked_out_by_hand(matcher, keypoints, monkeypatch):
    match = np.stack([np.arange(HALF), np.full(HALF, NO_MATCH)])
    groups = groups_of(keypoints, match)
    forward = matcher.forward

    def known(query, candidates):
        _, inlier, weights = forward(query, candidates)
        return torch.tensor([[1.0, -2.0]]), torch.zeros_like(inlier), torch.zeros_like(weights)

    monkeypatch.setattr(matcher, "forward", known)
    with torch.no_grad():
        total, parts = losses(matcher, groups, LossWeights(order=2.0, inlier=3.0, match=4.0), "cpu")
    softplus = np.log1p(np.exp([-1.0, -2.0, -3.0]))
    assert float(parts["pair"]) == pytest.approx(softplus[:2].mean(), rel=1e-5)
    assert float(parts["order"]) == pytest.approx(softplus[2], rel=1e-5)  # the negative is 3 below the positive
    assert float(parts["inlier"]) == pytest.approx(np.log(2), rel=1e-5)
    # Every token weighs all of the query's tokens and none alike; those without a match count half.
    assert float(parts["match"]) == pytest.approx(1.5 * np.log(1 + HALF), rel=1e-5)
    expected = parts["pair"] + 2 * parts["order"] + 3 * parts["inlier"] + 4 * parts["match"]
    torch.testing.assert_close(total, expected)


def test_groups_without_a_positive_or_without_a_known_match_have_a_finite_loss(matcher, keypoints):
    groups = groups_of(keypoints, np.full((2, HALF), NO_MATCH))
    groups.same[:] = 0
    total, parts = losses(matcher, groups, LossWeights(), "cpu")
    assert torch.isfinite(total)
    assert float(parts["order"]) == 0
    total.backward()
    assert all(torch.isfinite(value.grad).all() for value in matcher.parameters() if value.grad is not None)
    matcher.zero_grad()
