"""A first call computed once more: it is remembered anew, and leaves its arguments as they were."""

from __future__ import annotations

from typing import Any

import torch

from dcache import methods
from dcache.engine.observe import Observer, observe
from dcache.engine.repeat import repeat_call
from dcache.engine.session import Session
from tests.engine.tiny_models import OutOfSight, Toy, integers, session_on


class Notes(Toy):
    """Takes a shift out of its arguments, and appends to a list in an object from its second call on."""

    calls = OutOfSight()

    def forward(self, x: torch.Tensor, timestep: Any, extra: dict[str, float], log: Log) -> torch.Tensor:
        self.calls += 1
        if self.calls > 1:
            log.entries.append(self.calls)
        return super().forward(x, timestep) + extra.pop("shift")


class Log:
    def __init__(self) -> None:
        self.entries: list[int] = []


class Counts(Observer):
    seen = 0

    def on_enter(self, site: str, call: Any) -> None:
        self.seen += 1


def remembered(session: Session) -> list[torch.Tensor]:
    return [t for branch in session.state.branches.values() for t in branch.tensors()]


def test_it_is_remembered_on_a_new_branch_and_nothing_else_is_seen_of_it() -> None:
    model = Notes()
    session = session_on(model, methods.interval(interval=2, sites="model", codec="value"))
    observer = Counts()
    kept = ((torch.ones(1, 2, 4), 4.0), {"extra": {"shift": 5.0}, "log": Log()})
    with torch.no_grad(), observe(model, observer):
        call = session.gate.admit(*kept)
        assert call is not None
        call.effects = call.withdraw = None
        session.verified.add(call.branch.signature)
        before = torch.random.get_rng_state()
        model.calls = 1
        repeat_call(session, call, model._call_impl, kept)
    branch = session.state.branches["0"]
    assert branch is not call.branch
    # 8 (1 + 4) + 5.
    assert integers(remembered(session)) == [45.0]
    assert observer.seen == 0
    assert (kept[1]["extra"], kept[1]["log"].entries) == ({"shift": 5.0}, [])
    assert torch.equal(torch.random.get_rng_state(), before)
