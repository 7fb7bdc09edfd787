"""Delta-DiT: the rows of its preset, the boundary against all others, importance before tables."""

from itertools import pairwise

import numpy as np
import pytest

from dcache import methods
from dcache.errors import DcacheError
from dcache.schedulers import planners as plans
from dcache.schedulers.planners.delta_dit import levels
from tests.rules import moment, site_of
from tests.schedulers.planners.small_profiles import drifting, profile, rows

T, DEPTH = 12, 8
BLOCKS = {f"block:{i}": drifting(T, i) for i in range(DEPTH)}


@pytest.fixture(scope="module")
def seen():
    return profile(BLOCKS)


def preset_rows(sites: list[str], **options: object) -> dict[str, list[int]]:
    """What the preset's rule does at each of the sites, as the session asks it."""
    rule = methods.delta_dit(**options).rule
    found = {}
    for site in sites:
        assert site_of(site, DEPTH).first <= site_of(site, DEPTH).last
        found[site] = []
        for t in range(T):
            run = t - found[site][-1] - 1 if found[site] else 0
            if rule(moment(t, T, run, site=site, depth=DEPTH)) is not None or not found[site]:
                found[site].append(t)
    return found


@pytest.mark.parametrize("boundary", [0, 3, 6, T])
@pytest.mark.parametrize(("interval", "warmup", "last"), [(2, 1, False), (3, 2, True), (5, 1, False)])
def test_with_its_boundary_the_plan_is_what_the_presets_rule_does(seen, boundary, interval, warmup, last):
    options = {"interval": interval, "boundary": boundary, "warmup": warmup, "last": last}
    found = rows(plans.make("delta_dit", seen, **options))
    assert list(found) == ["run:0-1", "run:2-5", "run:6-7"]
    assert found == preset_rows(list(found), **options)


def harm(found: dict[str, list[int]], moved: dict[str, np.ndarray]) -> float:
    """Sum over blocks and predicted evaluations of how far the block has moved since it was computed."""
    total = 0.0
    for site, computed in found.items():
        where = site_of(site, DEPTH)
        for depth in range(where.first, where.last + 1):
            z = moved[f"block:{depth}"]
            for t in range(T):
                total += np.abs(z[max(c for c in computed if c <= t)] - z[t]).mean()
    return total


@pytest.mark.parametrize("seed", range(6))
def test_the_boundary_is_the_best_of_all_by_the_tables(seed):
    moved = {f"block:{i}": drifting(T, 10 * seed + i) for i in range(DEPTH)}
    seen = profile(moved)
    best = rows(plans.make("delta_dit", seen, interval=3))
    every = [rows(plans.make("delta_dit", seen, interval=3, boundary=b)) for b in range(T + 1)]
    assert harm(best, moved) == pytest.approx(min(harm(one, moved) for one in every))


def test_a_front_that_matters_early_moves_the_boundary_there():
    # The rear is still until 6, the front from 6 on: rear predicted before, front after.
    still, moving = np.ones((T, 4)), np.arange(T)[:, None] * np.ones((1, 4))
    early = np.minimum(moving, 6.0)
    late = np.maximum(moving, 6.0)
    blocks = {f"block:{i}": early if i < 2 else late if i > 5 else still for i in range(DEPTH)}
    found = rows(plans.make("delta_dit", profile(blocks)))
    assert found["run:0-1"] == [0, 1, 2, 3, 4, 5, 6, 8, 10]
    assert found["run:2-5"] == [0, 2, 4, 6, 8, 10]
    assert found["run:6-7"] == [0, 2, 4, 6, 7, 8, 9, 10, 11]


def test_importance_of_the_runs_comes_before_the_tables():
    # The pictures say: front harmless from 4 on, rear harmless before. The tables alone say otherwise.
    importance = np.ones((2, T))
    importance[0, 4:] = 0.0
    importance[1, :4] = 0.0
    importance[:, 0] = np.nan
    looked = profile(BLOCKS, importance=importance, important=("run:0-5", "run:2-7"))
    found = rows(plans.make("delta_dit", looked))
    assert found != rows(plans.make("delta_dit", profile(BLOCKS)))
    # A stage that changes at 4: the rear part is computed from there on, the front part before.
    assert found["run:6-7"] == [0, 2, *range(4, T)]
    assert found["run:0-1"] == [0, 1, 2, 3, 4, 6, 8, 10]


def test_one_size_of_run_is_the_whole_trunk():
    found = rows(plans.make("delta_dit", profile(BLOCKS), blocks=DEPTH, interval=4))
    assert found == {"run:0-7": [0, 4, 8]}


def test_levels_compute_less_and_less(seen):
    settings = list(levels(seen))
    size = {"run:0-0": 1, "run:0-1": 2, "run:1-6": 6, "run:2-5": 4, "run:6-7": 2, "block:0": 1, "block:7": 1}
    counts = [
        sum(size[s] * len(c) for s, c in rows(plans.make("delta_dit", seen, **o)).items()) for o in settings
    ]
    assert counts[0] == T * DEPTH
    assert counts[-1] < T * DEPTH / 4
    # The share tells the order; 12 is no multiple of every interval.
    assert all(b <= a + DEPTH for a, b in pairwise(counts))


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"blocks": 9}, "blocks=9 is 9 blocks, and the profile has 8"),
        ({"blocks": 0.01}, "is 0 blocks"),
        ({"blocks": 0}, "blocks must be"),
        ({"interval": 0}, "interval must be"),
        ({"boundary": -1}, "boundary must be"),
        ({"boundary": 0.3}, "boundary must be"),
    ],
)
def test_bad_parameters_are_refused(seen, options, says):
    with pytest.raises(DcacheError, match=says):
        plans.make("delta_dit", seen, **options)


def test_a_profile_that_lacks_blocks_is_refused():
    for sites in (("trunk",), ("block:0", "block:2")):
        with pytest.raises(DcacheError, match="needs every block observed"):
            plans.make("delta_dit", profile({site: drifting(T, 0) for site in sites}))
