"""Candidates are shortened to what the token cache would keep of them."""

import numpy as np
import pytest
import torch

from imgrank.tokens.prune import most_diverse
from imgrank.training.pairs import GroupSettings, Sampler
from imgrank.training.shortened import shortened
from imgrank.training.train import mine
from tests.training.handmade import made_photos, small_network


@pytest.fixture(scope="module")
def groups():
    photos = made_photos(5)
    sampler = Sampler(photos, mine(photos)[0])
    return sampler.draw(np.random.default_rng(0), 2, GroupSettings(tokens=24, candidate_tokens=24))


def test_each_candidate_keeps_the_tokens_that_the_cache_would_keep(groups):
    connector = small_network().model.connector
    found = shortened(connector, groups, 9)
    assert found.candidates.shape == (*groups.candidates.shape[:2], 9, groups.candidates.shape[3])
    for g, k in np.ndindex(groups.candidates.shape[:2]):
        one = groups.candidates[g, k]
        with torch.no_grad():
            rows = most_diverse(connector(torch.from_numpy(one)).numpy(), 9)
        np.testing.assert_array_equal(found.candidates[g, k], one[rows])
        np.testing.assert_array_equal(found.match[g, k], groups.match[g, k][rows])
    np.testing.assert_array_equal(found.query, groups.query)
    np.testing.assert_array_equal(found.same, groups.same)


def test_as_many_as_there_are_stay_as_they_are(groups):
    assert shortened(small_network().model.connector, groups, 24) is groups
