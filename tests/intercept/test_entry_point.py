"""A method of a module, as a module."""

import copy
from typing import Any

import pytest
import torch
from torch import nn

from dcache import DcacheError
from dcache.identity.timestep import TimeArgument
from dcache.intercept.method import EntryPoint, entry_point


class Owner(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(2, 2)

    def denoise(self, state: Any, x_t: Any, *, timestep: Any = 3.0, **rest: Any) -> Any:
        return state, x_t, timestep, rest

    def forward(self, x: Any, *more: Any) -> Any:
        return (x, *more)


class Root(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.model = Owner()


class Counting(nn.Module):
    """Replaces the entry point's call."""


def calls_of(entry: EntryPoint) -> list[tuple[Any, Any]]:
    calls: list[tuple[Any, Any]] = []
    entry.register_forward_pre_hook(lambda _, args, kwargs: calls.append((args, kwargs)), with_kwargs=True)
    return calls


def test_the_method_is_called_as_a_module_by_names_and_gives_what_it_gave() -> None:
    root = Root()
    entry = entry_point(root, "model.denoise")
    calls = calls_of(entry)
    assert root.model.denoise(1, 2, extra=4) == (1, 2, 3.0, {"extra": 4})
    assert calls == []
    entry.install()
    assert root.model.denoise(1, 2, extra=4) == (1, 2, 3.0, {"extra": 4})
    assert root.model.denoise(1, x_t=2, timestep=5.0) == (1, 2, 5.0, {})
    assert calls == [((), {"state": 1, "x_t": 2, "extra": 4}), ((), {"state": 1, "x_t": 2, "timestep": 5.0})]
    entry.remove()
    assert root.model.denoise(1, 2) == (1, 2, 3.0, {})
    assert len(calls) == 2
    assert "denoise" not in vars(root.model)


def test_forward_itself_may_be_the_method_and_arguments_without_names_stay_in_place() -> None:
    root = Root()
    entry = entry_point(root, "model.forward")
    calls = calls_of(entry)
    entry.install()
    assert root.model.forward(1, 2) == (1, 2)
    assert root.model(1, 2) == (1, 2)
    assert calls == [((1, 2), {}), ((1, 2), {})]


def test_its_timestep_and_its_parts_are_the_methods() -> None:
    root = Root()
    entry = entry_point(root, "model.denoise")
    assert TimeArgument(entry).argument((), {"timestep": 7.0}) == 7.0
    assert set(entry.parameters()) == set(root.parameters())
    assert entry.training is True


def test_a_copied_owner_has_its_plain_method() -> None:
    root = Root()
    entry = entry_point(root, "model.denoise")
    entry.install()
    calls = calls_of(entry)
    copied = copy.deepcopy(root)
    assert copied.model.denoise(1, 2) == (1, 2, 3.0, {})
    assert calls == []
    assert torch.equal(copied.model.net.weight, root.model.net.weight)


@pytest.mark.parametrize("path", ["model.nothing", "nothing.denoise", "denoise", "model.net", ""])
def test_what_is_no_method_is_an_error(path: str) -> None:
    with pytest.raises(DcacheError, match="must be the path of a method in Root"):
        entry_point(Root(), path)
