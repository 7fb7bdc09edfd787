"""The session: a denoiser's call from end to end, what it gives up, and how it comes off."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from typing import Any

import pytest
import torch
from torch import nn

import dcache
from dcache import DcacheError, DcacheWarning, Schedule, methods
from dcache.engine.call import Call
from dcache.engine.config import SessionConfig
from dcache.engine.observe import Observer, observe
from dcache.engine.session import Session, session_of
from dcache.intercept.module_call import intercepts_of
from tests.engine.tiny_models import BarePipe, Double, Toy, integers, session_on, steps, walk

EVERY_2 = methods.interval(interval=2, codec="delta")
TIMES = [4, 3, 2, 1]
# h = t + 1: 8 h uncached; every second one 7 times the h before more than its own.
PLAIN, CACHED = [40, 32, 24, 16], [40, 39, 24, 23]


def anatomy(module: nn.Module) -> dict[str, set[str]]:
    """The attributes of a module and of everything inside it."""
    return {name: set(vars(inner)) for name, inner in module.named_modules()}


class Hidden(Toy):
    """What the last block leaves beside its output decides the answer, so its sites cannot be predicted."""

    def forward(self, x: torch.Tensor, timestep: Any) -> torch.Tensor:
        self.blocks[-1].runs = 0
        return super().forward(x, timestep) + self.blocks[-1].runs


class Disables(Observer):
    """Takes caching off when a site is left."""

    def __init__(self, module: nn.Module) -> None:
        self.module = module

    def on_leave(self, site: str, call: Call, computed: bool) -> None:
        dcache.disable(self.module)


# Putting it on --------------------------------------------------------------------------------------


def test_a_method_that_does_not_fit_installs_nothing() -> None:
    toy = Toy()
    before = anatomy(toy)
    with pytest.raises(DcacheError, match="block:9"):
        Session(toy, SessionConfig(EVERY_2.with_sites(("block:9",))))
    assert anatomy(toy) == before
    assert session_of(toy) is None


def test_neither_does_one_that_strict_refuses() -> None:
    toy = Toy()
    before = anatomy(toy)
    method = replace(EVERY_2, made_for=("Flux", ""))
    with pytest.raises(DcacheError, match=r"made with model Flux and is used with Toy \(strict=True\)"):
        Session(toy, SessionConfig(method, made_with="the schedule", strict=True))
    assert anatomy(toy) == before
    with pytest.warns(DcacheWarning, match="made with model Flux and is used with Toy"):
        session = Session(toy, SessionConfig(method, made_with="the schedule"))
    assert session_of(toy) is session


def test_it_knows_its_component_and_what_it_has_bound() -> None:
    toy = Toy()
    session = Session(toy, SessionConfig(EVERY_2.with_sites(("block",)), component="transformer"))
    assert (session.component, session.several_sites, session.depth) == ("transformer", True, 3)
    assert not session_on(Toy(), EVERY_2).several_sites
    assert session.requested is session.method
    assert session.stats().method == EVERY_2.describe()


def test_a_warning_is_said_once_a_session() -> None:
    session = session_on(Toy(), EVERY_2)
    for text in ("one", "two"):
        with pytest.warns(DcacheWarning, match=text):
            session.warn(text)
    # Warnings are errors here.
    session.warn("one")


# A call ---------------------------------------------------------------------------------------------


def test_a_call_is_computed_or_predicted_and_counted_as_what_it_was() -> None:
    toy = Toy()
    session = session_on(toy, EVERY_2)
    assert integers(steps(toy, TIMES)) == CACHED
    stats = session.stats()
    assert (stats.computed, stats.predicted) == (2, 2)
    assert stats.seconds_compute > 0
    assert stats.seconds_predict > 0
    assert stats.seconds_inside > 0
    assert session.call is None


def test_an_error_of_the_model_leaves_no_call_under_way() -> None:
    toy = Toy()
    session = session_on(toy, EVERY_2)
    steps(toy, TIMES[:2])
    hook = toy.blocks[1].register_forward_pre_hook(lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        steps(toy, TIMES[2:3], first=2)
    assert session.call is None
    hook.remove()
    assert integers(steps(toy, TIMES[3:], first=3)) == [16]
    assert integers(steps(toy, TIMES)) == CACHED


def test_while_it_rests_calls_pass_through_untouched() -> None:
    toy = Toy()
    session = session_on(toy, EVERY_2)
    steps(toy, TIMES[:1])
    inside: list[Any] = []

    def look(module: nn.Module, args: Any) -> None:
        if len(args) == 2:
            with session.resting():
                inside.append((session.call, module.blocks[0](torch.ones(1)).item()))
            inside.append(session.call is None)

    toy.register_forward_pre_hook(look)
    # The first block, called apart, is neither a part of the run nor predicted.
    assert integers(steps(toy, TIMES[1:2], first=1)) == [39]
    assert inside == [(None, 2.0), False]
    with pytest.raises(ZeroDivisionError), session.resting():
        raise ZeroDivisionError
    assert session.call is None


def test_a_run_that_is_entered_and_not_left_is_an_error() -> None:
    class Stops(Toy):
        whole = True

        def forward(self, x: torch.Tensor, timestep: Any) -> torch.Tensor:
            x = x + timestep
            for block in list(self.blocks)[: 3 if self.whole else 2]:
                x = block(x)
            return x

    toy = Stops()
    session_on(toy, EVERY_2)
    steps(toy, TIMES[:2])
    toy.whole = False
    with pytest.raises(
        DcacheError, match=r"Stops: a run of blocks was entered and its last block never called"
    ):
        steps(toy, TIMES[2:], first=2)


def test_what_was_checked_once_is_not_checked_again() -> None:
    forwards: list[int] = []
    toy = Toy()
    toy.register_forward_pre_hook(lambda *_: forwards.append(1))
    session = session_on(toy, EVERY_2)
    steps(toy, TIMES)
    # Four evaluations and the replay that checks the first.
    assert len(forwards) == 5
    assert len(session.verified) == 1
    steps(toy, TIMES)
    assert len(forwards) == 9
    # Calls of another shape are checked for themselves.
    steps(toy, TIMES, x=torch.ones(1, 5, 4))
    assert len(forwards) == 14
    assert len(session.verified) == 2


# Giving up ------------------------------------------------------------------------------------------


def test_sites_that_cannot_be_predicted_are_given_up_for_the_model() -> None:
    toy = Hidden()
    session = session_on(toy, replace(EVERY_2, codec="delta:float16"))
    with pytest.warns(DcacheWarning, match=r"Hidden: .*; the whole model is remembered instead") as said:
        # What was computed for the trunk is the whole model's first anchor.
        assert integers(steps(toy, TIMES)) == [41, 41, 25, 25]
    assert len(said) == 1
    assert [site.name for site in session.binding.sites] == ["model"]
    assert session.method.codec == "value:float16"
    assert session.requested.codec == "delta:float16"
    # Later runs are the same, and say nothing.
    assert integers(steps(toy, TIMES)) == [41, 41, 25, 25]


def test_to_fall_back_forgets_what_was_remembered_of_the_sites() -> None:
    toy = Toy()
    session = session_on(toy, EVERY_2)
    steps(toy, TIMES[:1])
    with pytest.warns(DcacheWarning, match=r"Toy: it is made of glass; the whole model is remembered"):
        session.fall_back("it is made of glass")
    assert (session.state.branches, session.verified) == ({}, set())
    assert session.state.run is not None
    assert integers(steps(toy, TIMES[1:], first=1)) == [32, 32, 16]


@pytest.mark.parametrize(
    "method",
    [
        pytest.param(methods.fbcache(), id="a probe"),
        pytest.param(Schedule.of_steps([0, 2], 4), id="sites by name"),
    ],
)
def test_a_method_that_looks_inside_comes_off_with_an_error(method: Any) -> None:
    toy = Toy()
    before = anatomy(toy)
    session = session_on(toy, method)
    steps(toy, TIMES[:1])
    described = session.method.describe()
    with pytest.raises(DcacheError) as error:
        session.fall_back("it is made of glass")
    assert str(error.value).startswith(
        f"{described} looks inside Toy, and that does not work there: it is made"
    )
    assert session.removed
    assert (session.state.run, session.state.branches) == (None, {})
    assert anatomy(toy) == before
    assert integers(walk(toy, TIMES)) == PLAIN


# Noticing -------------------------------------------------------------------------------------------


def test_a_block_that_was_compiled_since_is_cached_again_from_the_next_run_on() -> None:
    toy = Toy()
    session = session_on(toy, EVERY_2)
    assert integers(steps(toy, TIMES)) == CACHED
    toy.blocks[0].compile(backend="eager")
    assert any(intercept.displaced for intercept in session.binding.intercepts)
    session.verify()
    assert not any(intercept.displaced for intercept in session.binding.intercepts)
    assert integers(steps(toy, TIMES)) == CACHED
    torch.compiler.reset()


def test_a_model_that_was_compiled_whole_since_is_refused() -> None:
    toy = Toy()
    session = session_on(toy, EVERY_2)
    with pytest.raises(DcacheError, match="Toy is compiled as a whole"):
        toy.compile(backend="eager")
    # Past the method that refuses it.
    nn.Module.compile(toy, backend="eager")
    with pytest.raises(DcacheError, match="Toy is compiled as a whole"):
        session.verify()
    torch.compiler.reset()


def test_a_block_that_was_replaced_or_added_is_bound() -> None:
    toy = Toy()
    session = session_on(toy, EVERY_2)
    bound = session.binding
    session.verify()
    assert session.binding is bound
    toy.blocks[1] = Double(3.0)
    session.verify()
    assert session.binding is not bound
    # 12 h, and 11 of the h before more than its own.
    assert integers(steps(toy, TIMES)) == [60, 4 + 55, 36, 2 + 33]
    toy.blocks.append(Double())
    session.verify()
    assert integers(steps(toy, TIMES)) == [120, 4 + 115, 72, 2 + 69]


def test_another_cache_is_noticed() -> None:
    toy = Toy()
    session = session_on(toy, EVERY_2)
    toy._is_cached = True
    with pytest.raises(DcacheError, match="another cache is already enabled on Toy"):
        session.verify()


# Coming off -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("ran", [0, 2, 4])
def test_once_removed_the_module_is_what_it_was(ran: int) -> None:
    toy = Toy()
    before = anatomy(toy)
    session = session_on(toy, EVERY_2)
    steps(toy, TIMES[:ran])
    session.remove()
    assert anatomy(toy) == before
    assert session_of(toy) is None
    assert session.removed
    assert session.state.run is None
    assert integers(walk(toy, TIMES)) == PLAIN


@pytest.fixture
def no_collector() -> Iterator[None]:
    gc.collect()
    gc.disable()
    yield
    gc.enable()


@contextmanager
def disabling(toy: Toy, where: str) -> Iterator[None]:
    """Whoever is called inside takes caching off: a block's hook, or an observer of the sites."""
    if where == "observer":
        with observe(toy, Disables(toy)):
            yield
        return
    hook = toy.blocks[1].register_forward_hook(lambda *_: dcache.disable(toy) and None)
    try:
        yield
    finally:
        hook.remove()


