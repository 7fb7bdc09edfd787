"""The self-check: a replay of the first computed call finds what was not understood, and changes nothing."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

import dcache
from dcache import DcacheError, DcacheWarning, methods
from dcache.engine.call import Call
from dcache.engine.lowering.blocks import RunRegion
from dcache.engine.selfcheck import drop_dead_leaves, self_check
from dcache.engine.session import Session
from tests.engine.tiny_models import OutOfSight, Toy, integers, session_on, steps

EVERY_2 = methods.interval(interval=2, codec="value")


class Drifting(Toy):
    """Every call gives so much more than the one before, for the same input."""

    calls = OutOfSight()

    def __init__(self, share: float, dtype: torch.dtype = torch.float32) -> None:
        super().__init__()
        self.share = share
        self.to(dtype)

    def forward(self, x: torch.Tensor, timestep: Any) -> torch.Tensor:
        y = super().forward(x, timestep) * (1.0 + self.share * self.calls)
        self.calls += 1
        return y


def one_call(model: nn.Module, dtype: torch.dtype = torch.float32, **more: Any) -> None:
    dcache.step(model, 0)
    with torch.no_grad():
        model(torch.ones(1, 2, 4, dtype=dtype), 4.0, **more)


class CancelledError(Exception):
    """What a user's hook raises once a button was pressed."""


@pytest.mark.parametrize("once", [False, True], ids=["stays", "gone"])
def test_a_call_that_is_cancelled_during_the_replay_is_cancelled_and_nothing_is_given_up(once: bool) -> None:
    """ComfyUI takes a request to cancel back once it was raised."""
    toy, pressed = Toy(), [False]

    def press(*_: Any) -> None:
        pressed[0] = True

    def cancel(*_: Any) -> None:
        if pressed[0]:
            if once:
                pressed[0] = False
                pressing.remove()
            raise CancelledError

    # The first call is computed to its end before the button is pressed, and then replayed.
    pressing = toy.blocks[-1].register_forward_hook(press)
    cancelling = toy.register_forward_pre_hook(cancel)
    session = session_on(toy, EVERY_2)
    with pytest.raises(CancelledError):
        one_call(toy)
    pressing.remove()
    cancelling.remove()
    # Uncached 40 and 24; in between the trunk's last output.
    assert integers(steps(toy, [4, 3, 2, 1])) == [40, 40, 24, 24]
    assert session.method.sites == EVERY_2.sites


# Whether it agrees ----------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("dtype", "codec", "fine", "wrong"),
    [
        (torch.float64, "value", 5e-6, 2e-5),
        (torch.float32, "value", 5e-4, 2e-3),
        (torch.bfloat16, "value", 2e-2, 2e-1),
        # What is stored more coarsely, or computed so inside, may differ by more.
        (torch.float32, "value:float16", 1e-2, 4e-2),
        (torch.float32, "value:int8", 2e-2, 1e-1),
        (torch.float32, "value:fp8", 5e-2, 2e-1),
    ],
)
def test_a_replay_may_differ_by_the_tolerance_of_the_coarsest_dtype(
    dtype: torch.dtype, codec: str, fine: float, wrong: float
) -> None:
    for share, agrees in ((fine, True), (wrong, False)):
        model = Drifting(share, dtype)
        session = session_on(model, methods.interval(interval=2, codec=codec))
        if agrees:
            one_call(model, dtype)
            assert [site.name for site in session.binding.sites] == ["trunk"]
            continue
        match = r"Drifting: a replay with every site predicted .* differs .* \(relative distance \d"
        with pytest.warns(DcacheWarning, match=match):
            one_call(model, dtype)
        assert [site.name for site in session.binding.sites] == ["model"]


def test_so_may_one_whose_output_is_coarser_than_what_is_inside() -> None:
    class Narrow(Drifting):
        def forward(self, x: torch.Tensor, timestep: Any) -> torch.Tensor:
            return super().forward(x, timestep).bfloat16()

    model = Narrow(2e-2)
    session = session_on(model, EVERY_2)
    one_call(model)
    assert [site.name for site in session.binding.sites] == ["trunk"]


