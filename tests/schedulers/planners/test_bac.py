"""BAC: every row is the best of all, in the right direction; the union as by hand; what it needs."""

import itertools

import numpy as np
import pytest

from dcache.errors import DcacheError
from dcache.schedulers import planners as plans
from dcache.schedulers.planners.bac import FORMS, METRICS, levels
from tests.schedulers.planners.small_profiles import drifting, profile, rows

T = 9
SITES = ("attn:0", "cross_attn:0", "mlp:0", "mlp:1")


@pytest.fixture(scope="module")
def seen():
    return profile({site: drifting(T, i) for i, site in enumerate(SITES)})


def distances(z: np.ndarray, metric: str) -> np.ndarray:
    """From the features themselves, not from tables."""
    difference = z[:, None] - z[None, :]
    if metric == "l1":
        return np.abs(difference).mean(axis=2)
    if metric == "l2":
        return np.sqrt((difference**2).mean(axis=2))
    unit = z / np.linalg.norm(z, axis=1, keepdims=True)
    return 1.0 - unit @ unit.T


def cost(distance: np.ndarray, anchors: tuple[int, ...], form: str) -> float:
    if form == "adjacent":
        return sum(distance[t - 1, t] for t in range(T) if t not in anchors)
    return sum(distance[max(a for a in anchors if a <= t), t] for t in range(T))


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("metric", METRICS)
@pytest.mark.parametrize("computes", [1, 3, 6, T])
def test_every_row_is_the_best_of_all(seen, metric, computes, form):
    found = rows(plans.make("bac", seen, computes=computes, metric=metric, form=form))
    assert tuple(found) == SITES
    for i, site in enumerate(SITES):
        distance = distances(drifting(T, i), metric)
        every = [(0, *rest) for rest in itertools.combinations(range(1, T), computes - 1)]
        best = min(cost(distance, anchors, form) for anchors in every)
        assert len(found[site]) == computes
        assert cost(distance, tuple(found[site]), form) == pytest.approx(best)


def test_a_jump_is_where_an_update_is_whatever_the_metric():
    z = np.ones((T, 4))
    z[6:, :2] = -5.0
    for metric in METRICS:
        assert rows(plans.make("bac", profile({"mlp:0": z}), computes=2, metric=metric)) == {"mlp:0": [0, 6]}


def test_the_union_updates_earlier_feed_forward_sublayers_where_later_ones_are():
    # Each jumps once, at a place of its own; mlp:1 hardly moves, attention is no feed-forward sublayer.
    places = {"attn:0": (2, 9.0), "mlp:0": (3, 2.0), "mlp:1": (5, 0.1), "mlp:2": (7, 3.0)}
    features = {}
    for site, (place, size) in places.items():
        features[site] = np.ones((T, 4))
        features[site][place:, 0] += size
    seen = profile(features)
    plain = {site: [0, place] for site, (place, _) in places.items()}
    assert rows(plans.make("bac", seen, computes=2)) == plain
    assert rows(plans.make("bac", seen, computes=2, union=1)) == plain
    assert rows(plans.make("bac", seen, computes=2, union=2)) == plain | {"mlp:0": [0, 3, 7]}
    everything = plain | {"mlp:0": [0, 3, 5, 7], "mlp:1": [0, 5, 7]}
    assert rows(plans.make("bac", seen, computes=2, union=3)) == everything
    assert rows(plans.make("bac", seen, computes=2, union=9)) == everything


def test_levels_go_from_everything_to_the_first_evaluation(seen):
    counts = [sum(map(len, rows(plans.make("bac", seen, **level)).values())) for level in levels(seen)]
    assert counts == [len(SITES) * k for k in range(T, 0, -1)]


def test_what_it_makes_is_a_schedule_of_values(seen):
    made = plans.make("bac", seen, computes=4)
    (plan,) = made.components.values()
    assert (made.method, made.steps, plan.codec, plan.predictor) == ("bac", T, "value", "reuse")


@pytest.mark.parametrize(
    ("options", "says"),
    [
        ({"computes": 0}, "computes must be"),
        ({"computes": T + 1}, "cannot be cut into 10 groups"),
        ({"metric": "l3"}, "metric must be one of cosine, l1, l2, got 'l3'"),
        ({"form": "step"}, "form must be one of anchor, adjacent"),
        ({"union": -1}, "union must be"),
    ],
)
def test_bad_parameters_are_refused(seen, options, says):
    with pytest.raises(DcacheError, match=says):
        plans.make("bac", seen, **options)


def test_a_profile_without_sublayers_is_refused():
    with pytest.raises(DcacheError, match=r"bac plans for sublayers .*: the profile has trunk"):
        plans.make("bac", profile({"trunk": drifting(T, 0)}))
