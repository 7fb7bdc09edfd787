"""Latencies: a planted machine is recovered; on the real one, what adds up adds up."""

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np
import pytest
import torch

from dcache import cost
from dcache.errors import DcacheError
from dcache.eval.contest import Contestant, Outcome
from dcache.eval.specs import Choice
from dcache.eval.subject import Subject, load
from dcache.eval.watch import Cost
from dcache.profile import Latencies, Profile, Tables
from dcache.schedule import Schedule
from dcache.search import timing
from dcache.search.timing import CostCheck, apart, check_cost, latencies

BATCH = (["a red circle"], [0])
SITES = ["trunk", "model", *(f"block:{i}" for i in range(12)), *(f"mlp:{i}" for i in range(12))]


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    """Two threads that wait for one another on a busy machine take minutes for these small calls."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


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
    found = latencies(subject, "transformer", SITES, 5, BATCH, repeats=1, tell=told.append)
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


def planted(seconds: dict[str, float], drift: Sequence[float]) -> Any:
    """A pipeline call on a machine that slows down from round to round, whatever is run."""
    calls: dict[str, int] = {}

    def call(_: Any, one: Contestant, prompts: Sequence[str], seeds: Sequence[int]) -> Outcome:
        turn = calls[one.spec] = calls.get(one.spec, -1) + 1
        spent = 10.0
        if isinstance(one, Choice):
            plan = one.method.components["transformer"]
            spent -= sum(seconds[s] * row.count(False) for s, row in plan.rows["*"].items())
        return Outcome(np.zeros((1, 1, 1, 3), np.float32), Cost(seconds=spent * drift[turn]))

    return call


def test_what_whole_calls_save_is_shared_out_by_the_sites_own_clocks(
    subject: Subject, monkeypatch: pytest.MonkeyPatch
) -> None:
    # Around a site is work that goes away with it: it saves twice what its clock says, less the prediction.
    own = {"trunk": 0.9, "mlp:0": 0.1, "mlp:1": 0.3}
    clocks = timing._Clocks(
        {s: v + 0.02 for s, v in own.items()}, dict.fromkeys(own, 0.02), dict.fromkeys(own, 7.0)
    )

    def part(_: Any, __: str, group: Sequence[str], *___: Any) -> timing._Clocks:
        return timing._Clocks(*({s: t[s] for s in group} for t in vars(clocks).values()))

    saved = {"trunk": 1.8, "mlp:0": 0.2, "mlp:1": 0.6}
    monkeypatch.setattr(timing, "_clocks", part)
    monkeypatch.setattr(timing, "one_call", planted(saved, [9.0, 1.0, 1.1, 1.3]))
    found = latencies(subject, "transformer", list(own), 5, BATCH, repeats=3)
    assert found.uncached == pytest.approx(11.0)
    for site, value in saved.items():
        assert found.computed[site] - found.predicted[site] == pytest.approx(1.1 * value)
        assert found.predicted[site] == 0.02
    assert found.spread == pytest.approx((12.0 - 10.5) / 2 / 11.0)
    schedules = [Schedule.of_steps([0, 2, 4], 5), Schedule.of_steps([0, 1], 5, ["mlp:0", "mlp:1"])]
    profile = Profile(5, {"trunk": {"0": {"value": flat(5)}}}, latencies=found)
    monkeypatch.setattr(
        timing,
        "one_call",
        planted(saved, [9.0, 2.0, 2.0]),
    )
    named = [Schedule(5, {"transformer": s.components[""]}) for s in schedules]
    for check, expected in zip(
        check_cost(subject, profile, named, ["a red circle"], repeats=2),
        (2 * (10 - 2 * 1.8), 2 * (10 - 3 * 0.8)),
        strict=True,
    ):
        assert check.expected == pytest.approx(expected)
        assert check.measured == pytest.approx(expected)
        assert check.spread == pytest.approx(0)


def flat(steps: int) -> Tables:
    return Tables(np.ones((steps, steps)), np.zeros((steps, steps)), np.ones(steps))


def test_a_prediction_that_costs_more_than_the_site_saves_nothing_and_stays_finite() -> None:
    shared = timing._shared({"a": 0.1, "b": 0.2}, {"a": 0.3, "b": 0.3}, 0.4)
    assert shared == {"a": pytest.approx(0.5), "b": pytest.approx(0.5)}
    assert timing._shared({"a": 0.5}, {"a": 0.1}, -1.0) == {"a": 0.0}


def test_a_check_says_whether_costs_can_rank() -> None:
    assert str(CostCheck(1.03, 1.0, 0.01)) == "1.03 s expected, 1 s measured (+3.0%, spread 1.0%)"
    assert "more than 5% off, so do not rank schedules by" in str(CostCheck(0.9, 1.0, 0.01))
    assert CostCheck(0.9, 1.0, 0.01).off == pytest.approx(-0.1)


def test_what_cannot_be_timed_is_told(subject: Subject) -> None:
    with pytest.raises(DcacheError, match="at least one timed round, got 0"):
        latencies(subject, "transformer", ["trunk"], 5, BATCH, repeats=0)
    untimed = Profile(5, {"trunk": {"0": {"value": flat(5)}}})
    with pytest.raises(DcacheError, match="latencies in the profile, and at least one prompt"):
        check_cost(subject, untimed, [Schedule.of_steps([0], 5)], ["a"])
    timed = Profile(5, untimed.sites, latencies=Latencies(1.0, {}, {}))
    with pytest.raises(DcacheError, match="trunk was not timed"):
        cost.seconds(Schedule.of_steps([0], 5), timed.latencies)