def problem_of(session: Session, model: nn.Module, output: torch.Tensor) -> str | None:
    """What is wrong with this output of the call that the session has just computed."""
    branch = session.state.branches["0"]
    call = Call(branch, 0, 0.0)
    return self_check(
        session,
        list(session.binding.storing()),
        call,
        model._call_impl,
        ((torch.ones(1, 2, 4), 4.0), {}),
        output,
    )


def test_it_says_how_far_the_replay_is_from_what_was_computed() -> None:
    toy = Toy()
    session = session_on(toy, EVERY_2)
    (output,) = steps(toy, [4])
    with torch.no_grad():
        assert problem_of(session, toy, output) is None
        # 40 for 50: a fifth.
        assert str(problem_of(session, toy, output + 10)).endswith("computed output (relative distance 0.2)")
        assert "inf" in str(problem_of(session, toy, output[:, :1]))
    assert session.call is None
    assert (session.stats().computed, session.stats().predicted) == (1, 0)


def test_a_replay_that_fails_is_told_and_no_error_of_the_run() -> None:
    ran: list[nn.Module] = []

    class Fails(Toy):
        """Needs what its last block does beside its output."""

        def forward(self, x: torch.Tensor, timestep: Any) -> torch.Tensor:
            ran.clear()
            output = super().forward(x, timestep)
            if not ran:
                raise ZeroDivisionError("a replay")
            return output

    model = Fails()
    model.blocks[-1].register_forward_hook(lambda block, *_: ran.append(block))
    session_on(model, EVERY_2)
    with pytest.warns(
        DcacheWarning, match=r"replay with every site predicted failed \(ZeroDivisionError: a rep"
    ):
        assert integers(steps(model, [4, 3, 2, 1])) == [40, 40, 24, 24]


def test_a_run_that_is_not_left_in_the_replay_is_told() -> None:
    class Skips(Toy):
        calls = OutOfSight()

        def forward(self, x: torch.Tensor, timestep: Any) -> torch.Tensor:
            self.calls += 1
            x = x + timestep
            for block in list(self.blocks)[: 2 if self.calls == 2 else 3]:
                x = block(x)
            return x

    model = Skips()
    session_on(model, EVERY_2)
    with pytest.warns(DcacheWarning, match="Skips: the last block of a run is not called"):
        assert integers(steps(model, [4, 3])) == [40, 40]


def test_an_error_that_is_none_of_the_models_is_raised() -> None:
    class Interrupted(Toy):
        calls = OutOfSight()

        def forward(self, x: torch.Tensor, timestep: Any) -> torch.Tensor:
            self.calls += 1
            if self.calls == 2:
                raise KeyboardInterrupt
            return super().forward(x, timestep)

    model = Interrupted()
    session = session_on(model, EVERY_2)
    with pytest.raises(KeyboardInterrupt):
        steps(model, [4])
    assert session.call is None


# That it changes nothing ----------------------------------------------------------------------------


def test_random_numbers_go_on_as_without_it() -> None:
    class Drawing(Toy):
        def forward(self, x: torch.Tensor, timestep: Any) -> torch.Tensor:
            return super().forward(x, timestep) + torch.rand(()) * 1e-6

    drawn = []
    for cached in (False, True):
        model = Drawing()
        if cached:
            session_on(model, methods.interval(interval=1, codec="value"))
        torch.manual_seed(5)
        with torch.no_grad():
            outputs = [model(torch.ones(1, 2, 4), float(t)) for t in (4, 3, 2)]
        drawn.append([*outputs, torch.rand(3)])
    assert all(torch.equal(a, b) for a, b in zip(*drawn, strict=True))


class Log:
    """An object among the arguments that is appended to."""

    def __init__(self) -> None:
        self.entries: list[float] = []