@pytest.mark.parametrize(
    ("at", "where"), [(0, "block"), (2, "block"), *[(at, "observer") for at in range(4)]]
)
@pytest.mark.parametrize("limit", [None, "1GB"])
@pytest.mark.parametrize("sites", ["trunk", "block", "model"])
@pytest.mark.usefixtures("no_collector")
def test_in_its_own_call_it_comes_off_and_the_call_ends_as_it_began(
    sites: str, limit: str | None, at: int, where: str
) -> None:
    toy = Toy()
    before = anatomy(toy)
    method = methods.interval(interval=2, sites=sites, codec="value")
    session = weakref.ref(session_on(toy, method, max_cache_bytes=limit))
    outputs: list[torch.Tensor] = []
    for i, t in enumerate(TIMES[: at + 1]):
        dcache.step(toy, i, steps=4)
        with disabling(toy, where) if i == at else nullcontext():
            outputs += walk(toy, [t])
    assert integers(outputs) == [40, 40, 24, 24][: at + 1]
    assert session_of(toy) is None
    assert anatomy(toy) == before
    assert session() is None
    assert integers(walk(toy, TIMES)) == PLAIN


def test_what_comes_off_in_its_first_call_checks_and_repeats_nothing() -> None:
    toy, forwards = Toy(), []
    toy.register_forward_pre_hook(lambda *_: forwards.append(1))
    # Less than one anchor: for the first block's the call would have to be repeated.
    session_on(toy, EVERY_2.with_sites(("block",)), max_cache_bytes=8)
    dcache.step(toy, 0, steps=4)
    with disabling(toy, "block"):
        assert integers(walk(toy, TIMES[:1])) == [40]
    assert len(forwards) == 1


