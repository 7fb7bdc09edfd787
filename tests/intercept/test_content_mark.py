"""Marks follow contents: what an output depends on changes them, and nothing else."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.testing._internal.two_tensor import TwoTensor

from dcache.intercept.content_mark import arguments_mark, module_mark


def _through_data(module: nn.Linear) -> None:
    module.weight.data.mul_(2.0)


def _hook(module: nn.Linear) -> None:
    module.register_forward_hook(lambda _module, _args, output: output)


def _scaling(module: nn.Linear) -> None:
    module.scaling = {"default": 0.5}


@pytest.mark.parametrize("name", ["data", "hook", "scaling", "mode"])
def test_a_change_of_what_a_module_computes_changes_its_mark(name: str) -> None:
    changes: dict[str, Callable[[nn.Linear], object]] = {
        "data": _through_data,
        "hook": _hook,
        "scaling": _scaling,
        "mode": nn.Linear.eval,
    }
    module = nn.Linear(3, 2)
    before = module_mark(module)
    assert module_mark(module) == before
    changes[name](module)
    assert module_mark(module) != before


def test_weights_that_are_moved_are_the_same() -> None:
    module = nn.Linear(3, 2).to(torch.bfloat16)
    before = module_mark(module)
    for parameter in module.parameters():
        parameter.data = parameter.data.clone()
    assert module_mark(module) == before


def test_weights_that_are_away_are_never_the_same() -> None:
    module = nn.Linear(3, 2, device="meta")
    assert module_mark(module) != module_mark(module)


class Opaque(torch.Tensor):
    """A weight with operations of its own, as bitsandbytes has them."""

    @classmethod
    def __torch_function__(cls, function, types, args=(), kwargs=None):  # type: ignore[no-untyped-def]
        if function in {torch.Tensor.view, torch.Tensor.sum}:
            raise AssertionError("its operations are not the bytes'")
        return super().__torch_function__(function, types, args, kwargs or {})


@pytest.mark.parametrize("kind", ["wrapped", "subclass", "complex"])
def test_contents_of_wrapped_and_other_weights_are_read(kind: str) -> None:
    first, second = torch.tensor([1.0, 2.0]), torch.tensor([3.0, 4.0])
    make: dict[str, Callable[[], torch.Tensor]] = {
        "wrapped": lambda: TwoTensor(first.clone(), second.clone()),
        "subclass": lambda: second.clone().as_subclass(Opaque),
        "complex": lambda: torch.complex(first, second),
    }
    change: dict[str, Callable[[torch.Tensor], object]] = {
        "wrapped": lambda weight: weight.b.mul_(2.0),  # type: ignore[attr-defined]
        "subclass": lambda weight: weight.mul_(2.0),
        "complex": lambda weight: weight.mul_(2.0),
    }
    module, same = nn.Module(), nn.Module()
    for one in (module, same):
        one.register_buffer("weight", make[kind]())
    before = module_mark(module)
    # Equal weights are equal wherever they lie, and changed ones are others in their own place.
    assert module_mark(module) == before == module_mark(same)
    change[kind](module.weight)
    assert module_mark(module) != before


def test_weights_that_cannot_be_read_are_never_the_same() -> None:
    module = nn.Module()
    module.register_buffer("weight", torch.eye(2).to_sparse())
    assert module_mark(module) != module_mark(module)


def test_arguments_are_compared_by_their_contents() -> None:
    first = {"fps": torch.tensor([0, 1]), "scale": {"scale": 1.0}, "flag": None}
    again = {"flag": None, "scale": {"scale": 1.0}, "fps": torch.tensor([0, 1])}
    assert arguments_mark(first) == arguments_mark(again)
    assert arguments_mark(first) != arguments_mark({**first, "fps": torch.tensor([1, 0])})
    assert arguments_mark(first) != arguments_mark({**first, "scale": {"scale": 2.0}})
