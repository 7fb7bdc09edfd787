"""One denoiser's share in a budget: what it will hold in closed form, and how it goes down and up again."""

from __future__ import annotations

import warnings
import weakref
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

import dcache
from dcache import DcacheError, DcacheWarning, Method, methods
from dcache.cache.history import Branch, tensors_of
from dcache.engine.budget import Budget
from dcache.engine.call import Call
from dcache.engine.config import SessionConfig
from dcache.engine.degrade import DegradeLevel
from dcache.engine.memory import SessionMemory
from dcache.engine.session import Session
from dcache.identity.run import Run
from dcache.probes import Probe, SinceCompute
from dcache.schedulers import ChangeAbove, guarded
from dcache.sites.blocks import SUBLAYERS
from dcache.util.bytes import bytes_of
from tests.engine.tiny_models import Double, OutOfSight, Toy, integers, session_on, steps, walk

# (1, 2, 64) in float32: two rows of 64, so that int8 has one scale for each.
SIZE, TENSOR = 128, 128 * 4
WIDE = torch.ones(1, 2, 64)
LINE = methods.newton(order=1, interval=3, warmup=2, clock="step", last=False)
FULL = DegradeLevel()


def limited(toy: nn.Module, method: Method, limit: Any = "1GB") -> tuple[Session, SessionMemory]:
    session = session_on(toy, method, max_cache_bytes=limit)
    assert session.memory is not None
    return session, session.memory


def wide(toy: nn.Module, times: list[float], first: int = 0, branch: str | None = None) -> list[float]:
    return integers(steps(toy, times, first, branch, x=WIDE))


def quietly(toy: nn.Module, times: list[float], **more: Any) -> list[float]:
    """The same where it is warned that the method is lowered."""
    with pytest.warns(DcacheWarning, match="lowered to"):
        return wide(toy, times, **more)


# What it will hold ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("method", "anchors"),
    [
        (LINE, 2),
        (methods.newton(order=3, clock="step"), 4),
        (methods.interval(), 1),
        (methods.interval(sites="block"), 3),
        (methods.newton(order=1, clock="step", sites=["block:0", "block:2"]), 4),
        # FoCa reads two anchors and the entry before the newest.
        (methods.foca(sites="trunk"), 3),
        (methods.interval(sites="model"), 1),
    ],
    ids=lambda value: value.describe() if isinstance(value, Method) else str(value),
)
@pytest.mark.parametrize("branches", [1, 2])
def test_full_bytes_are_anchors_times_sites_times_branches_after_one_evaluation(
    method: Method, anchors: int, branches: int
) -> None:
    toy = Toy()
    session, memory = limited(toy, method)
    for branch in range(branches):
        dcache.step(toy, 0, branch=f"{branch}")
        walk(toy, [0.0], WIDE)
    assert memory.full_bytes(FULL) == branches * anchors * TENSOR
    assert memory.bytes_now() == branches * len(session.binding.sites) * TENSOR


def test_full_bytes_at_a_lower_level_are_those_of_fewer_and_narrower_anchors() -> None:
    toy = Toy()
    _, memory = limited(toy, LINE)
    wide(toy, [0.0])
    # float32, bfloat16, int8 with a scale of 4 bytes for each of two rows; order 1, then 0.
    assert memory.lowest == DegradeLevel(precision=2, order=1)
    per_anchor = [TENSOR, SIZE * 2, SIZE + 2 * 4]
    assert [
        memory.full_bytes(DegradeLevel(precision, order)) for precision in range(3) for order in range(2)
    ] == [size * anchors for size in per_anchor for anchors in (2, 1)]
    # Beyond the lowest is the lowest.
    assert memory.full_bytes(DegradeLevel(9, 9)) == SIZE + 8


def test_a_change_indicator_counts_with_what_it_sees_beside_what_it_compares_with() -> None:
    toy = Toy()
    method = replace(methods.interval(), rule=guarded(ChangeAbove(0.5), warmup=1), probe=Probe("input"))
    _, memory = limited(toy, method)
    wide(toy, [0.0])
    # The anchor; then what it compares with, and the tensor of the evaluation under way.
    assert memory.full_bytes(FULL) == TENSOR + 2 * TENSOR


def test_before_the_first_call_there_is_nothing_to_hold() -> None:
    _, memory = limited(Toy(), LINE)
    assert (memory.full_bytes(FULL), memory.bytes_now(), memory.holds) == (0, 0, False)
    assert memory.describe() == memory.describe(requested=True) == LINE.describe()


