"""A planner by name: the first level that is fast enough, the price of runs, and what cannot be."""

from dataclasses import replace
from importlib import import_module

import pytest

from dcache.errors import DcacheError
from dcache.profile import cost
from dcache.schedulers import planners as plans
from tests.schedulers.planners.small_profiles import drifting, profile, rows, timed

T, DEPTH = 10, 4
SITES = [f"{kind}:{i}" for i in range(DEPTH) for kind in ("block", "attn", "mlp")]
SECONDS = {"block": 0.25, "attn": 0.1, "mlp": 0.1, "trunk": 1.0}


@pytest.fixture(scope="module")
def seen():
    features = {site: drifting(T, i) for i, site in enumerate([*SITES, "trunk"])}
    latencies = timed({site: SECONDS[site.partition(":")[0]] for site in features})
    # The trunk holds the blocks, and these their sublayers: 10 s of it, 1 s beside.
    return profile(
        features,
        latencies=replace(latencies, uncached=11.0),
        attention={f"block:{i}": i / DEPTH for i in range(DEPTH)},
    )


@pytest.mark.parametrize("speedup", [1.0, 1.2, 1.35, 1.7])
@pytest.mark.parametrize("name", ["bac", "delta_dit", "profilingdit", "smoothcache"])
def test_it_is_the_first_level_that_is_fast_enough(seen, name, speedup):
    found = plans.for_speedup(seen, name, speedup)
    fast = [
        made
        for level in import_module(f"dcache.schedulers.planners.{name}").levels(seen)
        if cost.speedup(made := plans.make(name, seen, **level), seen.latencies) >= speedup
    ]
    assert cost.seconds(found, seen.latencies) == pytest.approx(cost.seconds(fast[0], seen.latencies))
    assert cost.speedup(found, seen.latencies) >= speedup


def test_a_run_that_was_not_timed_costs_what_its_blocks_do(seen):
    made = plans.make("delta_dit", seen, interval=5, blocks=3, boundary=T)
    assert rows(made) == {"block:0": list(range(T)), "run:1-2": [0, 5], "block:3": [0, 5]}
    # Eight evaluations without three blocks.
    assert cost.seconds(made, seen.latencies) == pytest.approx(11.0 - 8 * 0.75)
    counted = replace(seen.latencies, flops=dict(seen.latencies.computed))
    assert cost.flops(made, counted) == pytest.approx(1.0 - 8 * 3 / (T * 4))
    untimed = replace(seen.latencies, computed={"trunk": 1.0}, predicted={"trunk": 0.0})
    with pytest.raises(DcacheError, match="block:0 was not timed: only trunk"):
        cost.seconds(made, untimed)


def test_what_cannot_be_is_refused_with_the_fastest(seen):
    # 10 s of which 9 evaluations of 0.8 s can be saved.
    with pytest.raises(DcacheError, match=r"bac cannot reach a speedup of 9 here: expected at most 2\.89"):
        plans.for_speedup(seen, "bac", 9.0)
    with pytest.raises(DcacheError, match="needs measured latencies"):
        plans.for_speedup(replace(seen, latencies=None), "bac", 2.0)
    with pytest.raises(DcacheError, match=r"planner 'magic' is unknown: expected one of bac, .*teacache"):
        plans.make("magic", seen)
    with pytest.raises(DcacheError, match="planner bac takes no computations: it takes computes, metric"):
        plans.make("bac", seen, computations=3)
