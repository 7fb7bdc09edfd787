"""A note where evaluations of equal work last longer in one call than in the other."""

import numpy as np
import pytest

from dcache.eval.call_cost import Cost
from dcache.eval.entries import CallResult
from dcache.eval.studio.drift import drift_note
from dcache.schedule import Plan, Schedule

NONE = np.zeros((0,), np.float32)


def result(calls: list[float], trace: Schedule | None = None) -> CallResult:
    return CallResult(NONE, Cost(calls=calls), trace=trace)


def of(*rows: str) -> Schedule:
    sites = {f"block:{i}": tuple(cell == "1" for cell in row) for i, row in enumerate(rows)}
    return Schedule(len(rows[0]), {"transformer": Plan({"*": sites})})


def test_evaluations_that_are_computed_in_full_are_compared() -> None:
    uncached = result([1.0, 1.0, 1.0, 1.0, 1.0, 9.0])
    # The first one is checked, the others predict.
    calm = result([5.0, 0.1, 1.1, 0.1, 1.2, 0.1], of("101010", "111111"))
    assert drift_note(uncached, calm) == []
    (note,) = drift_note(uncached, result([5.0, 0.1, 2.0, 0.1, 3.0, 0.1], of("101010")))
    assert "took 2.50 times as long" in note
    (note,) = drift_note(uncached, result([5.0, 0.1, 0.5, 0.1, 0.5, 0.1], of("101010")))
    assert "took 0.50 times as long" in note


def test_two_calls_an_evaluation_are_both_its() -> None:
    uncached = result([1.0] * 6)
    cached = result([3.0, 3.0, 0.1, 0.1, 2.0, 2.0], of("101"))
    (note,) = drift_note(uncached, cached)
    assert "took 2.00 times" in note


@pytest.mark.parametrize(
    "cached",
    [
        result([9.0, 9.0, 9.0]),
        result([9.0, 9.0, 9.0], of("110")),
        result([9.0, 9.0, 9.0], of("111", "100")),
        result([9.0, 9.0], of("111")),
    ],
    ids=["no trace", "one alone", "never all sites", "other calls"],
)
def test_nothing_is_said_where_nothing_can_be_told(cached: CallResult) -> None:
    assert drift_note(result([1.0] * 3), cached) == []
