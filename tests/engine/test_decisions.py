"""Decisions: what a rule is shown, what its reasons become, and what counts."""

import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

import dcache
from dcache import DcacheWarning, Method
from dcache.cache.history import Branch
from dcache.engine.call import Call
from dcache.engine.region import Region
from dcache.engine.session import Session
from dcache.probes import Probe, SinceCompute
from dcache.schedulers import ChangeAbove, StepContext, guarded
from tests.engine.tiny_models import Toy, integers, session_on, steps

X = torch.ones(1, 2, 4)


def never(moment: StepContext) -> str | None:
    return None


def always(reason: str) -> Callable[[StepContext], str | None]:
    return lambda moment: reason


def under(rule: Any, **more: Any) -> tuple[Toy, Session]:
    """A toy with a method of this rule alone."""
    toy = Toy()
    return toy, session_on(toy, Method("ruled", rule=rule, codec="value", **more))


def known(session: Session, index: int = 1) -> tuple[Region, Call]:
    """The session's one region with an anchor on a branch, and a call behind it."""
    (region,) = session.binding.regions
    assert isinstance(region, Region)
    branch = Branch("cond", 1)
    region.history = branch.history(region.key)
    region.history.push(0, 0.0, (X,))
    return region, Call(branch, index, float(index))


def test_a_decision_is_counted_in_the_call_and_the_record() -> None:
    _, session = under(lambda moment: "interval" if moment.index == 3 else None)
    for index, predicted in ((1, True), (2, True), (3, False)):
        region, call = known(session, index)
        assert session.decisions.predicts(region, call) is predicted
        assert (call.predicted, call.computed) == (int(predicted), int(not predicted))
    record = session.state.record
    assert record.events == {"cond": {"trunk": {1: False, 2: False, 3: True}}}
    assert record.reasons == {"interval": 1}


def test_the_self_check_predicts_whatever_the_rule_says_and_counts_nothing() -> None:
    _, session = under(always("interval"))
    region, call = known(session)
    check = Call(call.branch, 1, 1.0, checking=True)
    assert session.decisions.predicts(region, check)
    assert (check.predicted, check.computed) == (0, 0)
    assert session.state.record.events == {}


@pytest.mark.parametrize(
    ("says", "reset", "counted"),
    [
        # Guards keep their own reason where nothing is remembered.
        ("warmup", "", "warmup"),
        ("last", "", "last"),
        ("listed", "", "listed"),
        ("schedule", "shape", "schedule"),
        # Behind any other, and where the rule would predict, what is missing is the reason.
        (None, "", "no_history"),
        ("interval", "", "no_history"),
        (None, "shape", "shape"),
        ("threshold", "shape", "shape"),
    ],
)
def test_where_nothing_is_remembered_the_site_is_computed(says: str | None, reset: str, counted: str) -> None:
    _, session = under(lambda moment: says)
    region, call = known(session)
    assert region.history is not None
    region.history.clear()
    call.branch.reset = reset
    assert not session.decisions.predicts(region, call)
    assert session.state.record.reasons == {counted: 1}


def test_a_rule_is_shown_where_the_run_stands() -> None:
    shown: list[StepContext] = []

    def rule(moment: StepContext) -> str | None:
        shown.append(moment)
        return None

    toy, _ = under(rule, sites=("block",))
    for index, timestep in enumerate((900.0, 500.0)):
        dcache.step(toy, index, branch="cond", timestep=timestep, steps=2)
        with torch.no_grad():
            toy(X, timestep)
    assert [(m.index, m.count, m.run_length, m.branch, m.depth) for m in shown] == [
        (i, 2, 0, "cond", 3) for i in (0, 0, 0, 1, 1, 1)
    ]
    assert [m.site.name for m in shown] == ["block:0", "block:1", "block:2"] * 2
    assert shown[0].time() == 500.0
    # There is no probe, and so nothing to compare with.
    assert shown[0].change() == math.inf


def test_without_a_run_the_time_is_not_known() -> None:
    seen: list[Any] = []
    _, session = under(lambda moment: seen.append((moment.time(), moment.count)))
    session.decisions.predicts(*known(session))
    assert seen == [(None, None)]


def test_what_a_rule_keeps_it_finds_again_at_its_site_and_branch() -> None:
    def rule(moment: StepContext) -> str | None:
        moment.memory["asked"] = moment.memory.get("asked", 0.0) + 1.0
        return "third" if moment.memory["asked"] == 3.0 else None

    toy, _ = under(rule, sites=("block:0", "block:2"))
    for branch in ("cond", "uncond"):
        steps(toy, [4, 3, 2, 1], branch=branch)
        plan = dcache.trace(toy).components[""]
        rows = plan.rows.get(branch) or plan.rows["*"]
        assert rows == dict.fromkeys(("block:0", "block:2"), (True, False, True, False))


