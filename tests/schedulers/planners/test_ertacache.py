"""ERTACache: what is reused and how far the sampler goes there, by hand."""

from dataclasses import replace

import numpy as np
import pytest

from dcache.errors import DcacheError
from dcache.profile import Profile
from dcache.schedulers import planners as plans
from dcache.schedulers.planners.ertacache import factors, levels
from tests.schedulers.planners.small_profiles import drifting, rows, tables

T = 6
LEVELS = (1.0, 0.9, 0.7, 0.5, 0.3, 0.1, 0.0)


def seen(residual: np.ndarray, output: np.ndarray, **more) -> Profile:
    frames = {"value": tables(output), "delta": tables(residual)}
    about = {"component": "transformer", "sigmas": LEVELS, **more}
    return Profile(len(residual), {"model": {"0": frames}}, **about)


# Residuals 10, 10.5, 11, 12, 12.5, 13 and outputs of size 5: relative to t, |10 - 10.5| / 10.5 = 0.048 and
# |10 - 11| / 11 = 0.091 are below 0.1, |10 - 12| / 12 = 0.167 is not; from 12 on 0.04 and 0.077 are.
RESIDUAL = np.array([[10.0], [10.5], [11.0], [12.0], [12.5], [13.0]])
OUTPUT = np.full((T, 1), 5.0)


def test_residuals_are_carried_on_while_they_are_near_enough():
    made = plans.make("ertacache", seen(RESIDUAL, OUTPUT), threshold=0.1)
    assert rows(made) == {"model": [0, 3]}
    (plan,) = made.components.values()
    assert (plan.codec, plan.predictor, made.method) == ("delta", "reuse", "ertacache")


def test_the_factor_is_one_less_the_error_over_the_output():
    found = factors(seen(RESIDUAL, OUTPUT), (0, 3))
    assert found == pytest.approx([1, 1 - 0.5 / 5, 1 - 1 / 5, 1, 1 - 0.5 / 5, 1 - 1 / 5])
    # Never nothing: two evaluations of one timestep would be one.
    assert factors(seen(RESIDUAL, OUTPUT / 100), (0,)) == pytest.approx([1, *[0.1] * 5])


def test_reused_steps_are_shorter_and_the_way_is_as_long():
    made = plans.make("ertacache", seen(RESIDUAL, OUTPUT), threshold=0.1)
    # 0.9 of 0.2 is 0.18, so 0.72 of 0.7 are left: times 0.8, and again.
    assert made.sigmas[:3] == pytest.approx([1, 0.9, 0.9 - 0.18])
    assert made.sigmas[3] == pytest.approx(0.72 - 0.8 * 0.2 * 0.72 / 0.7)
    assert made.sigmas[-1] == 0
    assert sum(-np.diff(made.sigmas)) == pytest.approx(1.0, abs=1e-12)
    assert plans.make("ertacache", seen(RESIDUAL, OUTPUT), threshold=0.1, timesteps=False).sigmas == ()


def test_a_constant_residual_is_reused_for_nothing():
    made = plans.make("ertacache", seen(np.full((T, 1), 3.0), drifting(T, 0)))
    assert rows(made) == {"model": [0]}
    assert made.sigmas == ()


def test_without_anything_reused_the_schedule_computes_everything_on_the_samplers_levels():
    made = plans.make("ertacache", seen(RESIDUAL, OUTPUT, sigmas=()), threshold=0.0)
    assert rows(made) == {"model": list(range(T))}
    assert made.sigmas == ()


def test_a_larger_threshold_makes_the_first_gap_no_shorter():
    for seed in range(20):
        profile = seen(drifting(12, seed), drifting(12, seed + 50), sigmas=())
        gaps = []
        for level in levels(profile):
            (row,) = rows(plans.make("ertacache", profile, timesteps=False, **level)).values()
            gaps.append([*row, 12][1])
        assert gaps == sorted(gaps)


def test_refusals():
    profile = seen(RESIDUAL, OUTPUT)
    with pytest.raises(DcacheError, match="are unknown: plan with timesteps=False"):
        plans.make("ertacache", replace(profile, sigmas=()), threshold=0.1)
    with pytest.raises(DcacheError, match="no 'delta' of site 'model'"):
        plans.make("ertacache", replace(profile, sites={"model": {"0": {"value": tables(OUTPUT)}}}))
    with pytest.raises(DcacheError, match="threshold"):
        plans.make("ertacache", profile, threshold=-1.0)
