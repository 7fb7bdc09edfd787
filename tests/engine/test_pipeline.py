"""What is watched of a pipeline: its call, its guiders, denoisers that are swapped or shared, and its end."""

from __future__ import annotations

import copy
import gc
import weakref
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

import dcache
from dcache import DcacheError, methods
from dcache.engine.pipeline import PipelineIntercept, sessions_of, watch_of
from dcache.engine.session import Session, session_of
from dcache.identity.sampler import tap_of
from dcache.intercept.method import MethodIntercept
from tests.engine.tiny_models import BarePipe, Countdown, Double, Toy, ToyPipe, session_on, steps, walk

EVERY_2 = methods.interval(interval=2, codec="delta")
# 8 (t + 1) at t = 4 to 1; every second one predicted from the change before.
PLAIN, CACHED = [40, 32, 24, 16], [40, 39, 24, 23]


def on(pipe: Any, method: Any = EVERY_2) -> tuple[PipelineIntercept, Session]:
    """Enable a method on a pipeline; its watch, and the session of its one denoiser."""
    dcache.enable(pipe, method)
    watch = watch_of(pipe)
    assert watch is not None
    (session,) = watch.sessions
    return watch, session


def owned_by(session: Session) -> list[Any]:
    """The pipelines that a session's denoiser is part of."""
    return [owner.pipe() for owner in session.owners]


def anatomy(pipe: Any) -> list[set[str]]:
    """The attributes of a pipeline, its sampler and its modules."""
    things = [pipe, pipe.scheduler, *pipe.denoiser.modules()]
    return [set(vars(thing)) for thing in things]


class Triple(Toy):
    """Three blocks that triple: 27 h."""

    def __init__(self) -> None:
        super().__init__([Double(3.0) for _ in range(3)])


# 27 h computed; h + 26 of the h before predicted.
OTHERS = [135, 4 + 130, 81, 2 + 78]


# The watch ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("ran", [False, True])
@pytest.mark.parametrize("kind", [ToyPipe, BarePipe])
def test_taken_off_it_leaves_nothing_behind(kind: type[BarePipe], ran: bool) -> None:
    pipe = kind(Toy())
    before = anatomy(pipe)
    dcache.enable(pipe, EVERY_2)
    assert isinstance(vars(pipe.scheduler)["step"], MethodIntercept)
    if ran:
        assert pipe(4) == CACHED
    dcache.disable(pipe)
    assert anatomy(pipe) == before
    assert (watch_of(pipe), tap_of(pipe.scheduler), session_of(pipe.denoiser)) == (None, None, None)
    assert pipe(4) == PLAIN


def test_the_methods_that_begin_and_end_a_call_are_tapped_and_still_do_what_they_did() -> None:
    pipe = ToyPipe(Toy())
    watch, session = on(pipe)
    assert {name for name, value in vars(pipe).items() if isinstance(value, MethodIntercept)} == {
        "progress_bar",
        "maybe_free_model_hooks",
    }
    assert pipe(4) == CACHED
    assert (pipe.begun, pipe.freed) == (1, 1)
    (owner,) = session.owners
    assert (owner.ends_itself, owner.pipe()) == (True, pipe)
    assert watch.pipe() is pipe


def test_a_pipeline_without_them_is_cached_all_the_same() -> None:
    pipe = BarePipe(Toy())
    dcache.enable(pipe, EVERY_2)
    assert not any(isinstance(value, MethodIntercept) for value in vars(pipe).values())
    for _ in range(2):
        assert pipe(4) == CACHED
        assert (dcache.stats(pipe).computed, dcache.stats(pipe).predicted) == (2, 2)
    (session,) = sessions_of(pipe).values()
    (owner,) = session.owners
    assert not owner.ends_itself
    assert session.state.run is None
    # Enabled again it is another method's.
    dcache.enable(pipe, methods.interval(interval=4, codec="delta"))
    assert pipe(4) == [40, 39, 38, 37]


