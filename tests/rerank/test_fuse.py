"""Fused scores: worked numbers, and a list that stays in order."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from imgrank.errors import ImgrankError, InputError, SettingsError
from imgrank.rerank.base import PairScores
from imgrank.rerank.fuse import fuse, joint_scores, reciprocal_rank_fusion
from imgrank.results import Hit, Ranking


def ranking(similarities: list[float]) -> Ranking:
    return Ranking(b"q", tuple(Hit(b"q", i + 1, i, b"p%d" % i, s, s) for i, s in enumerate(similarities)))


def test_worked_numbers() -> None:
    # 0.5 * 0.8 + 0.5 * 0.1 = 0.45; 0.5 * 0.6 + 0.5 * 0.9 = 0.75; the third is not looked at: 0.5 * 0.4 = 0.2.
    scores = PairScores(np.array([0.1, 0.9], np.float32))
    fused = fuse(ranking([0.8, 0.6, 0.4]), scores, lam=0.5, scorer="geometric")
    assert [hit.id for hit in fused.hits] == [1, 0, 2]
    assert [hit.rank for hit in fused.hits] == [1, 2, 3]
    np.testing.assert_allclose([hit.score for hit in fused.hits], [0.75, 0.45, 0.2], rtol=1e-6)
    assert [hit.scorer for hit in fused.hits] == ["geometric", "geometric", None]
    assert all(hit.probability is None and hit.logit is None for hit in fused.hits)


def test_logits_become_probabilities() -> None:
    # sigmoid(0) = 1/2, sigmoid(ln 3) = 3/4; at +-40 float32 logits still give different float64 sums.
    scores = PairScores.of_logits(np.array([0.0, np.log(3.0), -200.0], np.float32))
    np.testing.assert_allclose(scores.values, [0.5, 0.75, 0.0], atol=1e-7)
    fused = fuse(ranking([0.5, 0.5, 0.5]), scores, lam=0.0, scorer="mllm")
    assert [hit.id for hit in fused.hits] == [1, 0, 2]
    assert fused.hits[0].probability == pytest.approx(0.75)
    assert fused.hits[0].logit == pytest.approx(np.log(3.0))


def test_ties_go_to_the_higher_similarity_then_to_the_lower_id() -> None:
    scores = PairScores(np.array([0.25, 0.75, 0.75], np.float32))
    fused = fuse(ranking([0.75, 0.25, 0.25]), scores, lam=0.5, scorer="x")
    assert [hit.id for hit in fused.hits] == [0, 1, 2]


def test_numbers_decide_where_ids_do_not_tell_photos_apart() -> None:
    scores = PairScores(np.array([0.5, 0.5, 0.5], np.float32))
    fused = fuse(ranking([0.25, 0.25, 0.25]), scores, lam=0.5, scorer="x", numbers=[7, 9, 3])
    assert [hit.id for hit in fused.hits] == [2, 0, 1]


def test_nan_is_refused_with_the_way_out() -> None:
    with pytest.raises(ImgrankError, match="--dtype float32"):
        PairScores.of_logits(np.array([0.0, np.nan], np.float32))


def test_a_weight_outside_0_to_1_is_refused() -> None:
    with pytest.raises(SettingsError, match="lambda"):
        fuse(ranking([0.5]), PairScores(np.zeros(1, np.float32)), lam=1.5, scorer="x")


unit = st.floats(0, 1, width=32)


@given(
    similarities=st.lists(unit, min_size=1, max_size=20).map(lambda s: sorted(s, reverse=True)),
    values=arrays(np.float32, 20, elements=unit),
    looked_at=st.integers(0, 20),
    lam=unit,
)
def test_the_list_stays_in_order_of_its_scores(similarities, values, looked_at, lam) -> None:
    k = min(looked_at, len(similarities))
    fused = fuse(ranking(similarities), PairScores(values[:k]), lam=lam, scorer="x")
    scores = [hit.score for hit in fused.hits]
    assert scores == sorted(scores, reverse=True)
    assert sorted(hit.id for hit in fused.hits) == list(range(len(similarities)))


def test_reciprocal_rank_fusion_by_hand() -> None:
    # a: 1/61 + 1/63, b: 1/62 + 1/61, c: 1/63, d: 1/62.
    fused = reciprocal_rank_fusion([["a", "b", "c"], ["b", "d", "a"]])
    assert [key for key, _ in fused] == ["b", "a", "d", "c"]
    assert [score for _, score in fused] == pytest.approx([0.0325225, 0.0322664, 0.0161290, 0.0158730], abs=1e-7)


def test_weights_and_k_of_reciprocal_rank_fusion_by_hand() -> None:
    # k = 1: a = 2/2 + 0.5/3, b = 2/3 + 0.5/2.
    fused = dict(reciprocal_rank_fusion([["a", "b"], ["b", "a"]], k=1, weights=[2, 0.5]))
    assert fused == pytest.approx({"a": 7 / 6, "b": 11 / 12})


def test_ranks_in_another_order_are_a_tie_and_go_to_the_key_met_first() -> None:
    # 1/61 + 1/62 + 1/63 three times; sums of floats in these orders differ in the last bit.
    rankings = [["c", "a", "b"], ["a", "b", "c"], ["b", "c", "a"]]
    fused = reciprocal_rank_fusion(rankings)
    assert [key for key, _ in fused] == ["c", "a", "b"]
    assert len({score for _, score in fused}) == 1


@given(st.lists(st.lists(st.integers(0, 20), unique=True, max_size=12), max_size=5))
def test_one_ranking_keeps_its_order_and_every_key_appears_once(rankings: list[list[int]]) -> None:
    fused = reciprocal_rank_fusion(rankings)
    assert sorted(key for key, _ in fused) == sorted(set().union(*rankings))
    for ranking in rankings:
        assert [key for key, _ in reciprocal_rank_fusion([ranking])] == ranking
    worth = [sum(1 / (60 + ranking.index(key) + 1) for ranking in rankings if key in ranking) for key, _ in fused]
    assert [score for _, score in fused] == pytest.approx(worth)


def test_reciprocal_rank_fusion_refuses_nonsense() -> None:
    for wrong in ({"k": -1}, {"k": math.nan}, {"weights": [1]}, {"weights": [1, -1]}, {"weights": [1, math.inf]}):
        with pytest.raises(SettingsError):
            reciprocal_rank_fusion([["a"], ["b"]], **wrong)
    with pytest.raises(InputError, match="twice"):
        reciprocal_rank_fusion([["a", "a"]])
    assert reciprocal_rank_fusion([]) == reciprocal_rank_fusion([[], []]) == []


def test_several_photos_of_one_object_say_one_thing() -> None:
    # Two photos, three candidates, one way each: logits (2, 0, -1) and (0, 4, -3).
    one, other = PairScores.of_logits(np.float32([2, 0, -1])), PairScores.of_logits(np.float32([0, 4, -3]))
    mean, best = joint_scores([one, other], "mean"), joint_scores([one, other], "max")
    np.testing.assert_array_equal(mean.logits, np.float32([1, 2, -2]))
    np.testing.assert_array_equal(best.logits, np.float32([2, 4, -1]))
    np.testing.assert_allclose(best.values, 1 / (1 + np.exp([-2.0, -4.0, 1.0])), rtol=1e-6)
    # Values without logits are fused themselves.
    plain = [PairScores(np.float32([0.25, 1.0])), PairScores(np.float32([0.75, 0.0]))]
    np.testing.assert_array_equal(joint_scores(plain, "mean").values, np.float32([0.5, 0.5]))
    np.testing.assert_array_equal(joint_scores(plain, "max").values, np.float32([0.75, 1.0]))
    assert len(joint_scores([PairScores.joined([])] * 2, "max")) == 0


def test_the_best_photo_is_chosen_by_both_orders_together() -> None:
    # Ways (4, 0) and (1, 2): means 2 and 1.5, so the first photo's pair of answers is kept whole.
    one, other = (PairScores.of_logits(np.float32(ways)) for ways in ([[4], [0]], [[1], [2]]))
    np.testing.assert_array_equal(joint_scores([one, other], "max").ways, np.float32([[4], [0]]))
    np.testing.assert_array_equal(joint_scores([one, other], "mean").ways, np.float32([[2.5], [1]]))
