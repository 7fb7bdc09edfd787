"""The outermost intercept: whom it hands the call to, what stands around it, and the name of a context."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from dcache import DcacheError
from dcache.engine.model_call import ModelCall, NamedContext, model_call_of
from dcache.intercept.module_call import ModuleIntercept, intercepts_of
from tests.engine.tiny_models import Double


class Denoiser:
    """A session of one line: what the module gives, plus one."""

    def __init__(self, *observers: Any) -> None:
        self.context: str | None = None
        self.removed = False
        # One thread: its part is always the active one.
        self.lanes: Any = SimpleNamespace(lock=nullcontext(), own=SimpleNamespace(lane=None), active=None)
        self.observers = list(observers)
        self.given: list[tuple[tuple[Any, ...], dict[str, Any]]] = []

    def denoise(self, inner: Callable[..., Any], args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        self.given.append((args, kwargs))
        return inner(*args, **kwargs) + 1


class Around:
    """Notes when the call begins and ends inside it."""

    def __init__(self, name: str, log: list[str]) -> None:
        self.name, self.log = name, log

    def around_call(self, denoise: Callable[[], Any]) -> Any:
        self.log.append(f"{self.name} begins")
        output = denoise()
        self.log.append(f"{self.name} ends")
        return output * 10


def test_the_session_is_handed_the_call_and_gives_the_output() -> None:
    module, session = Double(), Denoiser()
    model_call = ModelCall(module, session)
    assert model_call_of(module) is None
    model_call.install()
    assert model_call_of(module) is model_call
    x = torch.ones(2)
    # 2 * 1 + 1
    assert module(x).tolist() == [3.0, 3.0]
    assert module(x=x).tolist() == [3.0, 3.0]
    assert session.given == [((x,), {}), ((), {"x": x})]
    model_call.remove()
    assert model_call_of(module) is None
    assert module(x).tolist() == [2.0, 2.0]


def test_it_is_found_behind_and_in_front_of_other_intercepts() -> None:
    module = Double()
    behind, model_call, in_front = (
        ModuleIntercept(module),
        ModelCall(module, Denoiser()),
        ModuleIntercept(module),
    )
    for intercept in (behind, model_call, in_front):
        intercept.install()
    assert model_call_of(module) is model_call
    assert intercepts_of(module) == [in_front, model_call, behind]
    assert module(torch.ones(1)).tolist() == [3.0]


def test_it_leaves_nothing_on_the_module() -> None:
    module = Double()
    before = {name: list(value) if isinstance(value, dict) else value for name, value in vars(module).items()}
    model_call = ModelCall(module, Denoiser())
    for _ in range(2):
        # Also where somebody took the slot in between.
        module._compiled_call_impl = None
        model_call.install()
        # The hook keeps a compiled caller from looking past us; it is there once.
        assert len(module._forward_pre_hooks) == 1
    model_call.remove()
    after = {name: list(value) if isinstance(value, dict) else value for name, value in vars(module).items()}
    assert after == before


def test_in_a_compiled_caller_it_says_what_to_do() -> None:
    module = Double()
    ModelCall(module, Denoiser()).install()

    def caller(x: torch.Tensor) -> torch.Tensor:
        return module(x) + 1

    with pytest.raises(DcacheError, match=r"Double is compiled as a whole.*compile=True"):
        torch.compile(caller, backend="eager")(torch.ones(1))
    torch.compiler.reset()


def test_what_is_called_around_it_nests_and_the_last_to_come_is_outermost() -> None:
    log: list[str] = []
    module = Double()
    session = Denoiser(Around("first", log), Around("second", log))
    ModelCall(module, session).install()
    # (2 + 1) * 10 * 10: what the outermost returns is the module's output.
    assert walk_once(module) == 300.0
    assert log == ["second begins", "first begins", "first ends", "second ends"]


def test_who_leaves_during_a_call_is_still_called_in_it() -> None:
    log: list[str] = []
    module, session = Double(), Denoiser()

    class Leaves(Around):
        def around_call(self, denoise: Callable[[], Any]) -> Any:
            session.observers.clear()
            return super().around_call(denoise)

    session.observers += [Around("stays", log), Leaves("leaves", log)]
    ModelCall(module, session).install()
    assert walk_once(module) == 300.0
    assert log == ["leaves begins", "stays begins", "stays ends", "leaves ends"]
    assert walk_once(module) == 3.0


def walk_once(module: Double) -> float:
    return float(module(torch.ones(1)))


class Context:
    """A context that notes what it is given."""

    def __init__(self) -> None:
        self.left: list[Any] = []

    def __enter__(self) -> str:
        return "entered"

    def __exit__(self, *error: Any) -> bool:
        self.left.append(error[0])
        return error[0] is KeyError


def test_inside_a_named_context_the_branch_has_its_name() -> None:
    session, context = Denoiser(), Context()
    with NamedContext(session, context, "cond") as entered:
        assert entered == "entered"
        assert session.context == "cond"
        with NamedContext(session, Context(), "uncond"):
            assert session.context == "uncond"
        assert session.context == "cond"
    assert session.context is None
    assert context.left == [None]


def test_an_error_gives_the_name_back_and_reaches_the_context() -> None:
    session, context = Denoiser(), Context()
    with pytest.raises(ValueError, match="broken"), NamedContext(session, context, "cond"):
        raise ValueError("broken")
    assert session.context is None
    # What the context swallows is swallowed.
    with NamedContext(session, context, "cond"):
        raise KeyError
    assert context.left == [ValueError, KeyError]