@pytest.mark.parametrize("missing", ["progress_bar", "maybe_free_model_hooks"])
def test_one_of_the_two_is_enough_to_find_the_watch(missing: str) -> None:
    kept = {"progress_bar", "maybe_free_model_hooks"} - {missing}
    kind = type("Partly", (BarePipe,), {name: lambda self: None for name in kept})
    pipe = kind(Toy())
    _, session = on(pipe)
    assert session.owners[0].ends_itself is (missing == "progress_bar")
    assert pipe(4) == CACHED
    dcache.disable(pipe)
    assert watch_of(pipe) is None


def test_a_watch_does_not_keep_its_pipeline_alive() -> None:
    pipe = ToyPipe(Toy())
    watch, session = on(pipe)
    assert pipe(4) == CACHED
    denoiser, ref = pipe.denoiser, weakref.ref(pipe)
    del pipe
    gc.collect()
    assert ref() is None
    assert watch.pipe() is None
    (owner,) = session.owners
    assert (owner.pipe(), owner.ends_itself, owner.guidance) == (None, False, None)
    # The denoiser is cached in any loop.
    assert session_of(denoiser) is session
    assert [float(y[0, 0, 0]) for y in steps(denoiser, [4, 3, 2, 1])] == CACHED
    session.remove()


def test_the_end_of_the_call_ends_the_run_and_the_samplers() -> None:
    pipe = ToyPipe(Toy())
    watch, session = on(pipe)
    tap = tap_of(pipe.scheduler)
    assert tap is not None
    pipe.scheduler.set_timesteps(4)
    walk(pipe.denoiser, [4.0])
    assert session.state.run is tap.run is not None
    pipe.maybe_free_model_hooks()
    assert session.state.run is tap.run is None
    assert watch.live() == [session]


def test_a_copy_is_watched_by_nobody() -> None:
    pipe = ToyPipe(Toy())
    watch, _ = on(pipe)
    assert pipe(4) == CACHED
    shallow, deep = copy.copy(pipe), copy.deepcopy(pipe)
    assert watch_of(pipe) is watch
    assert watch_of(shallow) is watch_of(deep) is None
    assert session_of(deep.denoiser) is None
    assert deep(4) == PLAIN
    # What a shallow copy has in common with it is cached, and the original's run is its own.
    assert pipe(4) == CACHED
    assert session_of(pipe.denoiser) is not None


def test_the_guidance_scale_is_what_the_pipeline_keeps() -> None:
    pipe = ToyPipe(Toy())
    _, session = on(pipe)
    assert session.owners[0].guidance is None
    pipe._guidance_scale = 3
    assert session.owners[0].guidance == session.guidance == 3.0


# Whose sessions -------------------------------------------------------------------------------------


def test_sessions_are_found_by_component_or_on_the_module() -> None:
    pipe = ToyPipe(Toy(), Triple())
    assert sessions_of(pipe) == {}
    dcache.enable(pipe, EVERY_2)
    assert list(sessions_of(pipe)) == ["denoiser", "denoiser_1"]
    first = session_of(pipe.denoiser)
    assert sessions_of(pipe.denoiser) == {"denoiser": first}
    toy = Toy()
    assert sessions_of(toy) == {}
    assert list(sessions_of(dcache.enable(toy, EVERY_2))) == [""]
    with pytest.raises(DcacheError, match="expected a diffusers pipeline or a torch module, got int"):
        sessions_of(3)


def test_a_pipeline_that_shares_a_denoiser_finds_its_session() -> None:
    pipe = ToyPipe(Toy())
    _, session = on(pipe)
    other = ToyPipe(pipe.denoiser)
    assert watch_of(other) is None
    assert sessions_of(other) == {"denoiser": session}
    assert other(4) == CACHED
    # Its sampler was found in the loop.
    assert tap_of(other.scheduler) is session.tracker.guest.intercept is not None