# What is admitted -----------------------------------------------------------------------------------


def test_an_anchor_is_admitted_while_there_is_room_and_what_it_replaces_counts() -> None:
    session, memory = limited(Toy(), LINE, 3 * TENSOR - 1)
    branch = session.state.branches["0"] = Branch("0", 1)
    call, history = Call(branch, 0, 0.0), branch.history("trunk")
    for expected in (True, True, False):
        assert memory.admits(call, history, [None], [WIDE], None) is expected
    assert memory.short
    # Into the memory of the one that it replaces it fits whatever the limit is.
    history.spare = (torch.empty(1, 2, 64),)
    assert memory.admits(call, history, [None], [WIDE], None)
    history.spare = ()
    # A narrower one may still find room: 2 bytes each.
    assert memory.admits(call, history, [None], [WIDE], torch.bfloat16)
    assert history.like == ((WIDE.shape, torch.float32),)
    # Of a change it is the input's dtype that is stored.
    assert not memory.admits(call, history, [WIDE.double()], [WIDE], None)
    assert history.like == ((WIDE.shape, torch.float64),)


def test_a_probe_is_admitted_with_room_for_what_its_indicator_keeps_beside_it() -> None:
    session, memory = limited(Toy(), LINE, 2 * TENSOR)
    branch = session.state.branches["0"] = Branch("0", 1)
    assert memory.admits_probe(Call(branch, 0, 0.0), WIDE)
    assert branch.refused == 0
    tight = limited(Toy(), LINE, 2 * TENSOR - 1)[1]
    assert not tight.admits_probe(Call(branch, 0, 0.0), WIDE)
    assert branch.refused == TENSOR
    # Once the branch is settled it holds what it will hold.
    branch.settled = True
    assert tight.admits_probe(Call(branch, 1, 1.0), WIDE)


# Going down -----------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("limit", "holds", "says"),
    [
        (2 * TENSOR, 2 * TENSOR, {}),
        (2 * TENSOR - 1, TENSOR, {"order": 0}),
        (TENSOR - 1, SIZE * 2, {"order": 0, "codec": "delta:bfloat16"}),
        (SIZE * 2 - 1, SIZE + 8, {"order": 0, "codec": "delta:int8"}),
    ],
)
def test_first_the_order_goes_then_the_precision(limit: int, holds: int, says: dict[str, Any]) -> None:
    toy = Toy()
    session, memory = limited(toy, LINE, limit)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DcacheWarning)
        wide(toy, [0.0, 1.0, 2.0])
    assert memory.bytes_now() == memory.full_bytes(FULL) == holds
    assert session.method.parameters == {**LINE.parameters, **says}
    assert session.method.predictor.order == says.get("order", 1)
    assert session.method.codec == says.get("codec")
    assert session.requested is LINE
    (region,) = session.binding.storing()
    assert region.codec.name == says.get("codec", "delta")
    assert region.predictor.order == says.get("order", 1)


def test_then_the_sites_at_the_order_and_precision_asked_for() -> None:
    toy = Toy()
    session, memory = limited(toy, methods.interval(sites="block"), SIZE + 8)
    # Three blocks in int8 are 3 * 136 bytes: the trunk in float32 is too much too, and in int8 it is 136.
    with pytest.warns(DcacheWarning, match=r"lowered to interval\(.*sites='auto', codec='delta:int8'\)"):
        assert wide(toy, [0.0, 1.0]) == [8.0, 2.0 + 7.0]
    assert [site.name for site in session.binding.sites] == ["trunk"]
    assert memory.bytes_now() == SIZE + 8
    # What came before says nothing of the sites of now: one computed, one predicted.
    assert (session.stats().computed, session.stats().predicted) == (1, 1)
    assert session.state.record.events == {"0": {"trunk": {0: True, 1: False}}}


def test_on_coarser_sites_order_and_precision_are_given_back() -> None:
    toy = Toy([Double() for _ in range(9)])
    # Nine blocks in int8 at order 0 are 9 * 136 bytes for each branch. Two of them are too much, and two
    # anchors of the trunk in float32 on both are 4 * 512.
    session, memory = limited(toy, replace(LINE, sites=("block",)), 2300)
    quietly(toy, [0.0], branch="a")
    assert (session.method.predictor.order, session.method.codec) == (0, "delta:int8")
    dcache.step(toy, 0, branch="b")
    with pytest.warns(DcacheWarning, match="sites='auto'"):
        walk(toy, [0.0], WIDE)
    assert [site.name for site in session.binding.sites] == ["trunk"]
    assert (session.method.predictor.order, session.method.codec) == (1, None)
    assert memory.full_bytes(FULL) == 4 * TENSOR


