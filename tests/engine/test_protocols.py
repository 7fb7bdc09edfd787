"""What the engine's parts claim to be: every name of a protocol is there on a live object, and fits."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from dataclasses import replace
from typing import Any

import pytest

import dcache
from dcache import methods
from dcache.engine import protocols
from dcache.engine.batched_sums import Lookahead
from dcache.engine.budget import Budgeted
from dcache.engine.config import SessionConfig
from dcache.engine.gate import Beginning, Gated, Movable
from dcache.engine.lifecycle import Living
from dcache.engine.memory import Remembering
from dcache.engine.model_call import AroundCall, Denoiser
from dcache.engine.observe import Observer
from dcache.engine.pipeline import PipeOwner, sessions_of
from dcache.engine.protocols import (
    Batched,
    Engine,
    Lowered,
    Memory,
    Owner,
    Shown,
    Traced,
    Tuned,
    Tuner,
    Weights,
)
from dcache.engine.region import Region
from dcache.engine.session import Session
from dcache.identity.tracker import SamplerOwner
from tests.engine.tiny_models import ThreeSublayers, Toy, ToyPipe, integers, session_on, steps, unet

EVERY_2 = methods.interval(interval=2)


def names_of(protocol: type) -> dict[str, Any]:
    """Every member of a protocol and of those that it extends; None for what is declared an attribute."""
    found: dict[str, Any] = {}
    for part in reversed(protocol.__mro__):
        if getattr(part, "_is_protocol", False) and part.__module__.startswith("dcache."):
            found |= dict.fromkeys(part.__annotations__)
            found |= {
                name: value
                for name, value in vars(part).items()
                if not name.startswith("_") and (callable(value) or isinstance(value, property))
            }
    return found


def parameters(function: Callable[..., Any]) -> list[tuple[str, Any]]:
    """Names and kinds of a method's parameters, without self."""
    listed = inspect.signature(function).parameters.values()
    return [(p.name, p.kind) for p in listed if p.name != "self"]


def optional(function: Callable[..., Any]) -> set[str]:
    listed = inspect.signature(function).parameters.values()
    return {p.name for p in listed if p.default is not p.empty}


def missing(thing: Any, protocol: type) -> list[str]:
    """What a protocol promises and a live object has not, or has with other parameters."""
    wrong = []
    for name, declared in names_of(protocol).items():
        if not hasattr(thing, name):
            wrong.append(f"{name} is not there")
            continue
        if declared is None or isinstance(declared, property):
            continue
        there = getattr(thing, name)
        wanted = parameters(declared)
        if not callable(there):
            wrong.append(f"{name} cannot be called")
        elif parameters(there)[: len(wanted)] != wanted:
            wrong.append(f"{name} takes {inspect.signature(there)}, not {inspect.signature(declared)}")
        elif {p for p, _ in parameters(there)[len(wanted) :]} - optional(there):
            wrong.append(
                f"{name}{inspect.signature(there)} needs more than {name}{inspect.signature(declared)}"
            )
    return wrong


def test_what_is_missing_is_found() -> None:
    class Half:
        module = None

        def warn(self, words: str) -> None: ...

    wrong = missing(Half(), Engine)
    assert "method is not there" in wrong
    assert any("warn takes (words" in text for text in wrong)
    assert not any(text.startswith("module") for text in wrong)
    # Of what is extended too.
    assert {"call", "tracker", "open_run"} <= set(names_of(Gated))


@pytest.fixture
def session() -> Session:
    """A session with a limit, in the middle of a run."""
    toy = Toy()
    made = session_on(toy, EVERY_2, max_cache_bytes="1GB")
    steps(toy, [4, 3])
    return made


@pytest.mark.parametrize(
    "protocol", [Engine, Gated, Living, Remembering, Traced, Denoiser], ids=lambda p: p.__name__
)
def test_a_session_is_what_its_parts_need(session: Session, protocol: type) -> None:
    assert missing(session, protocol) == []
    # Also before any call, and without a limit.
    assert missing(Session(Toy(), SessionConfig(EVERY_2)), protocol) == []


def test_the_parts_of_a_session_are_what_it_says_they_are(session: Session) -> None:
    memory = session.memory
    for part, protocol in (
        (memory, Memory),
        (memory, Budgeted),
        (memory, Beginning),
        (session.batched, Batched),
        (session.weight_cache, Weights),
        (session.binding, Movable),
        (session.decisions, Lookahead),
        (Observer(), AroundCall),
    ):
        assert missing(part, protocol) == [], protocol


def regions() -> Iterator[Any]:
    """One region of every kind, bound to a model."""
    layered = Toy([ThreeSublayers() for _ in range(2)])
    for model, method, options in (
        (Toy(), EVERY_2, {}),
        (Toy(), EVERY_2.with_sites(("model",)), {}),
        (layered, EVERY_2.with_sites(("mlp",)), {}),
        (unet(), EVERY_2.with_sites(("bracket:0",)), {}),
        (Toy(), replace(EVERY_2, sites=("guidance",), uncond_from="drop"), {}),
        (Toy(), EVERY_2, {"lowering": "replay"}),
    ):
        made = session_on(model, method, **options)
        yield made.binding.regions[0]
        yield from made.binding.storing()


def test_every_kind_of_region_is_a_lowered_site() -> None:
    seen: set[type] = set()
    for region in regions():
        assert missing(region, Lowered) == [], type(region)
        assert region.has_history is False
        region.release()
        assert region.history is None
        seen.add(type(region))
    kinds = {kind.__name__ for kind in seen}
    assert {kind.__name__ for kind in Region.__subclasses__()} | {"GuidanceRegion", "GroupRegion"} == kinds


def test_a_watched_pipeline_is_an_owner() -> None:
    pipe = ToyPipe(Toy())
    dcache.enable(pipe, EVERY_2)
    (owner,) = sessions_of(pipe)["denoiser"].owners
    assert isinstance(owner, PipeOwner)
    for protocol in (Owner, SamplerOwner):
        assert missing(owner, protocol) == []
    assert owner.pipe() is pipe
    assert owner.ends_itself


def test_protocols_are_all_that_this_module_has() -> None:
    mine = [
        value
        for value in vars(protocols).values()
        if inspect.isclass(value) and value.__module__ == protocols.__name__
    ]
    assert set(mine) == {Lowered, Memory, Batched, Weights, Engine, Owner, Shown, Traced, Tuned, Tuner}
    assert all(getattr(one, "_is_protocol", False) for one in mine)


def test_a_region_needs_no_more_of_an_engine_than_is_promised() -> None:
    """A run with an engine that has the promised names alone."""
    model = Toy()
    session = session_on(model, methods.newton(order=1, interval=3, warmup=2, clock="step", sites="block"))
    promised = names_of(Engine)

    class Narrow:
        def __getattr__(self, name: str) -> Any:
            assert name in promised, f"{name} is not promised by Engine"
            return getattr(session, name)

        def __setattr__(self, name: str, value: Any) -> None:
            assert name in promised, f"{name} is not promised by Engine"
            setattr(session, name, value)

    asked = Narrow()
    for region in session.binding.storing():
        region.engine = asked  # type: ignore[assignment]
    session.decisions.engine = asked  # type: ignore[assignment]
    # The line through two changes is the change itself.
    assert integers(steps(model, [4, 3, 2, 1])) == [40, 32, 24, 16]
    assert session.stats().predicted == 6
