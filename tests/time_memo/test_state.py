"""Every change of a module that its outputs depend on is seen, and moving weights is none."""

from __future__ import annotations

import gc
from collections.abc import Callable

import pytest
import torch
from torch import nn
from torch.nn.modules import module as torch_module

from dcache.time_memo.state import State, stateful


def pair() -> nn.Sequential:
    return nn.Sequential(nn.Linear(2, 2), nn.BatchNorm1d(2)).eval().requires_grad_(False)


def replace_and_put_back(module: nn.Sequential) -> None:
    """As a library does that fuses an adapter and takes it off: the weights are written through `.data`."""
    layer = module[0]
    module[0] = nn.Identity()
    layer.weight.data += 1
    module[0] = layer


def another_weight_at_the_same_address(module: nn.Sequential) -> None:
    for _ in range(2):
        module[0].weight = nn.Parameter(module[0].weight.clone())


CHANGES: dict[str, Callable[[nn.Sequential], object]] = {
    "write": lambda module: module[0].weight.add_(1),
    "buffer": lambda module: module[1].running_mean.add_(1),
    "parameter": lambda module: setattr(module[0], "bias", None),
    "two parameters": another_weight_at_the_same_address,
    "dtype": lambda module: module.bfloat16(),
    "replaced": lambda module: module.__setitem__(1, nn.Identity()),
    "fused": replace_and_put_back,
    "hook": lambda module: module[0].register_forward_hook(lambda *_: None),
    "pre-hook": lambda module: module[0].register_forward_pre_hook(lambda *_: None),
    "forward": lambda module: setattr(module[0], "forward", torch.neg),
    "mode": lambda module: module.train(),
    "compiled": lambda module: module[0].compile(backend="eager"),
}


@pytest.mark.parametrize("name", CHANGES)
def test_changes_are_seen(name: str) -> None:
    module, state = pair(), State()
    state.watch([module])
    assert not state.changed
    CHANGES[name](module)
    assert state.changed
    state.watch([module])
    assert not state.changed


def test_of_modules_around_parameters_and_places_are_seen() -> None:
    outer, state = nn.Sequential(pair()), State()
    outer.table = nn.Parameter(torch.ones(2), requires_grad=False)
    state.watch([outer[0][1]], [outer, outer[0]])
    outer[0][0].weight.add_(1)
    assert not state.changed
    outer.table.add_(1)
    assert state.changed
    state.watch([outer[0][1]], [outer, outer[0]])
    outer[0][0] = nn.Linear(2, 2)
    assert state.changed


def test_a_replacement_is_told_at_once() -> None:
    module, calls = pair(), list[str]()
    state = State(lambda: calls.append("replaced"))
    state.watch([module])
    nn.Sequential(nn.Linear(2, 2))
    assert not calls
    module[1] = nn.Identity()
    assert calls == ["replaced"]


def test_moved_weights_are_the_same() -> None:
    module, state = pair(), State()
    state.watch([module])
    for tensor in (*module.parameters(), *module.buffers()):
        tensor.data = tensor.data.clone()
    assert not state.changed


def test_nothing_is_left_after_close_or_with_the_last_reference() -> None:
    gc.collect()
    hooks = torch_module._global_module_registration_hooks
    before, state, other = len(hooks), State(), State()
    assert len(hooks) == before + 2
    state.close()
    del other
    gc.collect()
    assert len(hooks) == before


def test_adapters_their_layers_and_hooked_modules_are_stateful() -> None:
    module = nn.Sequential(pair(), pair(), nn.Linear(2, 2))
    module[0][0].base_layer = nn.Linear(2, 2)
    module[1][1].register_forward_pre_hook(lambda *_: None)
    module.register_forward_pre_hook(lambda *_: None)
    assert stateful(module) == {id(module[0][0]), id(module[0][0].base_layer), id(module[1][1])}