def test_a_watch_knows_what_was_enabled_elsewhere_on_its_denoiser() -> None:
    pipe = ToyPipe(Toy())
    watch, session = on(pipe)
    other = ToyPipe(pipe.denoiser)
    dcache.enable(other, methods.interval(interval=4, codec="delta"))
    (live,) = watch.live()
    assert live is not session
    assert owned_by(live) == [other]
    # Its own next call joins: then both samplers tell its runs.
    assert pipe(4) == [40, 39, 38, 37]
    assert owned_by(live) == [other, pipe]
    assert other(4) == [40, 39, 38, 37]
    assert len(live.owners) == 2
    dcache.disable(pipe)
    assert watch.sessions == []


# Denoisers that are swapped -------------------------------------------------------------------------


@pytest.mark.parametrize("kind", [ToyPipe, BarePipe])
def test_a_replaced_denoiser_is_followed_from_the_next_run_on(kind: type[BarePipe]) -> None:
    pipe = kind(Toy())
    before = anatomy(pipe)
    dcache.enable(pipe, EVERY_2)
    assert pipe(4) == CACHED
    old = pipe.denoiser
    pipe.denoiser = Triple()
    for _ in range(2):
        assert pipe(4) == OTHERS
        assert (dcache.stats(pipe).computed, dcache.stats(pipe).predicted) == (2, 2)
    assert session_of(old) is None
    assert [set(vars(module)) for module in old.modules()] == before[2:]
    (session,) = sessions_of(pipe).values()
    assert (session.component, session.module) == ("denoiser", pipe.denoiser)
    dcache.disable(pipe)
    assert anatomy(pipe) == before


def test_so_is_one_whose_sampler_was_replaced_as_well() -> None:
    pipe = ToyPipe(Toy())
    on(pipe)
    assert pipe(4) == CACHED
    sampler = pipe.scheduler
    pipe.denoiser, pipe.scheduler = Triple(), Countdown()
    assert pipe(4) == OTHERS
    assert dcache.stats(pipe).predicted == 2
    assert tap_of(sampler) is None
    assert tap_of(pipe.scheduler) is not None


def test_one_that_another_pipeline_keeps_stays_cached_there() -> None:
    pipe, other = ToyPipe(Toy()), ToyPipe(Toy())
    other.denoiser = pipe.denoiser
    on(pipe)
    watch, session = on(other)
    assert pipe(4) == CACHED
    assert len(session.owners) == 2
    pipe.denoiser = Triple()
    assert pipe(4) == OTHERS
    assert watch.sessions == [session]
    assert owned_by(session) == [other]
    assert not session.removed
    # What is counted, and taken off, is each pipeline's own.
    assert sessions_of(pipe) == {"denoiser": session_of(pipe.denoiser)}
    assert sessions_of(other) == {"denoiser": session}
    dcache.disable(pipe)
    assert pipe(4) == [27 * (t + 1) for t in (4, 3, 2, 1)]
    assert other(4) == CACHED


def test_one_that_is_cached_already_brings_its_own_method() -> None:
    pipe, other = ToyPipe(Toy()), ToyPipe(Triple())
    watch, session = on(pipe)
    _, new = on(other, methods.interval(interval=4, codec="delta"))
    pipe.denoiser = other.denoiser
    # 26 of h = 5 more than h.
    assert pipe(4) == [135, 134, 133, 132]
    assert watch.sessions == [new]
    assert session.removed
    assert owned_by(new) == [other, pipe]


def test_one_that_is_compiled_or_has_another_cache_or_lacks_the_sites_is_refused() -> None:
    compiled, cached, short = Triple(), Triple(), Toy([Double()])
    compiled.compile(backend="eager")
    cached._is_cached = True
    for new, message in (
        (compiled, "Triple is compiled as a whole"),
        (cached, "another cache is already enabled on Triple"),
        (short, "'run:0-2' is out of range: Toy has blocks 0 to 0"),
    ):
        pipe = ToyPipe(Toy())
        on(pipe, EVERY_2.with_sites(("run:0-2",)))
        old = pipe.denoiser
        pipe.denoiser = new
        for _ in range(2):
            with pytest.raises(DcacheError, match=message):
                pipe(4)
        # The old one is as it was: back in its place it is cached.
        pipe.denoiser = old
        assert pipe(4) == CACHED
    torch.compiler.reset()


