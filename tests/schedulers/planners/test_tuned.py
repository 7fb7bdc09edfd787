"""Plans from one observed call: guided errors in closed form, places by brute force, k from operations."""

import itertools

import numpy as np
import pytest

from dcache.errors import DcacheError
from dcache.schedulers.planners import make
from dcache.schedulers.planners.gram import line_slopes
from dcache.schedulers.planners.tuned import (
    ObservedCall,
    computes_for,
    errors_and_terms,
    gram_of,
    guided_errors,
    halves_of,
    planned,
    speedup_of,
    step_weights,
)
from tests.schedulers.planners.test_pairs import profile

T, N = 9, 40


def curves(seed: int) -> np.ndarray:
    """(T, N), smooth in t."""
    rng = np.random.default_rng(seed)
    t = np.linspace(0, 1, T)[:, None]
    return sum(rng.standard_normal((1, N)) * np.sin(3 * k * t + k) for k in range(4))


def observed(guided: str = "", seed: int = 0) -> ObservedCall:
    """Of a run alone, with "halves" in one batch, or with two "calls"."""
    u, c = curves(seed), curves(seed) + 0.3 * curves(seed + 1)
    effects = np.random.default_rng(seed + 2).uniform(0.5, 2.0, T)
    gram = (gram_of(u) + gram_of(c)) / 2
    halves = halves_of(u, c) if guided == "halves" else None
    return ObservedCall(gram, None, np.linspace(-3, 4, T) ** 3, effects, halves, bool(guided), 3.0)


def test_guided_errors_are_those_of_the_combination_itself():
    u, c, scale = curves(3), curves(4), 3.5
    line = line_slopes(range(T))
    errors = guided_errors(halves_of(u, c), scale, line, 0.25 * line)
    for a, b, t in [(0, 0, 3), (0, 2, 5), (3, 4, 8)]:
        slope = 0.0 if a == b else (t - b) / (b - a)
        mean, difference = (u + c) / 2, c - u
        m = mean[b] + slope * (mean[b] - mean[a])
        d = difference[b] + 0.25 * slope * (difference[b] - difference[a])
        guided = (m - d / 2) + scale * d
        expected = ((guided - (u[t] + scale * (c[t] - u[t]))) ** 2).mean()
        assert errors[a, b, t] == pytest.approx(expected)


@pytest.mark.parametrize(("guided", "forced"), [("", False), ("halves", True), ("calls", True)])
@pytest.mark.parametrize("computes", [2, 3, 5])
def test_places_are_the_best_of_all_with_evaluation_1_under_guidance(guided, forced, computes):
    seen = observed(guided, seed=7)
    error, _ = errors_and_terms(seen, computes)
    weights = step_weights(seen)
    forced = forced or computes >= 0.35 * T

    def total(anchors: tuple[int, ...]) -> float:
        sum_of = 0.0
        for t in set(range(T)) - set(anchors):
            before = [a for a in anchors if a < t][-2:]
            sum_of += weights[t] * error[before[0], before[-1], t]
        return sum_of

    every = [(0, *rest) for rest in itertools.combinations(range(1, T), computes - 1)]
    allowed = [anchors for anchors in every if 1 in anchors or not forced]
    assert planned(seen, computes)[0] == min(allowed, key=total)


@pytest.mark.parametrize(
    ("guided", "computes", "predictor", "parameters"),
    [
        ("", 3, "newton", {"order": 1}),
        ("halves", 2, "guided_line", {"difference": 0.0}),
        ("halves", 4, "guided_line", {"difference": 0.25}),
        ("calls", 2, "reuse", None),
    ],
)
def test_the_predictor_follows_from_guidance_and_share(guided, computes, predictor, parameters):
    _, terms = planned(observed(guided), computes)
    assert (terms["predictor"], terms.get("parameters")) == (predictor, parameters)


def test_branches_of_separate_calls_follow_half_of_the_line():
    anchors, terms = planned(observed("calls"), 3)
    assert terms["predictor"] == "fitted"
    assert anchors[:2] == (0, 1)
    last = anchors[2]
    expected = {
        2: {1: 1.0 + 0.5 * 1.0, 0: -0.5},
        last + 1: {last: 1.0 + 0.5 / (last - 1), 1: -0.5 / (last - 1)},
    }
    rows = {
        int(t): {int(a): w for a, w in row.items()} for t, row in terms["parameters"]["weights"]["*"].items()
    }
    for t, row in expected.items():
        assert t not in rows or rows[t] == pytest.approx(row)
    assert set(rows) == set(range(T)) - set(anchors)
    # Its predicted error is that of these weights.
    gram, errors = observed("calls").gram, errors_and_terms(observed("calls"), 3)[0]
    for t, row in rows.items():
        places, w = [*row, t], np.array([*row.values(), -1.0])
        before = [a for a in anchors if a < t][-2:]
        assert errors[before[0], before[-1], t] == pytest.approx(w @ gram[np.ix_(places, places)] @ w)


@pytest.mark.parametrize("guided", ["", "calls"])
def test_many_computes_have_fitted_weights_of_their_anchors(guided):
    anchors, terms = planned(observed(guided), 5)
    assert terms["predictor"] == "fitted"
    rows = terms["parameters"]["weights"]["*"]
    assert set(map(int, rows)) == set(range(T)) - set(anchors)
    for t, row in rows.items():
        assert [int(a) for a in row] == [a for a in anchors if a < int(t)][-2:]
        assert sum(row.values()) == pytest.approx(1.0)


def test_features_on_a_line_in_the_clock_are_predicted_without_error():
    taus = np.array([0.0, 1.0, 3.0, 4.0, 7.0, 8.0, 12.0, 13.0, 20.0])
    z = np.outer(taus, np.ones(N)) + np.arange(N)
    seen = ObservedCall(gram_of(z), None, taus, np.ones(T))
    error, terms = errors_and_terms(seen, 2)
    assert terms["clock"] is None
    assert error[0, 2, 8] == pytest.approx(0.0, abs=1e-9)


@pytest.mark.parametrize(
    ("speedup", "share", "computes"),
    # 20 evaluations: 1 - 0.9 (1 - k / 20) <= 1 / speedup.
    [(2.0, 1.0, 10), (2.0, 0.9, 8), (3.0, 0.9, 5), (20.0, 1.0, 1), (50.0, 0.9, 1), (1.001, 0.9, 19)],
)
def test_computes_from_operations(speedup, share, computes):
    assert computes_for(speedup, 20, share) == computes
    if speedup < 1 / (1 - 0.95 * share):
        assert speedup_of(computes, 20, share) >= speedup
        assert speedup_of(computes + 1, 20, share) < speedup


def test_a_profile_is_planned_without_halves():
    schedule = make("tuned", profile(3), computes=4)
    (plan,) = schedule.components.values()
    assert sum(plan.rows["*"]["trunk"]) == 4
    assert plan.predictor == "fitted"
    guided = make("tuned", profile(3, guidance=4.0), computes=3)
    (plan,) = guided.components.values()
    assert plan.parameters["weights"]["*"]["2"] == {"1": 1.5, "0": -0.5}
    assert plan.rows["*"]["trunk"][1]


def test_more_computes_than_evaluations_are_refused():
    with pytest.raises(DcacheError, match="10 computes do not fit 9 evaluations"):
        planned(observed(), 10)
