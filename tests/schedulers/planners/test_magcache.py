"""MagCache's plan is the run of its preset, by hand, by its rule and on a pipeline."""

import numpy as np
import pytest

import dcache
from dcache import methods
from dcache.errors import DcacheError
from dcache.schedulers import planners as plans
from dcache.schedulers.planners.magcache import levels
from tests.pipelines import SHAPES, STEPS
from tests.rules import computed_steps
from tests.schedulers.planners.small_profiles import drifting, profile, rows

T = 12
RATIOS = np.array([1.0, 0.9, 0.95, 1.02, 0.99, 0.8, 0.97, 1.1, 1.0, 1.0, 0.93, 0.7])


def planned(ratios: np.ndarray, **options: object) -> list[int]:
    seen = profile({"trunk": drifting(len(ratios), 0)}, ratios=ratios)
    return rows(plans.make("magcache", seen, **options))["trunk"]


def test_a_run_by_hand():
    # After 0 the products are .9 and .9 * .8: errors .1, .1 + .28; after 2 they are 1 and 1.2: 0, then .2.
    ratios = np.array([1.0, 0.9, 0.8, 1.0, 1.2, 0.5])
    assert planned(ratios, threshold=0.21, retention=0.0) == [0, 2, 5]
    assert planned(ratios, threshold=0.39, retention=0.0) == [0, 3, 5]
    assert planned(ratios, threshold=0.21, retention=0.0, max_run=1) == [0, 2, 4, 5]
    assert planned(ratios, threshold=0.21, retention=0.5) == [0, 1, 2, 5]


@pytest.mark.parametrize("last", [False, True])
@pytest.mark.parametrize("retention", [0.0, 0.1, 0.3])
@pytest.mark.parametrize(("threshold", "max_run"), [(0.05, 2), (0.24, 5), (0.6, 12), (0.0, 3), (9.0, 1)])
def test_the_plan_is_what_the_presets_rule_does(threshold, max_run, retention, last):
    options = {"threshold": threshold, "max_run": max_run, "retention": retention, "last": last}
    method = methods.magcache(ratios=[float(r) for r in RATIOS], **options)
    assert planned(RATIOS, **options) == computed_steps(method, T)


def test_the_plan_is_the_trace_of_the_run_and_makes_the_same_picture():
    shape = SHAPES["pixart"]
    ratios = RATIOS[:STEPS]
    seen = profile({"trunk": drifting(STEPS, 0)}, ratios=ratios, model="PixArtTransformer2DModel")
    pipe = shape.build()
    dcache.enable(pipe, methods.magcache(threshold=0.2, ratios=[float(r) for r in ratios]))
    online = shape.run(pipe)
    plan = plans.make("magcache", seen, threshold=0.2)
    assert rows(dcache.trace(pipe)) == rows(plan)
    assert 1 < len(rows(plan)["trunk"]) < STEPS
    dcache.disable(pipe)
    dcache.enable(pipe, plan)
    assert bool((shape.run(pipe) == online).all())


def test_levels_go_from_everything_to_the_first_evaluation():
    seen = profile({"trunk": drifting(T, 0)}, ratios=RATIOS)
    counts = [len(rows(plans.make("magcache", seen, **o))["trunk"]) for o in levels(seen)]
    assert counts[0] == T
    assert counts[-1] == 1


def test_without_ratios_it_says_what_is_missing():
    with pytest.raises(DcacheError, match=r"magcache plans from the ratios .*this profile has attn:0"):
        plans.make("magcache", profile({"attn:0": drifting(4, 0)}))
    with pytest.raises(DcacheError, match="max_run must be"):
        planned(RATIOS, max_run=0)