def test_from_one_site_there_is_the_whole_model_alone() -> None:
    class Narrow(Toy):
        """Gives a quarter of what its trunk does."""

        def forward(self, x: torch.Tensor, timestep: Any) -> torch.Tensor:
            return super().forward(x, timestep)[..., :16]

    toy = Narrow()
    session, _ = limited(toy, methods.interval(codec="delta:int8"), SIZE)
    with pytest.warns(DcacheWarning, match="sites='model'"):
        # The model's output is remembered as it is: 8.
        assert wide(toy, [0.0, 1.0]) == [8.0, 8.0]
    assert session.method.codec == "value:int8"
    assert session.method.sites == ("model",)


def test_what_is_remembered_goes_down_with_the_method() -> None:
    toy = Toy()
    session, memory = limited(toy, methods.newton(order=2, interval=1, clock="step", warmup=0))
    wide(toy, [0.0, 1.0, 2.0])
    history = session.state.branches["0"].history("trunk")
    memory.degrade(DegradeLevel(order=1))
    assert (history.steps, history.limit, session.state.branches["0"].limit) == ([1, 2], 2, 2)
    memory.degrade(DegradeLevel(precision=1, order=1))
    assert history.steps == [2]
    (leaf,) = tensors_of(history.leaves[0])
    assert (leaf.dtype, float(leaf.flatten()[0])) == (torch.bfloat16, 21.0)
    described = session.method.describe()
    # To go down to where it is changes nothing.
    memory.degrade(FULL)
    assert session.method.describe() == described


@pytest.mark.parametrize(
    "method",
    [
        pytest.param(methods.delta_dit(interval=2, boundary=1), id="a rule that knows its sites"),
        pytest.param(methods.fbcache(), id="a probe"),
        pytest.param(methods.interval(sites="model"), id="the whole model"),
    ],
)
def test_some_methods_have_no_coarser_sites(method: Method) -> None:
    toy = Toy()
    session, memory = limited(toy, method)
    wide(toy, [0.0])
    assert not memory.coarsen()
    assert session.method is method


def test_where_nothing_helps_the_method_that_was_asked_for_comes_back() -> None:
    toy = Toy()
    session, memory = limited(toy, LINE, SIZE)
    with pytest.raises(
        DcacheError, match=rf"max_cache_bytes={SIZE} is too little for {LINE.name}.* 136 bytes"
    ):
        wide(toy, [0.0])
    assert session.method is LINE
    assert memory.bytes_now() == 0


# Coming back ----------------------------------------------------------------------------------------


def test_a_run_of_other_shapes_begins_as_asked_for() -> None:
    toy = Toy()
    session, _ = limited(toy, LINE, 2 * TENSOR - 1)
    assert quietly(toy, [0.0, 1.0, 2.0]) == [8.0, 16.0, 3.0 + 14.0]
    lowered = session.method
    assert lowered.predictor.order == 0
    # Of the same shapes it stays as it is, and says nothing.
    assert wide(toy, [0.0, 1.0, 2.0]) == [8.0, 16.0, 17.0]
    assert session.method is lowered
    # A quarter of the size fits: the line through 7 and 14 adds 21.
    assert integers(steps(toy, [0.0, 1.0, 2.0])) == [8.0, 16.0, 3.0 + 21.0]
    assert session.method is LINE


def test_the_method_stays_as_it_was_lowered_for_the_newest_shapes() -> None:
    toy = Toy()
    session, _ = limited(toy, LINE, 2 * TENSOR - 1)
    quietly(toy, [0.0, 1.0, 2.0])
    longer = torch.ones(1, 4, 64)
    with pytest.warns(DcacheWarning, match="order=0, .*codec='delta:bfloat16'"):
        steps(toy, [0.0, 1.0, 2.0], x=longer)
    lowered = session.method
    assert lowered.codec == "delta:bfloat16"
    steps(toy, [0.0, 1.0, 2.0], x=longer)
    assert session.method is lowered


