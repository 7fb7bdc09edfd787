"""The gate: which calls are ours, which evaluation and branch they are, and what a branch begins with."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import pytest
import torch

import dcache
from dcache import DcacheError, DcacheWarning, Schedule, methods
from dcache.engine.call import Call
from dcache.engine.config import SessionConfig
from dcache.engine.gate import Gate
from dcache.engine.observe import Observer, observe
from dcache.engine.session import Session
from dcache.method import wrong_count
from dcache.predictors.fitted import Fitted
from dcache.probes import Probe
from tests.engine.tiny_models import Double, Toy, integers, session_on, steps, walk

EVERY_2 = methods.interval(interval=2, codec="delta")
TIMES = [4, 3, 2, 1]
X = torch.ones(1, 2, 4)


def admitted(session: Session, x: torch.Tensor = X, time: float = 4.0, **more: Any) -> Call | None:
    """What the gate says of one call."""
    with torch.no_grad():
        return session.gate.admit((x, time), more)


def told(session: Session, index: int, branch: str | None = None, **more: Any) -> Call:
    """The call that the gate makes of one in this evaluation."""
    dcache.step(session.module, index, branch=branch)
    call = admitted(session, **more)
    assert call is not None
    return call


# Calls that are not ours ----------------------------------------------------------------------------


@pytest.mark.parametrize("mode", [torch.no_grad, torch.inference_mode, torch.enable_grad])
def test_training_mode_alone_is_no_reason_to_pass_a_call_by(mode: Any) -> None:
    toy = Toy()
    session = session_on(toy, EVERY_2)
    toy.train()
    # The toy's weights need no gradients, so that none are recorded in any of the modes.
    with mode():
        assert session.gate.admit((X, 4.0), {}) is not None
    assert session.state.record.reasons == {}
    toy.requires_grad_()
    with torch.no_grad():
        assert session.gate.admit((X, 4.0), {}) is not None


@pytest.mark.parametrize("training", [False, True])
@pytest.mark.parametrize("where", ["positional", "keyword", "nested", "parameter"])
def test_calls_that_record_gradients_are_passed_by(where: str, training: bool) -> None:
    toy = Toy().train(training)
    session = session_on(toy, EVERY_2)
    x = torch.ones(1, 2, 4, requires_grad=where != "parameter")
    toy.blocks[0].weight.requires_grad_(where == "parameter")
    args: tuple[Any, ...] = (x, 4.0) if where in ("positional", "parameter") else ()
    kwargs: dict[str, Any] = {} if args else {"x": x, "timestep": 4.0}
    if where == "nested":
        kwargs |= {"x": X, "added": {"rows": [X, x]}}
    with pytest.warns(DcacheWarning, match=r"gradients are being recorded.*torch\.no_grad\(\)") as said:
        assert [session.gate.admit(args, kwargs) for _ in range(2)] == [None, None]
    assert len(said) == 1
    assert session.state.record.reasons == {"gradients": 2}
    with torch.no_grad():
        assert session.gate.admit(args, kwargs) is not None


def test_where_nothing_asks_for_gradients_there_are_none_to_lose() -> None:
    session = session_on(Toy(), EVERY_2)
    assert torch.is_grad_enabled()
    assert session.gate.admit((X, 4.0), {}) is not None


def test_a_call_inside_a_call_is_part_of_it() -> None:
    class Twice(Toy):
        """Calls itself once more."""

        def forward(self, x: torch.Tensor, timestep: Any, again: bool = True) -> torch.Tensor:
            y = super().forward(x, timestep)
            return y + self(x, timestep, again=False) if again else y

    toy = Twice()
    session = session_on(toy, EVERY_2.with_sites(("model",)))
    assert integers(steps(toy, TIMES)) == [80, 80, 48, 48]
    assert (session.stats().computed, session.stats().predicted) == (2, 2)
    call = told(session, 0)
    session.call = call
    assert admitted(session) is None
    session.call = None
    assert admitted(session) is not None


def test_the_first_evaluation_of_every_run_is_let_by_where_the_denoiser_is_found_in_it() -> None:
    seen: list[int] = []

    class Seen(Observer):
        def on_call(self, call: Call, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
            seen.append(call.index)

    toy = Toy()
    Session(toy, SessionConfig(methods.interval(interval=3), skips_first=True))
    for _ in range(2):
        with observe(toy, Seen()):
            # 8 h of evaluations 0 (let by) and 1 (computed), then 7 * 4 more than 3 and 2.
            assert integers(steps(toy, TIMES)) == [40, 32, 3 + 28, 2 + 28]
        assert seen == [1, 2, 3]
        seen.clear()
        stats = dcache.stats(toy)
        assert (stats.steps, stats.computed, stats.predicted) == (4, 1, 2)


def test_a_call_that_nothing_tells_from_the_next_is_refused() -> None:
    session = session_on(Toy(), EVERY_2)
    with pytest.raises(DcacheError, match=r"which evaluation .* dcache\.step"):
        session.gate.admit((X, torch.ones(2, 2) * torch.arange(2)), {})


# Evaluations ----------------------------------------------------------------------------------------


def test_evaluations_are_counted_and_timed_by_the_methods_clock() -> None:
    toy = Toy()
    session = session_on(toy, replace(EVERY_2, clock="timestep"))
    calls = [admitted(session, time=t) for t in (4.0, 4.0, 3.0, 3.0)]
    assert [(c.index, c.tau, c.branch.name) for c in calls if c is not None] == [
        (0, 4.0, "0"), (0, 4.0, "1"), (1, 3.0, "0"), (1, 3.0, "1"),
    ]  # fmt: skip
    assert session.state.last_index == 1
    assert session.state.run is not None
    assert session.state.run.calls == 4


@pytest.mark.parametrize("beyond", [4, 9])
def test_an_evaluation_beyond_the_methods_table_is_refused_every_time(beyond: int) -> None:
    session = session_on(Toy(), Schedule.of_steps([0, 2], 4))
    assert [told(session, i).index for i in range(4)] == [0, 1, 2, 3]
    for _ in range(2):
        dcache.step(session.module, beyond)
        with pytest.raises(DcacheError, match=f"is for 4 evaluations and the run has {beyond + 1} or more"):
            admitted(session)
    assert "Schedule.load(path).stretch(steps)" in str(wrong_count(4, 5))
    # The next run begins as usual.
    assert told(session, 0).index == 0


# Branches -------------------------------------------------------------------------------------------


def test_a_branch_is_named_by_dcache_step_else_by_its_context_else_by_its_ordinal() -> None:
    session = session_on(Toy(), EVERY_2)
    session.context = "context"
    assert told(session, 0, "said").branch.name == "said"
    assert told(session, 1).branch.name == "context"
    assert told(session, 1).branch.name == "context"
    session.context = None
    assert [told(session, 2).branch.name for _ in range(3)] == ["0", "1", "2"]
    assert list(session.state.branches) == ["said", "context", "0", "1", "2"]


def test_calls_of_one_branch_share_its_histories_and_the_number_of_anchors_is_the_predictors() -> None:
    session = session_on(Toy(), methods.newton(order=2, clock="step", last=False))
    first = told(session, 0, "cond").branch
    assert first.limit == 3
    assert told(session, 1, "cond").branch is first
    other = told(session, 1, "uncond").branch
    assert other is not first
    # Another run has branches of its own.
    assert told(session, 0, "cond").branch is not first


def test_a_condition_is_known_again_when_another_branch_stops_calling() -> None:
    session = session_on(Toy(), EVERY_2)
    cond, uncond = torch.zeros(1, 5, 4), torch.ones(1, 5, 4)
    for index in range(2):
        dcache.step(session.module, index)
        names = [
            call.branch.name
            for text in (cond, uncond)
            if (call := admitted(session, encoder_hidden_states=text)) is not None
        ]
        assert names == ["0", "1"]
    dcache.step(session.module, 2)
    call = admitted(session, encoder_hidden_states=uncond)
    assert call is not None
    assert call.branch.name == "1"


def test_a_call_that_looks_otherwise_starts_its_branch_afresh() -> None:
    toy = Toy()
    session = session_on(toy, EVERY_2)
    steps(toy, TIMES[:2])
    branch = session.state.branches["0"]
    assert branch.history("trunk").taus
    call = told(session, 2, x=torch.ones(1, 5, 4))
    assert call.branch is session.state.branches["0"]
    assert (call.branch.histories, call.branch.reset) == ({}, "shape")
    branch = call.branch
    # What was held is remembered as the most: 2 tokens of 4 floats.
    assert session.state.record.most_bytes == 2 * 4 * 4
    # Another value of a flag is another look, another number is not.
    assert branch.signature == told(session, 3, x=torch.ones(1, 5, 4), time=2.5).branch.signature
    assert branch.signature != told(session, 3, x=torch.ones(1, 5, 4), flag=True).branch.signature


def test_what_is_computed_for_that_reason_is_counted_as_shape() -> None:
    toy = Toy()
    session_on(toy, methods.interval(interval=4, codec="delta"))
    outputs = [
        steps(toy, [t], first=i, x=torch.ones(1, n, 4))[0]
        for i, (n, t) in enumerate(zip([2, 2, 3, 3], TIMES, strict=True))
    ]
    assert integers(outputs) == [40, 4 + 35, 24, 2 + 21]
    assert dcache.stats(toy).reasons == {"warmup": 1, "shape": 1}


def test_a_call_is_watched_until_one_that_looks_like_it_was_checked() -> None:
    toy = Toy()
    session = session_on(toy, EVERY_2)
    assert told(session, 0).observing
    # It was admitted and not computed.
    assert told(session, 1).observing
    steps(toy, TIMES)
    assert not told(session, 0).observing
    assert told(session, 0, x=torch.ones(1, 5, 4)).observing
    assert not told(session, 0, branch="other").observing


def test_whether_a_batch_is_two_halves_is_looked_at_once_and_said_where_it_is_not() -> None:
    toy = Toy()
    method = replace(EVERY_2, predictor=Fitted({"*": {1: {0: 1.0}}}, {"trunk": {1: {0: 1.0}}}), clock="step")
    session = session_on(toy, method)
    assert told(session, 0, "halves", x=torch.ones(2, 2, 4)).branch.paired
    other = torch.arange(16.0).reshape(2, 2, 4)
    with pytest.warns(DcacheWarning, match=r"weights for the two halves .* the batch of Toy is no such"):
        assert not told(session, 0, "others", x=other).branch.paired
    # Of a branch that looks as before it is not asked again: that would take a sync.
    assert told(session, 1, "halves", x=other).branch.paired
    # Who needs no halves does not look.
    assert not told(session_on(Toy(), EVERY_2), 0, x=torch.ones(2, 2, 4)).branch.paired


# What it sees to before a call ----------------------------------------------------------------------


def test_a_module_that_was_replaced_in_mid_run_is_bound_before_the_call() -> None:
    toy = Toy()
    session = session_on(toy, EVERY_2)
    steps(toy, TIMES[:2])
    toy.blocks[1] = Double(3.0)
    assert session.binding.moved()
    assert told(session, 2).observing
    assert not session.binding.moved()
    assert integers(walk(toy, [2])) == [2 * 3 * 2 * 3]


def test_of_a_list_of_samples_the_indicator_is_shown_the_first_and_not_the_timestep() -> None:
    session = session_on(Toy(), replace(EVERY_2, probe=Probe("input")))
    with torch.no_grad():
        call = session.gate.admit(([X * 7, X], torch.tensor([4.0])), {"timestep": 4.0})
    assert call is not None
    assert call.branch.indicator is not None
    assert call.branch.indicator.now is not None
    assert torch.equal(call.branch.indicator.now, X * 7)


def test_the_indicator_is_made_once_and_shown_the_input_where_the_probe_sits_there() -> None:
    session = session_on(Toy(), replace(EVERY_2, probe=Probe("input")))
    call = told(session, 0)
    indicator = call.branch.indicator
    assert indicator is not None
    assert indicator.now is not None
    assert torch.equal(indicator.now, X)
    assert call.sample is X
    # Behind the first call it is known what of the input the output continues: one of two tokens, say.
    for first, output, expected in ((1, None, X), (3, X.shape, X), (5, torch.Size((1, 1, 4)), X[:, :1])):
        call.branch.output = output
        for index in (first, first + 1):
            later = told(session, index, x=index * X)
            assert later.branch.indicator is indicator
            # What it saw in the evaluation before is not what it sees now.
            assert torch.equal(indicator.now, index * expected)
    front = told(session_on(Toy(), methods.fbcache()), 0).branch.indicator
    assert front is not None
    assert front.now is None


def test_a_share_in_a_budget_hears_of_every_call_of_ours() -> None:
    class Share:
        def __init__(self) -> None:
            self.begun: list[tuple[int, Any, Any]] = []

        def begin(self, index: int, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
            self.begun.append((index, args, kwargs))

    session, share = session_on(Toy(), EVERY_2), Share()
    gate = Gate(session, share, False)
    for index, flag in enumerate((True, False)):
        dcache.step(session.module, index)
        with torch.no_grad():
            gate.admit((X, 4.0), {"flag": flag})
    session.call = Call(session.state.branches["0"], 1, 1.0)
    gate.admit((X, 4.0), {"flag": True})
    assert share.begun == [(0, (X, 4.0), {"flag": True}), (1, (X, 4.0), {"flag": False})]
