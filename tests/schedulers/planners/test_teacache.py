"""TeaCache: a planted polynomial, a poor fit said aloud, and the run that the mean changes make."""

import numpy as np
import pytest

from dcache import methods
from dcache.errors import DcacheError, DcacheWarning
from dcache.schedulers import planners as plans
from dcache.schedulers.planners.teacache import coefficients, levels
from tests.rules import computed_steps
from tests.schedulers.planners.small_profiles import drifting, profile, rows

T = 11
PLANTED = (2.0, -1.0, 0.5, 0.8, 0.05)


def seen(pairs: np.ndarray | None, steps: int = T):
    return profile({"trunk": drifting(steps, 0)}, input_output_changes=pairs)


@pytest.fixture(scope="module")
def pairs() -> np.ndarray:
    """Three pictures with changes of their own, on the planted curve."""
    x = np.random.default_rng(0).random(3 * (T - 1)) * 0.8 + 0.05
    return np.stack([x, np.polyval(PLANTED, x)], axis=1)


def test_a_planted_polynomial_is_found(pairs):
    found, quality = coefficients(seen(pairs))
    assert found == pytest.approx(PLANTED, abs=1e-9)
    assert quality == pytest.approx(1.0)


def test_the_quality_is_the_share_of_the_variance_that_is_explained(pairs):
    noisy = pairs + np.random.default_rng(1).normal(size=pairs.shape) * [0.0, 0.05]
    found, quality = coefficients(seen(noisy))
    left = noisy[:, 1] - np.polyval(found, noisy[:, 0])
    assert quality == pytest.approx(1.0 - left.var() / noisy[:, 1].var())
    assert 0.9 < quality < 1.0


def test_a_poor_fit_warns_with_its_quality(pairs):
    unrelated = np.stack([pairs[:, 0], np.random.default_rng(2).random(len(pairs))], axis=1)
    with pytest.warns(DcacheWarning, match=r"explains \d+% .*R\^2, 30 points.*poor"):
        _, quality = coefficients(seen(unrelated))
    assert quality < 0.8


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize(("threshold", "warmup"), [(0.5, 1), (1.0, 3), (2.5, 1), (0.0, 1), (1e9, 1)])
def test_the_plan_is_the_presets_run_on_the_mean_changes(pairs, threshold, warmup, last):
    profile = seen(pairs)
    found, _ = coefficients(profile)
    method = methods.teacache(threshold, found, warmup=warmup, last=last)
    # Of the three pictures, evaluation by evaluation.
    means = [(pairs[i, 0] + pairs[T - 1 + i, 0] + pairs[2 * (T - 1) + i, 0]) / 3 for i in range(T - 1)]
    plan = plans.make("teacache", profile, threshold=threshold, warmup=warmup, last=last)
    assert rows(plan) == {"trunk": computed_steps(method, T, [np.inf, *means])}


def test_levels_go_from_everything_to_the_first_evaluation(pairs):
    profile = seen(pairs)
    counts = [len(rows(plans.make("teacache", profile, **o))["trunk"]) for o in levels(profile)]
    assert counts[0] == T
    assert counts[-1] == 1


@pytest.mark.parametrize("count", [T - 2, T, 2 * (T - 1) + 1])
def test_changes_of_a_part_of_a_run_are_refused(pairs, count):
    with pytest.raises(DcacheError, match=f"teacache plans from 10 changes for each .* has {count}"):
        plans.make("teacache", seen(pairs[:count]))


def test_too_few_different_changes_are_refused(pairs):
    few = np.tile(pairs[:2], (T // 2, 1))[: T - 1]
    with pytest.raises(DcacheError, match="more than 4 different ones"):
        plans.make("teacache", seen(few))


def test_without_changes_it_says_what_is_missing():
    with pytest.raises(DcacheError, match=r"teacache plans from changes .*if the model has a trunk"):
        plans.make("teacache", seen(None))