def test_in_the_middle_of_a_run_other_shapes_change_nothing() -> None:
    toy = Toy()
    session, _ = limited(toy, LINE, 2 * TENSOR - 1)
    quietly(toy, [0.0])
    lowered = session.method
    steps(toy, [1.0], first=1)
    assert session.method is lowered


def test_restored_sites_are_bound_again() -> None:
    toy = Toy()
    session, memory = limited(toy, methods.interval(sites="block"), 2 * TENSOR)
    with pytest.warns(DcacheWarning, match="codec='delta:bfloat16'"):
        wide(toy, [0.0])
    assert memory.coarsen()
    assert [site.name for site in session.binding.sites] == ["trunk"]
    memory.restore()
    assert [site.name for site in session.binding.sites] == ["block:0", "block:1", "block:2"]
    assert session.method is session.requested
    assert not memory.holds


# Computed again -------------------------------------------------------------------------------------


class Seen(Toy):
    """Notes what it is called with."""

    calls = OutOfSight()

    def __init__(self) -> None:
        super().__init__()
        self.calls = []

    def forward(self, x: torch.Tensor, timestep: Any) -> torch.Tensor:
        self.calls.append((float(x.flatten()[0]), float(timestep)))
        return super().forward(x, timestep)


@pytest.mark.parametrize(("limit", "codec"), [(3 * TENSOR - 1, "delta"), (TENSOR + 1, "delta:bfloat16")])
def test_the_first_calls_of_an_evaluation_are_repeated_for_all_branches_and_counted_once(
    limit: int, codec: str
) -> None:
    # Two anchors on each of two branches are too much: the second one's first call finds that out. What a
    # limit of little more than one anchor leaves no room for has to be computed again, for both.
    toy, plain = Toy(), Toy()
    session, memory = limited(toy, LINE, limit)
    lower = methods.newton(order=0, interval=3, warmup=2, clock="step", last=False, codec=codec)
    reference = session_on(plain, lower)
    for index in range(4):
        for branch, factor in (("a", 1.0), ("b", 2.0)):
            outputs = []
            for model in (toy, plain):
                dcache.step(model, index, branch=branch)
                with warnings.catch_warnings():
                    warnings.simplefilter("ignore", DcacheWarning)
                    outputs += walk(model, [float(index)], factor * WIDE)
            assert torch.equal(*outputs)
            assert memory.bytes_now() <= limit
    assert session.stats().reasons == reference.stats().reasons == {"warmup": 4}
    assert session.state.record.events == reference.state.record.events
    assert memory.bytes_now() == reference.stats().bytes_now
    assert all(branch.settled for branch in session.state.branches.values())


def test_what_could_not_be_remembered_is_computed_again_under_the_lowered_method() -> None:
    toy = Seen()
    session, memory = limited(toy, LINE, TENSOR - 1)
    assert quietly(toy, [0.0]) == [8.0]
    # The call; again under bfloat16, to remember it; the replay that checks it.
    assert toy.calls == [(1.0, 0.0)] * 3
    (leaves,) = session.state.branches["0"].history("trunk").leaves
    assert [t.dtype for t in tensors_of(leaves)] == [torch.bfloat16]
    assert memory.bytes_now() == SIZE * 2
    assert session.stats().reasons == {"warmup": 1}


def test_a_repeated_call_has_a_branch_of_its_own() -> None:
    toy = Toy()
    session, memory = limited(toy, LINE)
    assert not memory.repeat_first_calls()
    wide(toy, [0.0])
    before = session.state.branches["0"]
    # The first call of the branch: forgotten, and computed anew on a branch of its own.
    assert memory.repeat_first_calls()
    after = session.state.branches["0"]
    assert after is not before
    assert (list(before.histories), list(after.histories)) == ([], ["trunk"])
    assert session.stats().reasons == {"warmup": 1}


def test_the_repeat_is_given_what_the_call_was_given_and_draws_what_it_drew() -> None:
    class Drawing(Toy):
        """Adds a random number and takes something out of its arguments."""

        def __init__(self) -> None:
            super().__init__()
            self.drawn: list[float] = []

        def forward(self, x: torch.Tensor, timestep: Any, extra: dict[str, float]) -> torch.Tensor:
            self.drawn.append(float(torch.rand(())))
            return super().forward(x, timestep) + extra.pop("shift")

    toy = Drawing()
    limited(toy, LINE, TENSOR - 1)
    torch.manual_seed(3)
    dcache.step(toy, 0)
    with pytest.warns(DcacheWarning, match="lowered"), torch.no_grad():
        output = toy(WIDE, 0.0, extra={"shift": 5.0})
    assert integers([output]) == [13.0]
    after = float(torch.rand(()))
    torch.manual_seed(3)
    # The numbers that follow are those that would have followed the one call.
    assert [float(torch.rand(())), float(torch.rand(()))] == [toy.drawn[0], after]