class Wrapper(nn.Module):
    """What an adapter puts around a denoiser; its blocks are the same."""

    def __init__(self, base: nn.Module, blocks: bool = True) -> None:
        super().__init__()
        self.base = base
        self.blocks = base.blocks if blocks else nn.ModuleList([Double()])
        self.eval()

    def forward(self, x: torch.Tensor, timestep: Any) -> torch.Tensor:
        return self.base(x, timestep) + 1000


def test_one_that_was_wrapped_takes_the_blocks_along_and_gives_them_back() -> None:
    pipe = ToyPipe(Toy())
    on(pipe)
    assert pipe(4) == CACHED
    bare = pipe.denoiser
    pipe.denoiser = Wrapper(bare)
    assert pipe(4) == [1000 + y for y in CACHED]
    assert session_of(bare) is None
    pipe.denoiser = bare
    assert pipe(4) == CACHED
    dcache.disable(pipe)
    assert pipe(4) == PLAIN


def test_a_wrapper_that_does_not_fit_leaves_the_old_binding_in_place() -> None:
    pipe = ToyPipe(Toy())
    _, session = on(pipe, EVERY_2.with_sites(("run:0-2",)))
    bare = pipe.denoiser
    pipe.denoiser = Wrapper(bare, blocks=False)
    with pytest.raises(DcacheError, match="'run:0-2' is out of range"):
        pipe(4)
    assert session_of(bare) is session
    pipe.denoiser = bare
    assert pipe(4) == CACHED


def test_a_swap_by_the_pipelines_own_method_is_followed_at_once() -> None:
    class Modular(BarePipe):
        def register_components(self, **parts: Any) -> None:
            for name, part in parts.items():
                setattr(self, name, part)

    pipe = Modular(Toy())
    watch, session = on(pipe)
    new = Triple()
    pipe.register_components(denoiser=new)
    assert session.removed
    (followed,) = watch.live()
    assert followed is session_of(new) is not None
    assert pipe(4) == OTHERS


# Guiders --------------------------------------------------------------------------------------------


class Guider:
    """Makes one batch for each condition, and says before each call whose turn it is."""

    _identifier_key = "__guidance_identifier__"

    def __init__(self, *conditions: str) -> None:
        self.conditions = conditions
        self.made = 0

    def prepare_inputs(self, inputs: Any) -> list[Any]:
        self.made += 1
        return [SimpleNamespace(**{self._identifier_key: name}) for name in self.conditions]

    def prepare_models(self, denoiser: nn.Module) -> None:
        pass

    def cleanup_models(self, denoiser: nn.Module) -> None:
        pass


class Guided(ToyPipe):
    """Calls its denoiser once for each of its guider's conditions, in an order of its own."""

    def __init__(self, denoiser: nn.Module, guider: Guider) -> None:
        super().__init__(denoiser)
        self.guider = guider

    @property
    def components(self) -> dict[str, Any]:
        return {"denoiser": self.denoiser, "scheduler": self.scheduler, "guider": self.guider}

    def __call__(self, steps: int = 4, at_step: Any = None) -> list[float]:
        x, outputs = torch.ones(1, 2, 4), []
        self.scheduler.set_timesteps(steps)
        self.begin()
        for t in self.scheduler.timesteps:
            for i, _ in enumerate(self.guider.prepare_inputs(None)):
                self.guider.prepare_models(self.denoiser)
                (y,) = walk(self.denoiser, [t], (i + 1) * x)
                self.guider.cleanup_models(self.denoiser)
                outputs.append(float(y[0, 0, 0]))
            self.scheduler.step(y, t, x)
        self.end()
        return outputs


