"""What the parts of the engine ask of each other is there, under these names, in what they are given."""

from __future__ import annotations

import inspect
from typing import Any, get_type_hints

import pytest

import dcache
from dcache import Method, methods
from dcache.engine import protocols
from dcache.engine.budget import Budgeted
from dcache.engine.pipeline import PipeOwner
from dcache.engine.session import Session, session_of
from dcache.schedulers import Listed
from tests.engine.tiny_models import Toy, ToyPipe, session_on, steps

TIMES = [4, 3, 2, 1]
EVERY_2 = methods.interval(interval=2, codec="delta")


def members(protocol: Any) -> list[str]:
    """The attributes, properties and methods that a protocol names (`typing.get_protocol_members`, 3.13)."""
    named: set[str] = set()
    for base in protocol.__mro__:
        if getattr(base, "_is_protocol", False) and base.__module__.startswith("dcache."):
            named |= set(inspect.get_annotations(base))
            named |= {name for name in vars(base) if not name.startswith("_")}
    return sorted(named)


def methods_of(protocol: Any) -> dict[str, Any]:
    """The methods that a protocol names; not its properties."""
    found = {name: getattr(protocol, name, None) for name in members(protocol)}
    return {name: value for name, value in found.items() if inspect.isfunction(value)}


def assert_fits(one: Any, protocol: Any) -> None:
    """Every member is there, and every method takes the protocol's parameters by their names."""
    missing = [name for name in members(protocol) if not hasattr(one, name)]
    assert not missing, f"{type(one).__name__} has no {missing} of {protocol.__name__}"
    for name, asked in methods_of(protocol).items():
        taken = list(inspect.signature(getattr(one, name)).parameters)
        assert taken == list(inspect.signature(asked).parameters)[1:], f"{protocol.__name__}.{name}"


def cached(method: Method = EVERY_2, **options: Any) -> tuple[Toy, Session]:
    """A tiny model after a computed and a predicted evaluation, and its session."""
    toy = Toy()
    session = session_on(toy, method, **options)
    steps(toy, TIMES[:2])
    return toy, session


def test_the_members_of_a_protocol_are_those_that_it_says() -> None:
    assert members(protocols.Lowered) == ["decide", "has_history", "history", "key", "release", "site"]
    assert members(protocols.Owner) == ["ends_itself", "follow", "guidance", "pipe"]
    assert list(methods_of(protocols.Owner)) == ["follow"]


@pytest.mark.parametrize("options", [{}, {"max_cache_bytes": 10**6}])
def test_a_session_is_an_engine(options: dict[str, Any]) -> None:
    _, session = cached(**options)
    assert_fits(session, protocols.Engine)
    assert set(get_type_hints(protocols.Engine)) <= set(vars(session))
    assert_fits(session, protocols.Traced)
    assert_fits(session.batched, protocols.Batched)
    assert_fits(session.weight_cache, protocols.Weights)
    assert (session.depth, session.several, session.call) == (3, False, None)


def test_in_a_call_it_is_one_too() -> None:
    toy, session = cached()
    calls: list[Any] = []

    def look(*_: Any) -> None:
        assert_fits(session, protocols.Engine)
        calls.append(session.call)
        with session.resting():
            calls.append(session.call)

    hook = toy.blocks[0].register_forward_pre_hook(look)
    steps(toy, TIMES[2:3], first=2)
    hook.remove()
    call, none = calls
    assert (call.index, none) == (2, None)


def test_its_memory_is_one_share_in_a_budget() -> None:
    assert cached()[1].memory is None
    _, session = cached(max_cache_bytes=10**6)
    memory = session.memory
    assert memory is not None
    assert_fits(memory, protocols.Memory)
    assert_fits(memory, Budgeted)
    assert not memory.short
    assert memory.holds
    # One anchor of eight numbers in float32.
    assert memory.bytes_now() == 8 * 4


@pytest.mark.parametrize(
    ("sites", "count"), [(("trunk",), 1), (("block",), 3), (("model",), 1)], ids=["trunk", "block", "model"]
)
def test_every_bound_site_is_a_lowered_one(sites: tuple[str, ...], count: int) -> None:
    _, session = cached(Method("mine", rule=Listed((0,)), sites=sites, codec="value"))
    regions = session.binding.regions
    assert len(regions) == count
    for region in regions:
        assert_fits(region, protocols.Lowered)
        assert region.has_history
        assert region.key == region.site.name


def test_a_pipeline_is_an_owner() -> None:
    toy = Toy()
    pipe = dcache.enable(ToyPipe(toy), EVERY_2)
    session = session_of(toy)
    assert session is not None
    (owner,) = session.owners
    assert isinstance(owner, PipeOwner)
    assert_fits(owner, protocols.Owner)
    assert owner.pipe() is pipe
    assert owner.ends_itself
    assert owner.guidance is None
    owner.follow(session)
    assert session_of(toy) is session
