"""An intercept sees a module's inputs as diffusers' hook splits them, and they are split once."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from diffusers.hooks import HookRegistry, ModelHook
from torch import nn

from dcache.intercept.module_call import ModuleIntercept
from dcache.intercept.split_inputs import SplitInputs, split_hooks, split_modules


class Plan:
    """How one argument or output is split."""

    def __init__(self, split_output: bool = False) -> None:
        self.split_output = split_output


class Half(ModelHook):
    """Takes the first half of the tokens, of the inputs and outputs in its plan."""

    def __init__(self, **metadata: Plan) -> None:
        super().__init__()
        self.metadata = metadata

    def pre_forward(self, module: nn.Module, *args: Any, **kwargs: Any) -> Any:
        for name, plan in self.metadata.items():
            if not plan.split_output:
                kwargs[name] = kwargs[name].chunk(2, 1)[0]
        return args, kwargs

    def post_forward(self, module: nn.Module, output: torch.Tensor) -> torch.Tensor:
        split = any(plan.split_output for plan in self.metadata.values())
        return output.chunk(2, 1)[0] if split else output


class Block(nn.Module):
    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return 2 * x


class Seeing(ModuleIntercept):
    """Notes the sizes that it is called with."""

    def __init__(self, module: nn.Module) -> None:
        super().__init__(module)
        self.sizes: list[int] = []

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        self.sizes.append(kwargs["x"].shape[1])
        return self.inner(*args, **kwargs)


def block(**plans: dict[str, Plan]) -> nn.Module:
    made = Block()
    for name, plan in plans.items():
        HookRegistry.check_if_exists_or_initialize(made).register_hook(Half(**plan), f"cp_input---{name}")
    return made


X = torch.arange(8.0).reshape(1, 8)


def test_inputs_are_split_in_front_and_not_once_more() -> None:
    module = block(first={"x": Plan()})
    plain = module(x=X)
    assert torch.equal(plain, 2 * X[:, :4])
    seeing = Seeing(module)
    seeing.install()
    module(x=X)
    assert seeing.sizes == [8]
    split = SplitInputs(module)
    split.install()
    assert torch.equal(module(x=X), plain)
    assert seeing.sizes == [8, 4]
    split.remove()
    seeing.remove()
    assert torch.equal(module(x=X), plain)


def test_several_hooks_split_in_their_order_and_outputs_are_left_to_them() -> None:
    module = block(first={"x": Plan()}, second={"x": Plan()}, third={"0": Plan(split_output=True)})
    assert len(list(split_hooks(module))) == 2
    plain = module(x=X)
    assert plain.shape == (1, 1)
    SplitInputs(module).install()
    assert torch.equal(module(x=X), plain)


def test_the_plans_are_back_after_an_error() -> None:
    module = block(first={"x": Plan()})
    SplitInputs(module).install()
    (hook,) = split_hooks(module)
    before = hook.metadata
    with pytest.raises(TypeError):
        module(x=X, y=1)
    assert hook.metadata is before


def test_modules_without_such_hooks_are_left_alone() -> None:
    plain, split, outputs = Block(), block(first={"x": Plan()}), block(first={"0": Plan(split_output=True)})
    assert split_modules([plain, split, outputs, split]) == [split]
