"""Costs of schedules from latencies, by hand."""

from dataclasses import replace

import pytest

from dcache.errors import DcacheError
from dcache.profile import Latencies, cost
from dcache.schedule import Plan, Schedule

TIMED = Latencies(
    10.0,
    {"trunk": 0.9, "block:0": 0.5, "block:1": 0.4, "attn:0": 0.2, "mlp:0": 0.3},
    {"trunk": 0.1, "block:0": 0.05, "block:1": 0.05, "attn:0": 0.02, "mlp:0": 0.03},
    {"trunk": 90.0, "block:0": 50.0, "block:1": 40.0, "attn:0": 20.0, "mlp:0": 30.0},
)


def of(rows: dict[str, str], **branches: dict[str, str]) -> Schedule:
    """Rows as text: x computes."""
    every = branches or {"*": rows}
    table = {q: {s: tuple(c == "x" for c in row) for s, row in r.items()} for q, r in every.items()}
    steps = len(next(iter(next(iter(table.values())).values())))
    return Schedule(steps, {"": Plan(table)})


def test_predicted_evaluations_save_what_computing_costs_more() -> None:
    # Three predictions of 0.9 - 0.1.
    schedule = of({"trunk": "x--x-x"})
    assert cost.seconds(schedule, TIMED) == pytest.approx(10 - 3 * 0.8)
    assert cost.speedup(schedule, TIMED) == pytest.approx(10 / 7.6)
    assert cost.flops(schedule, TIMED) == pytest.approx(0.5)
    assert cost.seconds(of({"trunk": "xxxxxx"}), TIMED) == 10.0
    assert cost.flops(of({"trunk": "xxxxxx"}), TIMED) == 1.0


def test_sites_add_up_and_what_lies_inside_a_predicted_one_does_not_happen() -> None:
    beside = of({"block:0": "x-x-", "block:1": "xx--"})
    assert cost.seconds(beside, TIMED) == pytest.approx(10 - 2 * 0.45 - 2 * 0.35)
    assert cost.flops(beside, TIMED) == pytest.approx(1 - (2 * 50 + 2 * 40) / (4 * 90))
    inside = of({"block:0": "x-x-", "attn:0": "x---"})
    # Of attention's three predictions two lie in evaluations in which the block is predicted.
    assert cost.seconds(inside, TIMED) == pytest.approx(10 - 2 * 0.45 - 1 * 0.18)
    assert cost.flops(inside, TIMED) == pytest.approx(1 - (2 * 50 + 1 * 20) / (4 * 50))


def test_what_is_asked_for_and_reaches_nothing_is_free() -> None:
    # Attention's compute in evaluation 1 lies inside a predicted block: it is not run.
    assert cost.seconds(of({"block:0": "x-x-", "attn:0": "xx--"}), TIMED) == cost.seconds(
        of({"block:0": "x-x-", "attn:0": "x---"}), TIMED
    )
    # Evaluation 0 has nothing to predict from: computed, whatever the table says.
    assert cost.seconds(of({"trunk": "--x-"}), TIMED) == cost.seconds(of({"trunk": "x-x-"}), TIMED)


def test_a_compute_that_nobody_reads_is_free() -> None:
    # Under `value` block 1 ignores what comes from block 0: its computes from evaluation 2 on are dead.
    dead = of({"block:0": "x-x-", "block:1": "xx--"})
    value = Schedule(4, {"": replace(dead.components[""], codec="value")})
    assert cost.seconds(value, TIMED) == pytest.approx(10 - 3 * 0.45 - 2 * 0.35)
    assert cost.seconds(value.canonical(), TIMED) == cost.seconds(value, TIMED)


def test_branches_share_the_seconds_of_an_evaluation() -> None:
    # One of two branches predicts three times: half of an evaluation's seconds each time.
    schedule = of({}, cond={"trunk": "xxxx"}, uncond={"trunk": "x---"})
    assert cost.seconds(schedule, TIMED) == pytest.approx(10 - 3 * 0.8 / 2)


def test_what_cannot_be_priced_is_told() -> None:
    with pytest.raises(DcacheError, match="mlp:7 was not timed"):
        cost.seconds(of({"mlp:7": "x-"}), TIMED)
    plan = of({"trunk": "x-"}).components[""]
    with pytest.raises(DcacheError, match="this one has 2"):
        cost.seconds(Schedule(2, {"a": plan, "b": plan}), TIMED)
    nothing = Latencies(1.0, {"trunk": 0.1}, {"trunk": 0.0})
    assert cost.flops(of({"trunk": "x-"}), nothing) == 1.0


def test_remembering_a_site_costs_something_of_itself() -> None:
    timed = replace(TIMED, overhead={"trunk": 0.7, "block:0": 0.2, "block:1": 0.1})
    assert cost.seconds(of({"trunk": "x--x-x"}), timed) == pytest.approx(10.7 - 3 * 0.8)
    assert cost.seconds(of({"block:0": "x-", "block:1": "xx"}), timed) == pytest.approx(10.3 - 0.45)
    run = of({"run:0-1": "x-x-"})
    assert cost.seconds(run, timed) == pytest.approx(10.3 - 2 * (0.5 + 0.4 - 0.05))
