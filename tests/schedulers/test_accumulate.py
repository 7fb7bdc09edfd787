"""Rules that add up: TeaCache's and EasyCache's sum, MagCache's product, against hand-made numbers."""

import math

import numpy as np
import pytest

from dcache.errors import DcacheError
from dcache.methods import easycache, magcache, teacache
from dcache.methods.teacache import PUBLISHED
from dcache.schedulers import Accumulated, MagCacheRule, MaxRun, Retention, any_of
from dcache.schedulers.accumulate import horner, nearest
from tests.rules import computed_steps, moment


@pytest.mark.parametrize(
    ("coefficients", "x", "value"),
    [((), 3.0, 0.0), ((5.0,), 3.0, 5.0), ((2.0, 1.0), 3.0, 7.0), ((1.0, -4.0, 0.0, 2.0), 3.0, -7.0)],
)
def test_horner_takes_the_highest_power_first(coefficients, x, value):
    assert horner(coefficients, x) == value


@pytest.mark.parametrize("model", PUBLISHED)
def test_horner_is_numpys_polynomial(model):
    for x in (0.0, 0.01, 0.1, 0.5):
        assert horner(PUBLISHED[model], x) == pytest.approx(np.polyval(PUBLISHED[model], x))


@pytest.mark.parametrize(
    ("threshold", "full"),
    [
        # FLUX's polynomial at 0 is 0.2642: n evaluations without any change add up to n times that.
        (0.25, list(range(12))),
        (0.4, [0, 2, 4, 6, 8, 10]),
        (0.6, [0, 3, 6, 9]),
        (0.8, [0, 4, 8]),
    ],
)
def test_a_constant_probe_is_recomputed_by_the_polynomials_constant(threshold, full):
    assert computed_steps(Accumulated(threshold, PUBLISHED["flux"]), 12, [0.0] * 12) == full
    with_guards = teacache(threshold, "flux")
    assert computed_steps(with_guards, 12, [math.inf] + [0.0] * 11) == sorted({*full, 11})


def test_the_sum_starts_afresh_at_every_computed_evaluation():
    # Sums 1 2 | 3 -> 0, 2 | 4 -> 0, 1 2.
    changes = [9.0, 1.0, 1.0, 1.0, 2.0, 2.0, 1.0, 1.0]
    assert computed_steps(Accumulated(3.0), 8, changes) == [0, 3, 5]
    rule, memory = Accumulated(3.0), {}
    assert rule(moment(1, run_length=0, change=1.0, memory=memory)) is None
    assert rule(moment(2, run_length=1, change=1.5, memory=memory)) is None
    assert memory == {"sum": 2.5}
    # Another guard computed in between: what was added up before does not count.
    assert rule(moment(4, run_length=0, change=2.75, memory=memory)) is None
    assert memory == {"sum": 2.75}


def test_the_threshold_itself_is_computed():
    assert Accumulated(1.0)(moment(change=1.0)) == "threshold"
    assert Accumulated(1.0)(moment(change=math.nextafter(1.0, 0.0))) is None
    assert Accumulated(0.0)(moment(change=0.0)) == "threshold"


def test_a_polynomial_may_take_off_the_sum():
    # x -> x - 1: a change of 0 counts -1, so the sum only reaches 1 two evaluations later than without.
    assert computed_steps(Accumulated(1.0, (1.0, -1.0)), 6, [0.0, 0.0, 1.5, 2.5, 0.0, 0.0]) == [0, 3]


@pytest.mark.parametrize(("change", "reason"), [(math.nan, "nan"), (math.inf, "threshold")])
def test_a_change_that_cannot_be_added_computes_and_leaves_no_trace(change, reason):
    memory = {"sum": 0.5}
    assert Accumulated(10.0, (-1.0, 0.0))(moment(run_length=1, change=change, memory=memory)) == reason
    assert memory == {"sum": 0.5}