def test_a_guider_names_the_branches() -> None:
    pipe = Guided(Toy(), Guider("cond", "uncond"))
    _, session = on(pipe)
    names: list[set[str]] = []
    pipe.denoiser.register_forward_pre_hook(lambda *_: names.append(set(session.state.branches)))
    # h = t + 1 and t + 2.
    assert pipe() == [40, 48, 39, 4 + 1 + 42, 24, 32, 23, 2 + 1 + 28]
    assert names[-1] == {"cond", "uncond"}
    assert session.context is None
    assert pipe.guider.made == 4
    dcache.disable(pipe)
    assert not {"prepare_inputs", "prepare_models", "cleanup_models"} & set(vars(pipe.guider))


def test_another_guider_is_followed() -> None:
    pipe = Guided(Toy(), Guider("cond", "uncond"))
    _, session = on(pipe)
    pipe()
    old, pipe.guider = pipe.guider, Guider("cond", "skip", "uncond")
    pipe()
    assert list(dcache.trace(pipe).components["denoiser"].rows) == ["*"]
    assert session.state.record.events.keys() == {"cond", "skip", "uncond"}
    assert "prepare_models" not in vars(old)
    dcache.disable(pipe)
    assert "prepare_models" not in vars(pipe.guider)


def test_a_denoiser_without_caching_is_guided_as_before() -> None:
    pipe = Guided(Toy(), Guider("cond", "uncond"))
    plain = pipe()
    watch, _ = on(pipe)
    guided = pipe.guider
    guided.prepare_inputs(None)
    guided.prepare_models(Triple())
    guided.cleanup_models(denoiser=Triple())
    watch.remove()
    dcache.disable(pipe)
    assert pipe() == plain


# Denoisers that only a run shows --------------------------------------------------------------------


class Nameless(nn.Module):
    """A denoiser whose timestep is called r."""

    def __init__(self) -> None:
        super().__init__()
        self.blocks = nn.ModuleList([Double() for _ in range(3)])
        self.eval()

    def forward(self, x: torch.Tensor, r: Any) -> torch.Tensor:
        x = x + r
        for block in self.blocks:
            x = block(x)
        return x


def test_the_watch_has_the_scout_until_a_run_has_shown_the_denoiser() -> None:
    pipe = ToyPipe(Nameless())
    before = anatomy(pipe)
    dcache.enable(pipe, EVERY_2)
    watch = watch_of(pipe)
    assert watch is not None
    assert watch.scout is not None
    # The first evaluation goes by, the second is computed, and from there every second.
    assert pipe(4) == [40, 32, 2 + 1 + 28, 16]
    assert watch.scout is None
    assert sessions_of(pipe) == {"denoiser": session_of(pipe.denoiser)}
    assert pipe(4) == [40, 32, 2 + 1 + 28, 16]
    dcache.disable(pipe)
    assert anatomy(pipe) == before


def test_a_watch_that_is_taken_off_takes_its_scout_along() -> None:
    pipe = ToyPipe(Nameless())
    before = anatomy(pipe)
    dcache.enable(pipe, EVERY_2)
    dcache.disable(pipe)
    assert anatomy(pipe) == before
    # What was looking for denoisers is looking again afterwards.
    dcache.enable(pipe, EVERY_2)
    with dcache.enabled(pipe, methods.interval(interval=4, codec="delta")):
        pass
    watch = watch_of(pipe)
    assert watch is not None
    assert watch.scout is not None
    assert pipe(4) == [40, 32, 31, 16]


def test_a_session_beside_a_pipeline_stays_when_that_is_disabled() -> None:
    pipe, toy = ToyPipe(Toy()), Toy()
    beside = session_on(toy, EVERY_2)
    on(pipe)
    dcache.disable(pipe)
    assert session_of(toy) is beside