def test_between_blocks_that_are_predicted_it_cannot_come_off_without_an_error() -> None:
    class Glued(Toy):
        """Something is called between the blocks."""

        def __init__(self) -> None:
            super().__init__()
            self.glue = nn.Identity()

        def forward(self, x: torch.Tensor, timestep: Any) -> torch.Tensor:
            first, *rest = self.blocks
            x = self.glue(first(x + timestep))
            for block in rest:
                x = block(x)
            return x

    toy = Glued()
    session_on(toy, EVERY_2)
    for i, t in enumerate(TIMES[:2]):
        dcache.step(toy, i, steps=4)
        if i == 1:
            toy.glue.register_forward_hook(lambda *_: dcache.disable(toy) and None)
            with pytest.raises(DcacheError, match="entered and its last block never called"):
                walk(toy, [t])
        else:
            walk(toy, [t])
    assert session_of(toy) is None
    assert integers(walk(toy, TIMES)) == PLAIN


@pytest.mark.usefixtures("no_collector")
def test_what_was_removed_is_freed_without_the_collector() -> None:
    toy = Toy()
    session = session_on(toy, EVERY_2, max_cache_bytes="1GB")
    steps(toy, TIMES)
    dcache.disable(toy)
    ref = weakref.ref(session)
    del session
    assert ref() is None