def test_branches_that_decide_together_ask_once_an_evaluation() -> None:
    asked: list[tuple[int, str]] = []

    def rule(moment: StepContext) -> str | None:
        asked.append((moment.index, moment.branch))
        return "interval" if moment.index == 2 else None

    for branches, expected in (("together", ["cond"]), ("separate", ["cond", "uncond"])):
        asked.clear()
        toy, _ = under(rule, branches=branches)
        for index in range(4):
            for branch in ("cond", "uncond"):
                dcache.step(toy, index, branch=branch)
                with torch.no_grad():
                    toy(X, 1.0)
        assert asked == [(index, branch) for index in range(4) for branch in expected]
        assert dcache.stats(toy).reasons == {"no_history": 2, "interval": 2}
        assert dcache.stats(toy).predicted == 4


def test_a_rule_with_a_probe_is_not_asked_before_there_is_anything_to_predict_from() -> None:
    asked: list[int] = []

    def rule(moment: StepContext) -> str | None:
        asked.append(moment.index)
        return None

    toy, _ = under(rule, probe=Probe("input"))
    steps(toy, [4, 3, 2])
    assert asked == [1, 2]
    assert dcache.stats(toy).reasons == {"no_history": 1}


def test_a_change_that_is_no_number_computes_and_says_so_once() -> None:
    class Broken(SinceCompute):
        def change(self) -> float:
            return math.nan

    toy, _ = under(guarded(ChangeAbove(0.5), warmup=1), probe=Probe("input", indicator=Broken))
    with pytest.warns(DcacheWarning, match="the denoiser produced NaN; the evaluation is computed") as told:
        assert integers(steps(toy, [4, 3, 2])) == [40, 32, 24]
    assert len(told) == 1
    assert dcache.stats(toy).reasons == {"no_history": 1, "nan": 2}


# What is foreseen -----------------------------------------------------------------------------------


def test_what_is_foreseen_is_not_counted_and_predicted_without_asking_again() -> None:
    asked: list[int] = []

    def rule(moment: StepContext) -> str | None:
        asked.append(moment.index)
        return None

    _, session = under(rule)
    region, call = known(session)
    assert region.history is not None
    assert session.decisions.foresees(region, call, region.history)
    assert session.decisions.foreseen == {"trunk"}
    assert session.state.record.events == {}
    assert session.decisions.predicts(region, call)
    assert asked == [1]
    assert session.state.record.predicted == 1


def test_what_will_be_computed_is_foreseen_as_such() -> None:
    _, session = under(always("interval"))
    region, call = known(session)
    assert region.history is not None
    assert not session.decisions.foresees(region, call, region.history)
    assert session.decisions.foreseen == set()


def test_a_rule_that_looks_at_a_probe_foresees_nothing() -> None:
    _, session = under(never, probe=Probe("input"))
    region, call = known(session)
    assert region.history is not None
    assert not session.decisions.foresees(region, call, region.history)


def test_what_a_rule_notes_it_notes_at_the_sites_turn() -> None:
    def rule(moment: StepContext) -> str | None:
        moment.memory["asked"] = moment.memory.get("asked", 0.0) + 1.0
        return None

    _, session = under(rule)
    region, call = known(session)
    assert region.history is not None
    assert session.decisions.foresees(region, call, region.history)
    assert region.history.memory == {}
    assert session.decisions.foreseen == set()
    session.decisions.predicts(region, call)
    assert region.history.memory == {"asked": 1.0}


def test_branches_that_decide_together_foresee_what_the_first_decided() -> None:
    answers = iter([None, "unasked"])
    _, session = under(lambda moment: next(answers), branches="together")
    region, call = known(session)
    assert region.history is not None
    session.decisions.predicts(region, call)
    other = Call(Branch("uncond", 1), call.index, call.tau)
    assert session.decisions.foresees(region, other, region.history)
    # It is shared with the branches of its own evaluation alone.
    assert not session.decisions.foresees(region, Call(other.branch, 2, 2.0), region.history)


# The probe ------------------------------------------------------------------------------------------


def probed(session: Session) -> tuple[Call, SinceCompute]:
    call = Call(Branch("cond", 1), 1, 1.0)
    indicator = call.branch.indicator = SinceCompute()
    return call, indicator


def test_the_probe_is_shown_once_an_evaluation() -> None:
    _, session = under(never, probe=Probe("input"))
    call, indicator = probed(session)
    session.decisions.show(call, X)
    session.decisions.show(call, 2 * X)
    assert indicator.now is not None
    assert torch.equal(indicator.now, X)


def test_a_tensor_that_belongs_to_the_model_is_copied() -> None:
    _, session = under(never, probe=Probe("input"))
    for own in (False, True):
        call, indicator = probed(session)
        x = X.clone()
        session.decisions.show(call, x, own=own)
        assert (indicator.now is x) is own
        x.zero_()
        assert indicator.now is not None
        assert float(indicator.now.sum()) == (0.0 if own else 8.0)


def test_neither_a_replay_nor_a_branch_without_an_indicator_is_shown_anything() -> None:
    _, session = under(never, probe=Probe("input"))
    call, indicator = probed(session)
    session.decisions.show(Call(call.branch, 1, 1.0, checking=True), X)
    assert indicator.now is None
    call.branch.indicator = None
    session.decisions.show(call, X)
    assert indicator.now is None
