"""Places by pairs of anchors: equal to brute force, on planted profiles."""

import itertools
from dataclasses import replace

import numpy as np
import pytest

from dcache.errors import DcacheError
from dcache.identity.run import Run
from dcache.methods.replay import replay
from dcache.profile import FeatureTables, Latencies, Profile
from dcache.schedulers.planners import for_speedup, make
from dcache.schedulers.planners.gram import line_slopes, pair_errors, slope_errors
from dcache.schedulers.planners.pairs import clock_values, errors, step_weights

T, N = 9, 30


def tables(z: np.ndarray) -> FeatureTables:
    """Of features (T, N)."""
    apart = np.abs(z[:, None] - z[None, :]).mean(axis=2)
    return FeatureTables(z @ z.T / z.shape[1], apart, np.abs(z).mean(axis=1))


def curve(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    t = np.linspace(0, 1, T)[:, None]
    return sum(rng.standard_normal((1, N)) * np.sin(3 * k * t + k) for k in range(4))


def profile(seed: int = 0, **changed) -> Profile:
    site = {"0": {"delta": tables(curve(seed)), "value": tables(curve(seed + 1))}}
    timed = Latencies(uncached=1.0, computed={"trunk": 0.1}, predicted={"trunk": 0.01})
    return replace(Profile(T, {"trunk": site}, latencies=timed, component="transformer"), **changed)


def total(error: np.ndarray, weights: np.ndarray, anchors: tuple[int, ...]) -> float:
    found = 0.0
    for t in range(T):
        before = [a for a in anchors if a < t][-2:]
        if t not in anchors:
            found += weights[t] * error[before[0], before[-1], t]
    return found


def computed(schedule) -> tuple[int, ...]:
    (plan,) = schedule.components.values()
    return tuple(t for t, c in enumerate(plan.rows["*"]["trunk"]) if c)


@pytest.mark.parametrize("computes", [1, 2, 4, 6, 9])
@pytest.mark.parametrize("predictor", ["fitted", "newton", "taylor", "reuse"])
def test_the_places_are_the_best_of_all(computes: int, predictor: str) -> None:
    seen = profile(3)
    error, weights = errors(seen, "trunk", predictor), step_weights(seen, "trunk")
    found = computed(make("pairs", seen, computes=computes, predictor=predictor))
    every = [(0, *rest) for rest in itertools.combinations(range(1, T), computes - 1)]
    best = min(every, key=lambda anchors: total(error, weights, anchors))
    assert len(found) == computes
    assert total(error, weights, found) == pytest.approx(total(error, weights, best))


def test_what_is_forced_is_computed() -> None:
    seen = profile(3)
    error, weights = errors(seen, "trunk", "fitted"), step_weights(seen, "trunk")
    found = computed(make("pairs", seen, computes=4, forced=(1, 8)))
    every = [(0, 1, 8, x) for x in range(2, 8)]
    best = min((tuple(sorted(one)) for one in every), key=lambda anchors: total(error, weights, anchors))
    assert found == best


def test_the_weights_in_the_schedule_are_those_that_were_planned_with() -> None:
    seen = profile(5)
    schedule = make("pairs", seen, computes=4)
    (plan,) = schedule.components.values()
    assert (plan.predictor, plan.clock, plan.codec) == ("fitted", "step", None)
    error = pair_errors(seen.tables("trunk").gram)
    z = curve(5)
    for t, row in plan.parameters["weights"]["*"].items():
        anchors = [int(a) for a in row]
        made = sum(w * z[int(a)] for a, w in row.items())
        assert ((made - z[int(t)]) ** 2).mean() == pytest.approx(error[anchors[0], anchors[-1], int(t)])
    assert replay(schedule).predicts


@pytest.mark.parametrize(
    ("flow", "sigmas"), [(True, np.linspace(1, 0, T + 1)), (False, np.geomspace(80, 0.1, T))]
)
def test_newton_runs_on_the_clock_of_the_run(flow: bool, sigmas: np.ndarray) -> None:
    seen = profile(1, sigmas=tuple(map(float, sigmas)))
    run = Run(sigmas=list(sigmas), flow=flow)
    expected = []
    for run.index in range(T):
        expected.append(run.clock("logsnr"))
    name, values = clock_values(seen)
    assert name == "logsnr"
    np.testing.assert_allclose(values, expected)
    (plan,) = make("pairs", seen, predictor="newton").components.values()
    assert (plan.predictor, plan.parameters, plan.clock) == ("newton", {"order": 1}, "logsnr")
    assert clock_values(profile(1))[0] == "step"
    (plan,) = make("pairs", seen, predictor="taylor").components.values()
    assert (plan.predictor, plan.parameters, plan.clock) == ("taylor", {"order": 1}, "step")
    steps = np.arange(T, dtype=np.float64)
    expected = slope_errors(seen.tables("trunk").gram, line_slopes(steps))
    np.testing.assert_array_equal(errors(seen, "trunk", "taylor"), expected)


def test_importance_counts_for_each_unit_of_the_error_that_was_seen() -> None:
    seen = profile(2)
    squared = seen.tables("trunk").squared
    truth = np.linspace(5, 1, T)
    row = np.array([np.nan, *(truth[t] * squared[t - 1, t] for t in range(1, T))])
    row[4] = np.nan
    observed = replace(seen, importance=row[None], important=("trunk",))
    found = step_weights(observed, "trunk")
    np.testing.assert_allclose(np.delete(found, [0, 4]), np.delete(truth, [0, 4]))
    assert found[4] == pytest.approx(np.sqrt(truth[3] * truth[5]))
    np.testing.assert_allclose(step_weights(observed, "trunk", "none"), 1.0)
    relative = 1 / np.diag(seen.tables("trunk").gram)
    np.testing.assert_allclose(step_weights(observed, "trunk", "power"), relative)
    np.testing.assert_allclose(step_weights(seen, "trunk"), relative)
    # An evaluation that alone decides is computed.
    alone = np.full(T, 1e-6)
    alone[5] = 1e6
    decisive = replace(seen, importance=(alone * squared.mean())[None], important=("trunk",))
    assert 5 in computed(make("pairs", decisive, computes=2, importance="auto"))


def test_another_site_counts_as_the_whole_does_for_the_same_relative_error() -> None:
    seen = profile(2)
    sites = {**seen.sites, "attn:0": {"0": {"value": tables(curve(7))}}}
    squared = seen.tables("trunk").squared
    row = np.append(0.0, np.diag(squared, 1))
    observed = replace(seen, sites=sites, importance=row[None], important=("trunk",))
    power = [np.diag(observed.tables(site).gram) for site in ("trunk", "attn:0")]
    np.testing.assert_allclose(step_weights(observed, "attn:0"), power[0] / power[1])
    with pytest.raises(DcacheError, match="no observed importance of 'attn:0': it has that of trunk"):
        step_weights(observed, "attn:0", "observed")
    silent = replace(observed, importance=np.full((1, T), np.nan))
    with pytest.raises(DcacheError, match="has no finite entry above 0"):
        step_weights(silent, "trunk")


@pytest.mark.parametrize("speedup", [1.3, 2.0, 3.5])
def test_a_speedup_is_met_with_as_many_computes_as_there_is_time_for(speedup: float) -> None:
    found = computed(for_speedup(profile(4), "pairs", speedup))
    fitting = [k for k in range(1, T + 1) if 1.0 / (1.0 - (T - k) * 0.09) >= speedup]
    assert len(found) == max(fitting)


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ({"computes": 0}, "computes"),
        ({"computes": 10}, "do not fit 9 evaluations"),
        ({"computes": 2, "forced": (9,)}, "do not fit 9 evaluations"),
        ({"computes": 2, "forced": (3, 5)}, "no plan computes 2 times"),
        ({"predictor": "magic"}, "predictor must be one of fitted, newton, taylor, reuse, got 'magic'"),
        ({"importance": "x"}, "importance must be one of auto, observed, power, none"),
        ({"importance": "observed"}, "no observed importance of 'trunk': it has that of nothing"),
        ({"site": "mlp:0"}, "no site 'mlp:0'"),
    ],
)
def test_what_cannot_be_planned_is_refused(options: dict, expected: str) -> None:
    with pytest.raises(DcacheError, match=expected):
        make("pairs", profile(), **options)