def test_what_was_counted_outlives_a_method_that_was_enabled_meanwhile() -> None:
    toy = Toy()
    dcache.enable(toy, EVERY_2)
    steps(toy, TIMES)
    before, trace = dcache.stats(toy), dcache.trace(toy)
    with dcache.enabled(toy, methods.interval(interval=4, codec="delta")):
        steps(toy, TIMES)
        assert dcache.stats(toy).predicted == 3
    # The loop's run is over: it holds nothing any more.
    assert dcache.stats(toy) == replace(before, bytes_now=0)
    assert dcache.trace(toy) == trace
    # Nor is anything said twice.
    x = torch.ones(1, 2, 4, requires_grad=True)
    with pytest.warns(DcacheWarning, match="gradients are being recorded"):
        toy(x, 4.0)
    with dcache.enabled(toy, "interval"):
        pass
    toy(x, 4.0)


# One inside another ---------------------------------------------------------------------------------


class Outer(nn.Module):
    """A denoiser that contains a denoiser: 8 (t + 1) + t."""

    def __init__(self) -> None:
        super().__init__()
        self.core = Toy()
        self.eval()

    def forward(self, x: torch.Tensor, timestep: Any) -> torch.Tensor:
        return self.core(x, timestep) + timestep


def both(outer: Outer, times: list[int]) -> list[float]:
    """A loop that tells both of them the evaluation."""
    outputs = []
    for i, t in enumerate(times):
        dcache.step(outer, i)
        dcache.step(outer.core, i)
        outputs += walk(outer, [t])
    return integers(outputs)


