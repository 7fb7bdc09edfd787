"""LeMiCa's path: a graph that is solved by hand, all schedules of small tables, and what has no path."""

import itertools

import numpy as np
import pytest

from dcache.errors import DcacheError
from dcache.profile import Profile
from dcache.schedulers import planners as plans
from dcache.schedulers.planners.lemica import edges, fewest_computes, minimax_path
from tests.schedulers.planners.small_profiles import drifting, profile, rows, timed

T, NONE = 5, np.nan
# One or two predictions after evaluation 0, 1, 2 and 3.
SEGMENTS = np.array([[5.0, 6.0], [5.0, 8.0], [3.0, 9.0], [4.0, NONE], [NONE, NONE]])


def seen(segments: np.ndarray | None = SEGMENTS) -> Profile:
    features = {"trunk": drifting(T, 0), "block:0": drifting(T, 1)}
    return profile(features, segments=segments, latencies=timed({"trunk": 1.0}, 0.0, T))


def test_a_graph_that_is_solved_by_hand() -> None:
    weights = edges(SEGMENTS)
    # Nothing between neighbours, and the last evaluation leads to the end.
    assert [weights[i, i + 1] for i in range(T)] == [0.0] * T
    assert (weights[0, 2], weights[0, 3], weights[3, 5]) == (5.0, 6.0, 4.0)
    assert np.isinf([weights[0, 4], weights[1, 0], weights[2, 2]]).all()
    # Three computes: 0 3 4 has [6], the least sum; 0 1 3 and 0 2 3 have [5, 4]; 0 2 4 has [5, 3].
    assert minimax_path(weights, 3) == (0, 2, 4)
    # Two: 0 2 has [9, 5], 0 3 has [6, 4].
    assert minimax_path(weights, 2) == (0, 3)
    # Four: a single prediction, the cheapest after 2.
    assert minimax_path(weights, 4) == (0, 1, 2, 4)
    assert minimax_path(weights, 5) == (0, 1, 2, 3, 4)


@pytest.mark.parametrize("seed", range(3))
def test_it_is_the_best_of_all_schedules(seed: int) -> None:
    count, longest = 8, 3
    segments = np.random.default_rng(seed).integers(0, 4, (count, longest)).astype(float)
    for computes in range(1, count + 1):
        best = min(
            (
                worst_first(segments, (0, *rest))
                for rest in itertools.combinations(range(1, count), computes - 1)
            ),
        )
        if np.isinf(best[0]):
            with pytest.raises(DcacheError, match=f"no path .* has {computes} computed evaluations of 8"):
                minimax_path(edges(segments), computes)
        else:
            found = minimax_path(edges(segments), computes)
            assert len(found) == computes
            assert worst_first(segments, found) == best
    assert fewest_computes(segments) == 2


def worst_first(segments: np.ndarray, anchors: tuple[int, ...]) -> list[float]:
    """Errors of a schedule's segments, the largest first; infinite for those that are too long."""
    lengths = np.diff([*anchors, len(segments)]) - 1
    return sorted(
        (
            0.0 if n == 0 else float(segments[i, n - 1]) if n <= segments.shape[1] else np.inf
            for i, n in zip(anchors, lengths, strict=True)
        ),
        reverse=True,
    )


def test_the_schedule_computes_the_path_and_predicts_as_asked() -> None:
    for predictor in ("reuse", "taylor", "fitted"):
        schedule = plans.make("lemica", seen(), computes=3, predictor=predictor)
        assert rows(schedule) == {"trunk": [0, 2, 4]}
        (plan,) = schedule.components.values()
        assert (plan.predictor, schedule.method) == (predictor, "lemica")
    # Without a number, 45 % of five.
    assert rows(plans.make("lemica", seen())) == {"trunk": [0, 3]}
    # 5 s of which every prediction saves one: 2x needs two computes, and fewer do not reach the end.
    assert rows(plans.for_speedup(seen(), "lemica", 2.0)) == {"trunk": [0, 3]}
    with pytest.raises(DcacheError, match=r"cannot reach a speedup of 3 here: expected at most 2\.50"):
        plans.for_speedup(seen(), "lemica", 3.0)


def test_what_is_missing_is_said() -> None:
    with pytest.raises(DcacheError, match="dcache calibrate PIPE --segments --out"):
        plans.make("lemica", seen(None), computes=3)
    with pytest.raises(DcacheError, match="6 computes do not fit 5 evaluations"):
        plans.make("lemica", seen(), computes=6)
    with pytest.raises(
        DcacheError, match="predictor must be one of fitted, newton, taylor, reuse, got 'line'"
    ):
        plans.make("lemica", seen(), computes=3, predictor="line")
    with pytest.raises(DcacheError, match="no path through the measured segments has 1 computed"):
        plans.make("lemica", seen(), computes=1)
    for wrong in (SEGMENTS[:3], np.full((T, 2), NONE), np.full((T, 2), -1.0), SEGMENTS[:, 0]):
        with pytest.raises(DcacheError, match="the profile's segments"):
            seen(wrong)