def test_a_call_that_is_withdrawn_is_no_sign_of_too_little_room() -> None:
    class Writes(Toy):
        def forward(self, x: torch.Tensor, timestep: Any, log: list[float] | None = None) -> torch.Tensor:
            if log is not None:
                log.append(float(timestep))
            return super().forward(x, timestep)

    toy = Writes()
    # Three rows are too many, two are not; nothing may be lowered.
    session, memory = limited(toy, methods.interval(interval=2, sites="model", codec="value"), TENSOR)
    log: list[float] = []
    dcache.step(toy, 0)
    walk(toy, [9.0], torch.ones(1, 3, 64), log=log)
    assert log == [9.0]
    assert not memory.short
    assert memory.bytes_now() == 0
    assert wide(toy, [0.0, 1.0], first=1) == [8.0, 8.0]
    assert session.method is session.requested


def test_once_the_run_is_over_nothing_keeps_its_anchors() -> None:
    toy = Toy()
    session, _ = limited(toy, LINE)
    wide(toy, [0.0, 1.0, 2.0])
    anchors = [weakref.ref(t) for t in session.state.branches["0"].tensors()]
    assert len(anchors) == 2
    session.end_run()
    assert [anchor() for anchor in anchors] == [None, None]


def test_a_denoiser_whose_turn_is_over_can_be_freed_for_others() -> None:
    toy = Toy()
    session, memory = limited(toy, LINE)
    wide(toy, [0.0, 1.0])
    run = session.state.run
    assert run is not None
    memory.free_if_idle(run)
    assert memory.holds
    run.index = 2
    # Another run says nothing of this denoiser's turn.
    memory.free_if_idle(Run(index=9))
    assert memory.holds
    memory.free_if_idle(run)
    assert not memory.holds


# Shared and special ---------------------------------------------------------------------------------


def test_two_denoisers_go_down_together() -> None:
    budget, toys = Budget(3 * TENSOR), [Toy(), Toy()]
    sessions = [session_of_budget(toy, budget) for toy in toys]
    wide(toys[0], [0.0])
    assert sessions[0].method is LINE
    # 2 + 2 anchors are more than three.
    quietly(toys[1], [0.0])
    assert [session.method.predictor.order for session in sessions] == [0, 0]
    assert [bytes_of(t for b in s.state.branches.values() for t in b.tensors()) for s in sessions] == [
        TENSOR,
        TENSOR,
    ]


def session_of_budget(toy: nn.Module, budget: Budget) -> Session:
    return Session(toy, SessionConfig(LINE, budget=budget))


def test_an_indicator_is_made_for_a_repeated_call_too() -> None:
    toy = Toy()
    method = replace(methods.interval(), rule=guarded(ChangeAbove(0.5), warmup=1), probe=Probe("input"))
    session, memory = limited(toy, method)
    wide(toy, [0.0])
    assert memory.repeat_first_calls()
    indicator = session.state.branches["0"].indicator
    assert isinstance(indicator, SinceCompute)
    assert indicator.then is not None
    assert torch.equal(indicator.then, WIDE)


def test_on_the_whole_model_changes_become_values() -> None:
    names = {None: None, "delta": "value", "delta:int8": "value:int8", "value:bfloat16": "value:bfloat16"}
    for codec, expected in names.items():
        assert replace(LINE, codec=codec).for_whole_model().codec == expected


def test_sublayers_that_are_coarsened_become_the_trunk(monkeypatch: pytest.MonkeyPatch) -> None:
    class FeedForward(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.ff = Double()

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return x + self.ff(x)

    monkeypatch.setitem(SUBLAYERS, "tests.FeedForward", {"mlp": ("ff",)})
    toy = Toy([FeedForward() for _ in range(3)])
    session, memory = limited(toy, methods.interval(sites="mlp"))
    wide(toy, [0.0])
    assert memory.full_bytes(FULL) == 3 * TENSOR
    assert memory.coarsen()
    assert [(site.name, site.kind) for site in session.binding.sites] == [("trunk", "trunk")]
    assert session.method.sites == ("auto",)
    assert session.method.parameters["sites"] == "auto"