SIX = [6, 5, 4, 3, 2, 1]
EVERY_3 = methods.interval(interval=3, codec="value")


def rows(session: Session) -> dict[str, dict[int, bool]]:
    return session.state.record.events["0"]


def test_a_denoiser_in_a_denoiser_is_called_where_the_outer_one_computes() -> None:
    outer = Outer()
    inner = session_on(outer.core, methods.interval(interval=2, codec="value"))
    session = session_on(outer, EVERY_3.with_sites(("model",)))
    # Evaluation 3 is computed by the outer one, of which the inner one predicts what it gave in 0: 56.
    assert both(outer, SIX) == [56 + 6, 62, 62, 56 + 3, 59, 59]
    assert rows(session) == {"model": {0: True, 1: False, 2: False, 3: True, 4: False, 5: False}}
    assert rows(inner) == {"trunk": {0: True, 3: False}}
    assert (session.stats().computed, session.stats().predicted) == (2, 4)
    assert (inner.stats().computed, inner.stats().predicted) == (1, 1)


def test_on_the_same_blocks_their_intercepts_are_chained_and_both_count() -> None:
    outer = Outer()
    inner = session_on(outer.core, methods.interval(interval=2, codec="value"))
    # The inner one has checked itself before.
    steps(outer.core, TIMES)
    session = session_on(outer, EVERY_3)
    first = intercepts_of(outer.core.blocks[0])
    assert [link.region.engine for link in first] == [session, inner]  # type: ignore[attr-defined]
    # The trunk gave 56 in evaluation 0; in 3 the outer one computes and the inner one predicts the same.
    assert both(outer, SIX) == [56 + t for t in SIX]
    assert rows(session) == {"trunk": {0: True, 1: False, 2: False, 3: True, 4: False, 5: False}}
    assert rows(inner) == {"trunk": {0: True, 3: False}}
    # Each comes off alone.
    dcache.disable(outer.core)
    assert intercepts_of(outer.core.blocks[0]) == first[:1]
    assert both_plain(outer, session) == [62, 61, 60, 8 * 4 + 3, 34, 33]
    dcache.disable(outer)
    assert intercepts_of(outer.core.blocks[0]) == []
    assert integers(walk(outer, SIX)) == [8 * (t + 1) + t for t in SIX]


def both_plain(outer: Outer, session: Session) -> list[float]:
    """A loop that tells the outer one alone."""
    assert session_of(outer) is session
    return integers(steps(outer, SIX))


def test_where_the_inner_one_checks_itself_inside_the_outer_one_gives_up_its_sites_aloud() -> None:
    outer = Outer()
    inner = session_on(outer.core, methods.interval(interval=2, codec="value"))
    session = session_on(outer, EVERY_3)
    with pytest.warns(DcacheWarning, match=r"Outer: the blocks of trunk are not called once each"):
        # Evaluation 3 is computed by the outer one, of which the inner one predicts what it gave in 0: 56.
        assert both(outer, SIX) == [62, 62, 62, 56 + 3, 59, 59]
    assert [site.name for site in session.binding.sites] == ["model"]
    assert rows(inner) == {"trunk": {0: True, 3: False}}


# Pipelines ------------------------------------------------------------------------------------------


def test_the_guidance_scale_is_that_of_the_first_pipeline_that_keeps_one() -> None:
    pipe = BarePipe(Toy())
    dcache.enable(pipe, EVERY_2)
    session = session_of(pipe.denoiser)
    assert session is not None
    assert session.guidance is None
    pipe._guidance_scale = 3.5
    assert session.guidance == 3.5
    assert session_on(Toy(), EVERY_2).guidance is None
