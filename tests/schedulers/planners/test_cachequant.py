"""CacheQuant: the best partition within the published bounds, by trying all."""

import itertools

import numpy as np
import pytest

from dcache.errors import DcacheError
from dcache.schedulers import planners as plans
from dcache.schedulers.planners.cachequant import levels
from tests.schedulers.planners.small_profiles import drifting, profile, rows

T = 10


def cost(z: np.ndarray, anchors: tuple[int, ...]) -> float:
    return sum(np.abs(z[max(a for a in anchors if a <= t)] - z[t]).mean() for t in range(len(z)))


def groups(anchors: tuple[int, ...], steps: int) -> list[int]:
    return [b - a for a, b in itertools.pairwise((*anchors, steps))]


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("interval", [1, 2, 3, 4, 5, 9, 10])
def test_the_groups_are_the_best_of_all_within_the_bounds(interval, seed):
    z = drifting(T, seed)
    (found,) = rows(plans.make("cachequant", profile({"trunk": z}), interval=interval)).values()
    K = -(-T // interval)
    every = [(0, *rest) for rest in itertools.combinations(range(1, T), K - 1)]
    low, high = -(-interval // 2), 2 * interval
    allowed = [a for a in every if all(low <= n <= high for n in groups(a, T))]
    assert tuple(found) in allowed
    assert cost(z, tuple(found)) == pytest.approx(min(cost(z, a) for a in allowed))


def test_bounds_keep_groups_from_what_they_would_otherwise_be():
    # One jump at 1: without bounds the second group would begin there.
    z = np.zeros((8, 4))
    z[1:] = 5.0
    (found,) = rows(plans.make("cachequant", profile({"trunk": z}), interval=4)).values()
    assert found == [0, 2]
    # Still for five evaluations, then never: without bounds the first group would have five, not four.
    z = np.zeros((8, 4))
    z[5:] = np.array([[1.0], [2.0], [3.0]])
    (found,) = rows(plans.make("cachequant", profile({"trunk": z}), interval=2)).values()
    assert groups(tuple(found), 8)[0] <= 4
    assert cost(z, tuple(found)) > cost(z, (0, 5, 6, 7)) == 0


def test_where_it_plans_and_what():
    made = plans.make("cachequant", profile({"bracket:0": drifting(T, 0), "attn:0": drifting(T, 1)}))
    assert list(rows(made)) == ["bracket:0"]
    (plan,) = made.components.values()
    assert (plan.codec, plan.predictor, plan.corrections, made.method) == (
        "value",
        "reuse",
        None,
        "cachequant",
    )


def test_levels_lead_from_everything_to_one_compute():
    seen = profile({"trunk": drifting(13, 3)})
    counts = [len(rows(plans.make("cachequant", seen, **level))["trunk"]) for level in levels(seen)]
    assert counts == list(range(13, 0, -1))


def test_refusals():
    with pytest.raises(DcacheError, match="neither trunk, bracket:0 nor model"):
        plans.make("cachequant", profile({"mlp:0": drifting(T, 0)}))
    for wrong in ({"interval": 0}, {"interval": 2.5}, {"computes": 0}):
        with pytest.raises(DcacheError, match="at least 1"):
            plans.make("cachequant", profile({"trunk": drifting(T, 0)}), **wrong)
