"""The modules within a module: the same, in the same order, as torch finds."""

from __future__ import annotations

import pytest
from torch import nn

from dcache.util.modules import modules_of


def nested() -> nn.Module:
    return nn.Sequential(nn.Sequential(nn.Linear(1, 1), nn.GELU()), nn.ModuleDict({"b": nn.ReLU()}))


def with_an_empty_place() -> nn.Module:
    model = nested()
    model.register_module("empty", None)
    model.append(nn.Linear(2, 2))
    return model


def shared() -> nn.Module:
    """A part that lies in two places, deep in the first of them and at the top in the second."""
    part = nn.Sequential(nn.Linear(1, 1))
    return nn.Sequential(nn.Sequential(nn.GELU(), part), part, nn.Sequential(part, nn.ReLU()))


def circular() -> nn.Module:
    model = nested()
    model[0].add_module("back", model)
    return model


@pytest.mark.parametrize(
    "make", [nested, with_an_empty_place, shared, circular, nn.GELU], ids=lambda m: m.__name__
)
def test_they_are_those_of_torch_in_its_order(make):
    model = make()
    assert [id(part) for part in modules_of(model)] == [id(part) for part in model.modules()]
