"""ProfilingDiT: labels, maximal runs, the plan; the published lists."""

import pytest

from dcache.errors import DcacheError
from dcache.schedulers import planners as plans
from dcache.schedulers.planners.profilingdit import labelled, levels, sites
from tests.schedulers.planners.small_profiles import drifting, profile, rows

T = 12
R = {"block:0": 0.5, "block:1": 0.2, "block:2": 0.1, "block:3": 0.9, "block:4": 0.3, "block:5": 0.8}


@pytest.fixture(scope="module")
def seen():
    return profile({"trunk": drifting(T, 0)}, attention=R)


def test_background_are_the_blocks_that_prefer_the_foreground_least():
    assert labelled(R, share=0.5) == [1, 2, 4]
    assert labelled(R, share=0.01) == [2]
    assert labelled(R, share=1.0) == [0, 1, 2, 3, 4, 5]
    assert labelled(R, tau=0.5) == [1, 2, 4]
    assert labelled(R, tau=0.51) == [0, 1, 2, 4]
    assert labelled(R, tau=0.0) == []


def test_runs_are_maximal_and_lone_blocks_are_blocks():
    assert sites([1, 2, 4]) == ["run:1-2", "block:4"]
    # Wan's published background blocks.
    published = [0, *range(2, 8), *range(10, 21), *range(25, 33), 37, 38]
    assert sites(published) == ["block:0", "run:2-7", "run:10-20", "run:25-32", "run:37-38"]


def test_the_plan_predicts_background_runs_alike(seen):
    found = rows(plans.make("profilingdit", seen, share=0.5))
    assert found == {"run:1-2": [0, 6], "block:4": [0, 6]}
    made = plans.make("profilingdit", seen, tau=0.4, t_max=4, t_min=2, start=1)
    assert rows(made) == {"run:1-2": [0, 1, 5, 8, 10], "block:4": [0, 1, 5, 8, 10]}
    (plan,) = made.components.values()
    assert (plan.codec, plan.predictor) == ("delta", "reuse")


def test_levels_compute_less_and_less(seen):
    size = {"run:0-2": 3, "run:1-2": 2, "block:4": 1, "run:4-5": 2, "run:0-5": 6}
    counts = []
    for level in levels(seen):
        found = rows(plans.make("profilingdit", seen, **level))
        counts.append(sum(size[s] * len(c) for s, c in found.items()) + (6 - sum(size[s] for s in found)) * T)
    assert counts[0] == 6 * T
    assert counts[-1] == 6
    assert counts == sorted(counts, reverse=True)


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"t_max": 2, "t_min": 3}, "t_max must be a whole number of at least 3"),
        ({"t_min": 0}, "t_min must be"),
        ({"start": -1}, "start must be"),
        ({"share": 1.5}, "share must be a number of at most 1"),
        ({"share": -1}, "share must be"),
        ({"tau": -1.0}, "tau must be"),
        ({"tau": 0.05}, r"no block has R below tau=0\.05: the least is 0\.1"),
    ],
)
def test_bad_parameters_are_refused(seen, options, says):
    with pytest.raises(DcacheError, match=says):
        plans.make("profilingdit", seen, **options)


def test_statistics_of_something_else_are_refused():
    with pytest.raises(DcacheError, match=r"are of blocks .*got block:0, attn:1"):
        labelled({"block:0": 0.1, "attn:1": 0.2})


def test_without_attention_statistics_it_says_how_to_get_them():
    with pytest.raises(DcacheError, match="with_attention"):
        plans.make("profilingdit", profile({"trunk": drifting(T, 0)}))
