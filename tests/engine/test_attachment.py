"""What is attached to the denoiser itself: its call, `compile` and `cache_context`; and the way back."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from dcache import DcacheError
from dcache.engine.attachment import Attachment, denoiser_of
from dcache.engine.model_call import model_call_of
from tests.engine.tiny_models import Double


class Contextual(Double):
    """A module with a cache context, as diffusers' have."""

    def __init__(self) -> None:
        super().__init__()
        self.entered: list[str] = []

    @contextmanager
    def cache_context(self, name: str) -> Iterator[None]:
        self.entered.append(name)
        yield


class Denoiser:
    def __init__(self) -> None:
        self.context: str | None = None
        self.observers: list[Any] = []
        self.removed = False
        # One thread: its part is always the active one.
        self.lanes: Any = SimpleNamespace(lock=nullcontext(), own=SimpleNamespace(lane=None), active=None)

    def denoise(self, inner: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        return inner(*args, **kwargs) + 1


def attached(module: Double) -> tuple[Attachment, Denoiser]:
    session = Denoiser()
    attachment = Attachment(module, session)
    attachment.install(None)
    return attachment, session


def once(module: Double) -> float:
    return float(module(torch.ones(1)))


@pytest.mark.parametrize("kind", [Double, Contextual])
def test_it_leaves_nothing_behind(kind: type[Double]) -> None:
    module = kind()
    before = set(vars(module))
    attachment, session = attached(module)
    assert once(module) == 3.0
    assert denoiser_of(module) is session
    assert {"compile", *(["cache_context"] if kind is Contextual else [])} <= set(vars(module))
    attachment.remove()
    assert set(vars(module)) == before
    assert once(module) == 2.0
    assert denoiser_of(module) is None


def test_a_cache_context_names_the_branch_and_stays_what_it_was() -> None:
    module = Contextual()
    _, session = attached(module)
    for call in (module.cache_context("cond"), module.cache_context(name="cond")):
        with call:
            assert session.context == "cond"
        assert session.context is None
    assert module.entered == ["cond", "cond"]


def test_the_context_of_a_copy_names_nothing() -> None:
    module = Contextual()
    _, session = attached(module)
    twin = copy.deepcopy(module)
    assert denoiser_of(twin) is None
    with twin.cache_context("cond"):
        assert session.context is None
    assert twin.entered == ["cond"]
    assert once(twin) == 2.0


def test_compiling_the_denoiser_is_refused_with_what_to_do_instead() -> None:
    module = Double()
    attachment, _ = attached(module)
    with pytest.raises(DcacheError, match=r"Double is compiled as a whole.*compile=True"):
        module.compile()
    assert once(module) == 3.0
    attachment.remove()
    module.compile(backend="eager")
    assert once(module) == 2.0
    torch.compiler.reset()


def test_a_slot_that_was_emptied_is_taken_again() -> None:
    module = Double()
    attachment, session = attached(module)
    module._compiled_call_impl = None
    assert once(module) == 2.0
    assert model_call_of(module) is None
    # Whose module it is can still be told.
    assert denoiser_of(module) is session
    attachment.verify()
    assert once(module) == 3.0
    installed = model_call_of(module)
    attachment.verify()
    assert model_call_of(module) is installed is attachment.call


def test_a_slot_that_a_compiled_call_has_taken_is_refused() -> None:
    module = Double()
    attachment, _ = attached(module)
    type(module).compile(module, backend="eager")
    with pytest.raises(DcacheError, match="Double is compiled as a whole"):
        attachment.verify()
    module._compiled_call_impl = None
    attachment.verify()
    assert once(module) == 3.0
    torch.compiler.reset()


def test_a_module_that_nothing_is_attached_to_has_no_denoiser() -> None:
    module = Double()
    module.compile = lambda: None  # type: ignore[method-assign, assignment]
    assert denoiser_of(module) is None