def test_easycaches_sum_is_the_plain_one():
    method = easycache(threshold=0.05, warmup=2, last=False)
    changes = [math.inf, math.inf, 0.02, 0.02, 0.02, 0.06, 0.01]
    assert computed_steps(method, 7, changes) == [0, 1, 4, 5]
    assert computed_steps(easycache(threshold=0.05, warmup=2), 7, changes) == [0, 1, 4, 5, 6]


def published_magcache(ratios, threshold, longest, retention, steps):
    """The reference code's loop: norm ratio, error and count live on the model and are reset on computing."""
    full, product, error, count = [], 1.0, 0.0, 0
    for i in range(steps):
        if i >= max(1, int(retention * steps)):
            product *= ratios[i]
            error += abs(1 - product)
            count += 1
            if error <= threshold and count <= longest:
                continue
        full.append(i)
        product, error, count = 1.0, 0.0, 0
    return full


def test_magcache_by_hand():
    # Products 0.9, 0.81, 0.729; errors 0.1, 0.29, 0.561.
    ratios = (1.0, *[0.9] * 9)
    assert computed_steps(MagCacheRule(0.24, ratios), 10) == [0, 2, 4, 6, 8]
    assert computed_steps(MagCacheRule(0.3, ratios), 10) == [0, 3, 6, 9]
    assert computed_steps(MagCacheRule(0.57, ratios), 10) == [0, 4, 8]
    # A magnitude that comes back cancels in the product, not in the error.
    assert computed_steps(MagCacheRule(0.5, (1.0, 0.5, 2.0, 1.0, 1.0, 1.0)), 6) == [0]
    assert computed_steps(MagCacheRule(0.49, (1.0, 0.5, 2.0, 1.0, 1.0, 1.0)), 6) == [0, 1, 2]


@pytest.mark.parametrize("seed", range(10))
def test_magcaches_rule_is_the_published_loop_and_a_table_known_beforehand(seed):
    random = np.random.default_rng(seed)
    steps = int(random.integers(10, 60))
    ratios = tuple((1 + random.normal(size=steps) * 0.05).tolist())
    threshold, longest = float(random.uniform(0.02, 0.4)), int(random.integers(1, 7))
    retention = float(random.choice([0.0, 0.1, 0.2, 0.5]))
    expected = published_magcache(ratios, threshold, longest, retention, steps)
    assert computed_steps(magcache(threshold, ratios, longest, retention), steps) == expected
    rule = any_of(Retention(retention), MaxRun(longest), MagCacheRule(threshold, ratios))
    # Nothing is looked at: whatever the change would be, the plan is the same.
    assert computed_steps(rule, steps, random.uniform(size=steps).tolist()) == expected


def test_ratios_of_another_number_of_evaluations_are_taken_from_the_nearest():
    table = (10.0, 20.0, 30.0, 40.0, 50.0)
    assert [nearest(table, i, 5) for i in range(5)] == list(table)
    assert [nearest(table, i, 3) for i in range(3)] == [10.0, 30.0, 50.0]
    assert [nearest(table, i, 9) for i in (0, 2, 4, 6, 8)] == list(table)
    for count in range(2, 30):
        found = [nearest(table, i, count) for i in range(count)]
        assert (found[0], found[-1]) == (10.0, 50.0)
        assert found == sorted(found)
    assert nearest(table, 0, 1) == 10.0


def test_ratios_need_the_number_of_evaluations():
    # Ratios of 1 are predicted in a run of known length.
    assert MagCacheRule(0.1, (1.0, 1.0))(moment(1, 2)) is None
    assert MagCacheRule(0.1, (1.0, 1.0))(moment(1, None)) == "length"


@pytest.mark.parametrize("wrong", [-0.1, math.nan, "0.1", None, True])
def test_bad_thresholds_are_refused(wrong):
    for make in (Accumulated, lambda t: MagCacheRule(t, (1.0, 1.0))):
        with pytest.raises(DcacheError, match="threshold"):
            make(wrong)
