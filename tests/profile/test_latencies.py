"""Latencies of which only the seconds are known: nothing else is charged or counted."""

import pytest

from dcache.profile import Latencies, cost
from dcache.schedule import Schedule

TWO_OF_FOUR = Schedule.of_steps([0, 2], 4)


def test_what_was_not_measured_costs_nothing() -> None:
    timed = Latencies(5.0, {"trunk": 1.0}, {"trunk": 0.25})
    # Two predictions save three quarters of a second each; nothing is paid for remembering the trunk.
    assert cost.seconds(TWO_OF_FOUR, timed) == pytest.approx(3.5)
    assert cost.flops(TWO_OF_FOUR, timed) == 1.0
    assert (timed.pictures, timed.spread) == (1, 0.0)


def test_what_was_measured_is_charged() -> None:
    timed = Latencies(
        5.0, {"trunk": 1.0}, {"trunk": 0.25}, flops={"trunk": 2e9}, overhead={"trunk": 0.1}, pictures=4
    )
    assert cost.seconds(TWO_OF_FOUR, timed) == pytest.approx(3.6)
    # Half of the trunk's operations are left.
    assert cost.flops(TWO_OF_FOUR, timed) == pytest.approx(0.5)


def test_each_has_tables_of_its_own() -> None:
    one, other = (Latencies(1.0, {}, {}) for _ in range(2))
    assert one == other
    assert one.flops is not other.flops
    assert one.overhead is not other.overhead