def test_a_replay_that_writes_where_the_call_did_not_is_undone_and_gives_the_sites_up() -> None:
    class Notices(Toy):
        """Appends when its blocks give what they gave before without having run."""

        def forward(self, x: torch.Tensor, timestep: Any, log: Log) -> torch.Tensor:
            before = self.blocks[0].runs
            y = super().forward(x, timestep)
            if self.blocks[0].runs == before:
                log.entries.append(float(timestep))
            return y

    model, log = Notices(), Log()
    session = session_on(model, EVERY_2)
    with pytest.warns(DcacheWarning, match=r"Notices: a replay .* writes into the call's arguments"):
        assert integers(steps(model, [4, 3, 2, 1], log=log)) == [40, 40, 24, 24]
    assert log.entries == []
    assert [site.name for site in session.binding.sites] == ["model"]


@pytest.mark.parametrize("append_in", ["the first block", "the last block", "the model"])
def test_what_a_call_appends_is_appended_once(append_in: str) -> None:
    class Appends(Toy):
        def forward(self, x: torch.Tensor, timestep: Any, log: Log) -> torch.Tensor:
            if append_in == "the model":
                log.entries.append(float(timestep))
            return super().forward(x, timestep)

    model, log = Appends(), Log()
    block = model.blocks[0 if append_in == "the first block" else 2]
    if append_in != "the model":
        block.register_forward_hook(lambda *_: log.entries.append(float(len(log.entries))))
    session_on(model, methods.dbcache(front=1, back=1, warmup=0, threshold=0.0))
    expected = [4.0, 3.0, 2.0, 1.0] if append_in == "the model" else [0.0, 1.0, 2.0, 3.0]
    assert integers(steps(model, [4, 3, 2, 1], log=log)) == [40, 32, 24, 16]
    assert log.entries == expected


def test_no_block_runs_in_it_and_nothing_is_counted() -> None:
    toy = Toy()
    session = session_on(toy, EVERY_2)
    (output,) = steps(toy, [4])
    assert [block.runs for block in toy.blocks] == [1, 1, 1]
    assert session.state.record.events == {"0": {"trunk": {0: True}}}
    assert integers([output]) == [40]


# Streams that nobody reads --------------------------------------------------------------------------


class Streams(nn.Module):
    """Three streams through two blocks; behind the last one those of `read` are added up."""

    class Block(nn.Module):
        def forward(self, a: Any, b: Any, c: Any) -> tuple[Any, Any, Any]:
            return a * 2, b * 3, c + a.mean()

    def __init__(self, read: str) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([self.Block() for _ in range(2)])
        self.read = read
        self.eval()

    def forward(self, x: torch.Tensor, timestep: Any) -> torch.Tensor:
        streams = {"a": x + timestep, "b": x * 1.0, "c": x * 1.0}
        for block in self.blocks:
            streams = dict(zip("abc", block(*streams.values()), strict=True))
        return sum(streams[name] for name in self.read) + torch.zeros(1, 2, 4)


def region_of(session: Session) -> RunRegion:
    (region,) = session.binding.regions
    assert isinstance(region, RunRegion)
    return region


@pytest.mark.parametrize("read", ["a", "b", "c", "ab", "ac", "abc"])
@pytest.mark.parametrize("codec", ["value", "delta"])
def test_only_the_streams_that_are_read_behind_the_trunk_are_kept(read: str, codec: str) -> None:
    model = Streams(read)
    session = session_on(model, methods.interval(interval=2, codec=codec))
    first, second = steps(model, [4, 3])
    region = region_of(session)
    assert region.live == tuple(name in read for name in "abc")
    (leaves,) = session.state.branches["0"].history("trunk").leaves
    assert [leaf is not None for leaf in leaves] == [name in read for name in "abc"]
    assert session.stats().bytes_now == len(read) * 8 * 4
    # With h = 5: 4 h, 9 and 1 + h + 2 h; the change of a is 3 h, on an entry of 4 now.
    value = {"a": 20.0, "b": 9.0, "c": 16.0}
    assert integers([first]) == [sum(value[name] for name in read)]
    change = {**value, "a": 4.0 + 15.0}
    assert integers([second]) == [sum((change if codec == "delta" else value)[name] for name in read)]


