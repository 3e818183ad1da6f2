"""Maps from evidence to probability: by hand, against scikit-learn, and what may never happen."""

import sys

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from imgrank.errors import InputError, MissingExtraError
from imgrank.evaluation.reliability import quality
from imgrank.rerank.calibration import Isotonic, Logistic, calibrated, map_of, sigmoid
from imgrank.rerank.calibration_fit import check_enough, cross_fit, fit, split_queries, targets

METHODS = ["isotonic", "logistic"]


def drawn(count: int, seed: int = 0, *, bend=lambda z: z) -> tuple[np.ndarray, np.ndarray]:
    """Logits that state their own truth, then bent."""
    rng = np.random.default_rng(seed)
    z = rng.normal(-1, 2, count)
    return bend(z), rng.uniform(size=count) < sigmoid(z)


# By hand


def test_smoothed_targets_by_hand():
    # Platt 1999: (N+ + 1) / (N+ + 2) and 1 / (N- + 2) for 3 same and 6 different pairs.
    assert targets(np.array([True] * 3 + [False] * 6)) == (1 / 8, 4 / 5)


def test_logistic_regression_by_hand():
    # At x = 1 three of four pairs are the same, at x = 0 one of four. With targets 5/6 and 1/6 the best sigmoid goes
    # through their means, (3 * 5/6 + 1/6) / 4 = 2/3 and 1/3: the intercept is -ln 2, the slope 2 ln 2.
    pytest.importorskip("sklearn")
    found = fit([1, 1, 1, 1, 0, 0, 0, 0], [True, True, True, False, True, False, False, False], "logistic")
    assert isinstance(found, Logistic)
    assert found.slope == pytest.approx(2 * np.log(2), rel=1e-6)
    assert found.intercept == pytest.approx(-np.log(2), rel=1e-6)


def test_isotonic_regression_by_hand():
    # 1, 2, 3, 4 are different, same, different, same: 2 and 3 violate the order and pool to 1/2. The ends are kept at
    # the targets, 1/4 and 3/4.
    pytest.importorskip("sklearn")
    found = fit([1, 2, 3, 4], [False, True, False, True], "isotonic")
    np.testing.assert_allclose(found([0, 1, 1.5, 2, 2.5, 3, 4, 9]), [0.25, 0.25, 0.375, 0.5, 0.5, 0.5, 0.75, 0.75])


# Second implementations


def test_isotonic_is_that_of_scikit_learn():
    isotonic = pytest.importorskip("sklearn.isotonic")
    x, same = drawn(3000)
    low, high = targets(same)
    other = isotonic.IsotonicRegression(y_min=low, y_max=high, out_of_bounds="clip").fit(x, same)
    asked = np.linspace(-12, 12, 5001)
    np.testing.assert_allclose(fit(x, same, "isotonic")(asked), other.predict(asked), atol=1e-12)


@pytest.mark.parametrize("scale", [1.0, 1e-3, 1e4])
def test_logistic_is_the_sigmoid_calibration_of_scikit_learn(scale):
    """Of its public classifier, whose own fit has Platt's targets, around one that hands evidence through."""
    base = pytest.importorskip("sklearn.base")
    calibration = pytest.importorskip("sklearn.calibration")
    frozen = pytest.importorskip("sklearn.frozen")

    class Through(base.ClassifierMixin, base.BaseEstimator):
        def fit(self, x, y):
            self.classes_ = np.array([False, True])
            return self

        def decision_function(self, x):
            return x[:, 0]

        def predict(self, x):
            return x[:, 0] > 0

    x, same = drawn(200, 1)
    x = (3 * x + 1) * scale
    other = calibration.CalibratedClassifierCV(frozen.FrozenEstimator(Through().fit(None, None)), method="sigmoid")
    other.fit(x[:, None], same)
    np.testing.assert_allclose(fit(x, same, "logistic")(x), other.predict_proba(x[:, None])[:, 1], atol=2e-4)


def test_logistic_has_the_greatest_likelihood():
    pytest.importorskip("sklearn")
    x, same = drawn(300, 2)
    found = fit(x, same, "logistic")
    low, high = targets(same)
    target = np.where(same, high, low)

    def loss(slope: float, intercept: float) -> float:
        stated = Logistic(slope, intercept)(x)
        return float(-(target * np.log(stated) + (1 - target) * np.log(1 - stated)).mean())

    best = loss(found.slope, found.intercept)
    for slope, intercept in ((1e-3, 0), (-1e-3, 0), (0, 1e-3), (0, -1e-3)):
        assert loss(found.slope + slope, found.intercept + intercept) > best


# What calibration is for


