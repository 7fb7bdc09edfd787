"""Latencies: a planted machine is recovered; on the real one, what adds up adds up."""

from collections.abc import Sequence
from typing import Any

import numpy as np
import pytest

from dcache.errors import DcacheError
from dcache.eval.call_cost import Cost
from dcache.eval.entries import BenchEntry, CallResult
from dcache.eval.specs import MethodEntry
from dcache.eval.subject import Subject, load
from dcache.profile import FeatureTables, Latencies, Profile, cost
from dcache.schedule import Schedule
from dcache.search.observing import timing
from dcache.search.observing.cost_check import CostCheck, check_cost
from dcache.search.observing.timing import apart, latencies

BATCH = (["a red circle"], [0])
SITES = ["trunk", "model", *(f"block:{i}" for i in range(12)), *(f"mlp:{i}" for i in range(12))]


@pytest.fixture(scope="module")
def subject() -> Subject:
    """The shipped model, few steps."""
    return load("demo", steps=5, device="cpu", dtype="float32")


def test_sites_that_overlap_are_timed_apart() -> None:
    assert apart(["trunk", "model", "block:0", "block:1", "attn:0", "mlp:0", "run:1-2"]) == [
        ["trunk"],
        ["model"],
        ["block:0", "block:1"],
        ["attn:0", "mlp:0", "run:1-2"],
    ]
    assert apart(["bracket:0", "bracket:1", "attn:0"]) == [["bracket:0"], ["bracket:1"], ["attn:0"]]


def test_flops_of_parts_add_up_to_those_of_the_whole(subject: Subject) -> None:
    told: list[str] = []
    found = latencies(subject, "transformer", SITES, 5, BATCH, repeats=1, progress=told.append)
    blocks = sum(found.flops[f"block:{i}"] for i in range(12))
    assert found.flops["trunk"] == blocks > 0
    # A multiply-add with every weight for each token.
    mlp = subject.pipe.transformer.transformer_blocks[0].ff
    weights = sum(p.numel() for p in mlp.parameters() if p.ndim == 2)
    assert found.flops["mlp:0"] % (2 * weights) == 0
    assert found.flops["trunk"] < found.flops["model"] < 1.2 * found.flops["trunk"]
    assert set(found.computed) == set(found.predicted) == set(found.flops) == set(SITES)
    assert all(np.isfinite(value) and value >= 0 for value in (*found.computed.values(), found.uncached))
    assert 0 < found.predicted["trunk"] < found.computed["trunk"] < found.uncached
    assert (found.pictures, found.spread) == (1, 0.0)
    assert told[-1] == "timed round 1 of 1"


def planted(
    own: dict[str, float], extra: float, drift: Sequence[float], hidden: float = 1.0
) -> tuple[Any, list[str]]:
    """Calls of a pipeline of 10 s on a machine whose speed changes from round to round.

    Every prediction saves what the site's own clock says, `hidden` times, and remembering costs `extra`.
    """
    calls: list[str] = []

    def call(_: Any, one: BenchEntry, __: Any, ___: Any) -> CallResult:
        calls.append(one.spec)
        slow = drift[calls.count(one.spec) - 1]
        spent = 10.0
        if isinstance(one, MethodEntry):
            plan = one.method.components["transformer"]
            spent += extra - hidden * sum(own[s] * row.count(False) for s, row in plan.rows["*"].items())
        if isinstance(one, timing._Clocked):
            for site, row in one.method.components["transformer"].rows["*"].items():
                for t, computed in enumerate(row):
                    value = 0.02 + (own[site] if computed else 0.0)
                    spans = one.readings.computed if computed else one.readings.predicted
                    # Of two branches.
                    spans[site][t] = [(0.0, slow * value / 4), (5.0, 5.0 + slow * value * 3 / 4)]
        return CallResult(np.zeros((1, 1, 1, 3), np.float32), Cost(seconds=spent * slow))

    return call, calls