def test_every_replay_is_given_the_arguments_as_they_were() -> None:
    class Pops(Streams):
        def forward(self, x: torch.Tensor, timestep: Any, extra: dict[str, Any]) -> torch.Tensor:
            return super().forward(x, timestep) + extra.pop("shift") + extra["more"].pop()

    model = Pops("a")
    session = session_on(model, EVERY_2)
    extra = {"shift": 5.0, "more": [1.0]}
    one_call(model, extra=extra)
    # Four of them: had one failed, the streams that nobody reads would not have been found.
    assert region_of(session).live == (True, False, False)
    # What the model takes out of them it has taken out once.
    assert extra == {"more": []}


@pytest.mark.parametrize("kind", [KeyboardInterrupt, CancelledError])
def test_a_stream_that_was_left_out_when_the_call_was_cancelled_is_kept_again(
    kind: type[BaseException],
) -> None:
    model, calls = Streams("a"), []

    def cancel(*_: Any) -> None:
        calls.append(1)
        # The call, its replay, and one without the stream that is read.
        if len(calls) == 3:
            raise kind

    cancelling = model.register_forward_pre_hook(cancel)
    session = session_on(model, EVERY_2)
    with pytest.raises(kind):
        one_call(model)
    cancelling.remove()
    assert region_of(session).live is None
    other = Streams("a")
    session_on(other, EVERY_2)
    assert integers(steps(model, [4, 3, 2, 1])) == integers(steps(other, [4, 3, 2, 1]))
    assert region_of(session).live == (True, False, False)


def test_streams_inside_the_trunk_are_all_kept() -> None:
    model = Streams("a")
    session = session_on(model, methods.interval(interval=2, sites="block:0", codec="value"))
    steps(model, [4, 3])
    assert region_of(session).live is None
    assert session.stats().bytes_now == 3 * 8 * 4


def test_what_is_no_tensor_counts_as_read_and_leaves_are_tried_in_their_order() -> None:
    session = session_on(Streams("a"), EVERY_2)
    region = region_of(session)
    x = torch.ones(1, 2, 4)
    branch = session.gate.admit((x, 4.0), {}).branch  # type: ignore[union-attr]
    history = region.history = branch.history("trunk")
    history.push(0, 0.0, (x, None, x, x))
    history.like = tuple((x.shape, x.dtype) for _ in range(4))
    region.dtypes = (torch.float32, None, torch.float32, torch.float32)
    tried: list[tuple[bool, ...] | None] = []

    def agrees() -> bool:
        tried.append(region.live)
        # The last leaf is the only one that is read.
        return bool(region.live and region.live[3])

    drop_dead_leaves([region], agrees)
    assert tried == [(False, True, True, True), (False, True, False, True), (False, True, False, False)]
    assert region.live == (False, True, False, True)
    assert [leaf is None for leaf in history.leaves[-1]] == [True, True, True, False]
    # What a budget counts is what is kept.
    assert [like is None for like in history.like] == [True, False, True, False]
    # Known once, they are not tried again.
    drop_dead_leaves([region], lambda: pytest.fail("asked again"))


def test_one_stream_alone_is_never_in_question() -> None:
    toy, calls = Toy(), []
    toy.register_forward_pre_hook(lambda *_: calls.append(1))
    session = session_on(toy, EVERY_2)
    steps(toy, [4])
    assert len(calls) == 2
    assert region_of(session).live is None


def test_where_the_method_cannot_do_without_its_sites_the_error_says_what_was_found() -> None:
    model = Drifting(0.1)
    session_on(model, methods.fbcache())
    with pytest.raises(DcacheError, match=r"fbcache\(.* looks inside Drifting.*relative distance 0\.1\)"):
        steps(model, [4])