def test_calibrated_logits_stay_as_they_are():
    pytest.importorskip("sklearn")
    x, same = drawn(20_000)
    queries = np.arange(len(x)) // 20
    assert quality(sigmoid(x), same, 10).ece < 0.015
    for method in METHODS:
        crossed = cross_fit(x, same, queries, method, folds=5, seed=0)
        assert quality(crossed.predicted, same, 10).ece < 0.015
    found = fit(x, same, "logistic")
    assert isinstance(found, Logistic)
    assert (found.slope, found.intercept) == (pytest.approx(1, abs=0.05), pytest.approx(0, abs=0.05))


@pytest.mark.parametrize("method", METHODS)
def test_overconfident_logits_are_mended(method):
    pytest.importorskip("sklearn")
    x, same = drawn(10_000, bend=lambda z: 4 * z + 5)
    crossed = cross_fit(x, same, np.arange(len(x)) // 20, method, folds=5, seed=0)
    before, after = quality(sigmoid(x), same, 10), quality(crossed.predicted, same, 10)
    assert before.ece > 0.15
    assert after.ece < 0.02
    assert after.brier < before.brier
    assert after.log_loss < before.log_loss


@pytest.mark.parametrize("method", METHODS)
def test_evidence_that_says_the_opposite_gives_a_level_map(method):
    pytest.importorskip("sklearn")
    x, same = drawn(2000)
    found = fit(-x, same, method)
    stated = found([-9.0, 0.0, 9.0])
    assert (np.diff(stated) >= 0).all()
    # Isotonic regression may rise at the two ends, where there is next to nothing.
    assert stated[1] == pytest.approx(same.mean(), abs=0.01)


def test_evidence_that_does_not_vary_gives_the_share():
    pytest.importorskip("sklearn")
    same = np.array([True] * 30 + [False] * 70)
    for method in METHODS:
        assert fit(np.full(100, 0.5), same, method)([0.1, 0.5, 0.7]) == pytest.approx([0.3] * 3, abs=0.01)


@pytest.mark.parametrize("method", METHODS)
def test_separable_pairs_are_not_called_certain(method):
    pytest.importorskip("sklearn")
    same = np.array([False] * 20 + [True] * 18)
    stated = fit(np.arange(38.0), same, method)(np.array([-1e6, 1e6]))
    assert stated[0] <= 1 / 20
    assert stated[1] >= 18 / 20
    if method == "isotonic":
        np.testing.assert_allclose(stated, [1 / 22, 19 / 20])


# Never


@pytest.mark.parametrize("method", METHODS)
def test_the_order_of_hits_never_changes(method):
    pytest.importorskip("sklearn")
    rng = np.random.default_rng(0)
    for _ in range(100):
        count = int(rng.integers(2, 60))
        # Few values, so that there are ties, of any scale.
        evidence = (rng.integers(-9, 9, count) * 10.0 ** rng.integers(-6, 4)).astype(np.float32)
        same = rng.uniform(size=count) < rng.uniform(0.1, 0.9)
        same[:2] = [True, False]
        asked = np.sort(np.concatenate([evidence, rng.normal(0, 3, 50)]).astype(np.float32))
        stated = calibrated(fit(evidence, same, method), asked)
        assert stated.dtype == np.float32
        assert (np.diff(stated) >= 0).all()
        assert stated.min() >= 0
        assert stated.max() <= 1


@given(st.lists(st.floats(allow_nan=False, allow_infinity=False), min_size=2, max_size=8, unique=True), st.data())
def test_knots_of_any_size_give_rising_probabilities(knots, data):
    ys = np.sort(data.draw(st.lists(st.floats(0, 1), min_size=len(knots), max_size=len(knots))))
    found = map_of({"knots-x": np.sort(knots), "knots-y": ys})
    stated = found(np.sort([*knots, -1e300, -1.0, 0.0, 1.0, 1e300]))
    assert (np.diff(stated) >= 0).all()
    assert 0 <= stated[0] <= stated[-1] <= 1


@given(st.floats(0, 1e308), st.floats(-1e308, 1e308))
def test_coefficients_of_any_size_give_rising_probabilities(slope, intercept):
    stated = map_of({"coefficients": np.array([slope, intercept])})([-50.0, -1.0, 0.0, 1.0, 50.0])
    assert (np.diff(stated) >= 0).all()
    assert 0 <= stated[0] <= stated[-1] <= 1


@pytest.mark.parametrize("method", METHODS)
def test_what_is_kept_gives_the_same_map(method):
    pytest.importorskip("sklearn")
    x, same = drawn(500)
    found = fit(x, same, method)
    np.testing.assert_array_equal(map_of(found.arrays())(x), found(x))


NAN, INFINITY = float("nan"), float("inf")


@pytest.mark.parametrize(
    "arrays",
    [
        {},
        {"knots-x": [0.0]},
        {"knots-x": [0.0, 1.0], "knots-y": [0.5]},
        {"knots-x": [], "knots-y": []},
        {"knots-x": [0.0, 0.0], "knots-y": [0.1, 0.2]},
        {"knots-x": [1.0, 0.0], "knots-y": [0.1, 0.2]},
        {"knots-x": [0.0, 1.0], "knots-y": [0.2, 0.1]},
        {"knots-x": [0.0, 1.0], "knots-y": [-0.1, 0.2]},
        {"knots-x": [0.0, 1.0], "knots-y": [0.1, 1.2]},
        {"knots-x": [0.0, NAN], "knots-y": [0.1, 0.2]},
        {"knots-x": [0.0, INFINITY], "knots-y": [0.1, 0.2]},
        {"knots-x": [0.0, 1.0], "knots-y": [0.1, NAN]},
        {"knots-x": [[0.0, 1.0]], "knots-y": [[0.1, 0.2]]},
        {"coefficients": [1.0]},
        {"coefficients": [1.0, 2.0, 3.0]},
        {"coefficients": [-1.0, 2.0]},
        {"coefficients": [1.0, NAN]},
        {"coefficients": [INFINITY, 0.0]},
    ],
)
def test_what_is_no_map_is_refused(arrays):
    with pytest.raises(InputError):
        map_of({name: np.array(values) for name, values in arrays.items()})


def test_one_knot_is_a_level_map():
    assert Isotonic(np.array([0.0]), np.array([0.25]))([-1.0, 0.0, 1.0]).tolist() == [0.25] * 3


# Cross-fitting


def test_no_query_is_predicted_by_a_map_that_saw_it():
    pytest.importorskip("sklearn")
    x, same = drawn(600)
    queries = np.arange(600) // 10
    crossed = cross_fit(x, same, queries, "isotonic", folds=5, seed=0)
    assert len(crossed.maps) == 5
    for query in range(60):
        mine = queries == query
        (part,) = set(crossed.parts[mine].tolist())
        others = crossed.parts != part
        assert not (others & mine).any()
        again = fit(x[others], same[others], "isotonic")
        np.testing.assert_array_equal(crossed.predicted[mine], again(x[mine]))
    # What is true of a query changes nothing about what is said of it.
    turned = np.where(queries == 7, ~same, same)
    changed = cross_fit(x, turned, queries, "isotonic", folds=5, seed=0)
    np.testing.assert_array_equal(changed.parts, crossed.parts)
    np.testing.assert_array_equal(changed.predicted[queries == 7], crossed.predicted[queries == 7])
    assert (changed.predicted != crossed.predicted).any()


def test_queries_with_a_same_pair_are_dealt_to_every_part():
    queries = np.repeat(np.arange(40), 5)
    same = np.isin(np.arange(200), [0, 51, 102, 153, 199])  # five queries have one each
    for seed in range(20):
        parts = split_queries(same, queries, 5, seed)
        assert sorted(parts[same].tolist()) == [0, 1, 2, 3, 4]
        assert np.bincount(parts[::5]).tolist() == [8] * 5
    assert split_queries(same, queries, 9, 0).max() == 4  # no more parts than queries with a same pair
    one, other = split_queries(same, queries, 5, 0), split_queries(same, queries, 5, 1)
    assert (one != other).any()
    np.testing.assert_array_equal(one, split_queries(same, queries, 5, 0))


@pytest.mark.parametrize(
    ("positives", "negatives", "asked", "message"),
    [
        (9, 100, 3, "9 pairs of 3 queries show the same thing and 100 do not"),
        (100, 9, 3, "100 pairs of 3 queries show the same thing and 9 do not"),
        (50, 50, 1, "50 pairs of 1 queries"),
        (0, 0, 0, "0 pairs of 0 queries"),
    ],
)
def test_too_little_says_how_much_there_is(positives, negatives, asked, message):
    same = np.array([True] * positives + [False] * negatives, dtype=bool)
    queries = np.array([i % max(asked, 1) for i in range(positives)] + [0] * negatives, dtype=np.int64)
    with pytest.raises(InputError, match=message) as caught:
        check_enough(same, queries)
    assert "wants 10 of either and 2 queries" in str(caught.value)


@pytest.mark.parametrize("method", METHODS)
def test_the_least_that_is_enough(method):
    pytest.importorskip("sklearn")
    same, queries = np.tile([True, False], 10), np.repeat([0, 1], 10)
    crossed = cross_fit(np.arange(20.0), same, queries, method, folds=5, seed=0)
    assert len(crossed.maps) == 2


def test_without_scikit_learn_the_extra_is_named(monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn", None)
    monkeypatch.setitem(sys.modules, "sklearn.linear_model", None)
    with pytest.raises(MissingExtraError, match=r"imgrank\[calibrate\]"):
        fit([0.0, 1.0], [False, True], "logistic")