@pytest.mark.parametrize(("extra", "hidden"), [(0.5, 1.0), (0.0, 1.5)])
def test_a_planted_machine_is_recovered_although_it_slows_down(
    subject: Subject, monkeypatch: pytest.MonkeyPatch, extra: float, hidden: float
) -> None:
    own = {"trunk": 0.9, "mlp:0": 0.1, "mlp:1": 0.3}
    call, calls = planted(own, extra, [9.0, 1.0, 1.1, 1.3], hidden)
    monkeypatch.setattr(timing, "run_once", call)
    monkeypatch.setattr(
        timing._Group, "count", lambda group, *_: group.flops.update(dict.fromkeys(group.sites, 7.0))
    )
    found = latencies(subject, "transformer", list(own), 5, BATCH, repeats=3)
    assert calls[0] == "uncached"
    assert len(calls) == 4 * (1 + 2 * 2)
    assert found.uncached == pytest.approx(11.0)
    for site, value in own.items():
        assert found.computed[site] - found.predicted[site] == pytest.approx(1.1 * hidden * value)
        assert found.predicted[site] == pytest.approx(1.1 * 0.02)
    assert found.overhead["trunk"] == pytest.approx(1.1 * extra)
    assert found.overhead["mlp:0"] == found.overhead["mlp:1"] == pytest.approx(1.1 * extra / 2)
    assert found.spread == pytest.approx((12.0 - 10.5) / 2 / 11.0)

    listed = [Schedule.of_steps([0, 2, 4], 5), Schedule.of_steps([0, 1], 5, ["mlp:0", "mlp:1"])]
    schedules = [Schedule(5, {"transformer": one.components[""]}) for one in listed]
    profile = Profile(5, {"trunk": {"0": {"value": flat(5)}}}, latencies=found)
    monkeypatch.setattr(timing, "run_once", planted(own, extra, [9.0, 2.0, 2.0], hidden)[0])
    checks = check_cost(subject, profile, schedules, ["a red circle"], repeats=2)
    for check, saved in zip(checks, (2 * 0.9, 3 * 0.4), strict=True):
        assert check.expected == pytest.approx(2 * (10 + extra - hidden * saved))
        assert check.measured == pytest.approx(check.expected)
        assert check.spread == pytest.approx(0)


def flat(steps: int) -> FeatureTables:
    return FeatureTables(np.ones((steps, steps)), np.zeros((steps, steps)), np.ones(steps))


def test_a_prediction_that_costs_more_than_the_site_saves_nothing_and_stays_finite(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    call, _ = planted({"mlp:0": -0.01}, 0.5, [1.0, 1.0])
    monkeypatch.setattr(timing, "run_once", call)
    monkeypatch.setattr(timing._Group, "count", lambda group, *_: group.flops.update({"mlp:0": 1.0}))
    found = latencies(subject, "transformer", ["mlp:0"], 5, BATCH, repeats=1)
    assert found.computed == found.predicted == {"mlp:0": pytest.approx(0.02)}
    # 0.5 and what 2 + 4 predictions lose, over the two calls that tell.
    assert found.overhead["mlp:0"] == pytest.approx(0.5 + 0.06 / 2)


def test_a_check_says_whether_costs_can_rank() -> None:
    assert str(CostCheck(1.03, 1.0, 0.01)) == "1.03 s expected, 1 s measured (+3.0%, spread 1.0%)"
    assert "more than 5% off, so do not rank schedules by" in str(CostCheck(0.9, 1.0, 0.01))
    assert CostCheck(0.9, 1.0, 0.01).off == pytest.approx(-0.1)


def test_what_cannot_be_timed_is_told(subject: Subject) -> None:
    with pytest.raises(DcacheError, match="at least one timed round, got 0"):
        latencies(subject, "transformer", ["trunk"], 5, BATCH, repeats=0)
    untimed = Profile(5, {"trunk": {"0": {"value": flat(5)}}})
    with pytest.raises(DcacheError, match="a profile with latencies, and at least one prompt"):
        check_cost(subject, untimed, [Schedule.of_steps([0], 5)], ["a"])
    timed = Profile(5, untimed.sites, latencies=Latencies(1.0, {}, {}))
    with pytest.raises(DcacheError, match="trunk was not timed"):
        cost.seconds(Schedule.of_steps([0], 5), timed.latencies)
