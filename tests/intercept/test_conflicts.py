"""What caching must not be put on top of: other caches, and models that are compiled as a whole."""

import copy
import pickle
from types import SimpleNamespace
from typing import Any

import pytest
import torch
from torch import nn

from dcache.errors import DcacheError
from dcache.intercept.conflicts import (
    NotInlined,
    active_dropout,
    being_compiled,
    compiled_whole,
    refuse_compiled,
    refuse_other_cache,
)
from dcache.intercept.module_call import ModuleIntercept


class Model(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.block = nn.Linear(2, 2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        return self.block(x)


class Config:
    """As diffusers' cache configurations."""


def with_hook(name: str) -> Model:
    model = Model()
    model.block._diffusers_hook = SimpleNamespace(hooks={name: object()})
    return model


def with_attribute(name: str, value: Any) -> Model:
    model = Model()
    setattr(model, name, value)
    return model


@pytest.mark.parametrize(
    ("layer", "active"),
    [
        (nn.Dropout(0.1), True),
        (nn.Dropout2d(0.1), True),
        (nn.AlphaDropout(0.1), True),
        (nn.Dropout(0.0), False),
        (nn.Dropout(0.1).eval(), False),
        (nn.Identity(), False),
    ],
    ids=str,
)
def test_dropout_is_active_in_training_mode_with_a_probability(layer: nn.Module, active: bool) -> None:
    model = Model()
    model.block = nn.Sequential(nn.Linear(2, 2), layer)  # type: ignore[assignment]
    assert [text.count("(block.1; 1 in all)") for text in active_dropout(model)] == [1] * active
    assert active_dropout(model.eval()) == []


@pytest.mark.parametrize(
    ("model", "says"),
    [
        (with_attribute("_cache_config", Config()), r"diffusers' own \(Config\); call \.disable_cache\(\)"),
        (with_attribute("_is_cached", True), r"cache-dit; call cache_dit\.disable_cache"),
        (with_hook("faster_cache_denoiser"), "diffusers' hook 'faster_cache_denoiser'; remove it"),
        (
            with_hook("pyramid_attention_broadcast"),
            "diffusers' hook 'pyramid_attention_broadcast'; remove it",
        ),
        (with_hook("taylorseer_block"), "diffusers' hook 'taylorseer_block'; remove it"),
    ],
)
def test_another_cache_is_refused_with_the_way_to_take_it_off(model: Model, says: str) -> None:
    with pytest.raises(DcacheError, match=f"another cache is already enabled on Model: {says}"):
        refuse_other_cache(model)


@pytest.mark.parametrize(
    "model",
    [
        Model(),
        with_attribute("_cache_config", None),
        with_attribute("_is_cached", False),
        with_hook("group_offloading"),
        with_hook("layerwise_casting"),
    ],
)
def test_what_is_no_cache_is_let_through(model: Model) -> None:
    plain = dict(vars(model))
    refuse_other_cache(model)
    assert vars(model) == plain


def test_a_model_that_is_compiled_as_a_whole_is_refused_by_its_own_name() -> None:
    wrapped = with_attribute("_orig_mod", Model())
    in_place = with_attribute("_compiled_call_impl", lambda x: x)
    for model in (wrapped, in_place):
        with pytest.raises(DcacheError, match=r"Model is compiled as a whole.*compile=True"):
            refuse_compiled(model)
    # A wrapper is no name that the user knows.
    assert str(compiled_whole(Model())).startswith("Model is compiled")


def test_a_model_whose_blocks_are_compiled_is_not_refused_and_neither_is_one_that_we_intercept() -> None:
    model = Model()
    model.block._compiled_call_impl = lambda x: x
    refuse_compiled(model)
    intercept = ModuleIntercept(model)
    intercept.install()
    refuse_compiled(model)
    assert not intercept.displaced


def test_a_hook_raises_where_its_module_is_traced_and_nowhere_else() -> None:
    model, x = Model(), torch.ones(1, 2)
    model.block.register_forward_pre_hook(NotInlined())
    plain = model(x)
    assert not being_compiled()

    def around(x: torch.Tensor) -> torch.Tensor:
        return model(x) + 1

    # dynamo wraps the error in its own.
    with pytest.raises(torch._dynamo.exc.Unsupported, match="Linear is compiled as a whole"):
        torch.compile(around, backend="eager", fullgraph=True)(x)
    torch._dynamo.reset()
    assert torch.equal(model(x), plain)


def test_a_function_knows_that_it_is_being_compiled() -> None:
    def told(x: torch.Tensor) -> torch.Tensor:
        return x + 1 if being_compiled() else x

    assert torch.equal(told(torch.zeros(2)), torch.zeros(2))
    assert torch.equal(torch.compile(told, backend="eager")(torch.zeros(2)), torch.ones(2))
    torch._dynamo.reset()


@pytest.mark.parametrize("copied", [copy.deepcopy, lambda model: pickle.loads(pickle.dumps(model))])
def test_a_copy_of_a_hooked_module_has_a_hook_that_hands_the_arguments_on(copied: Any) -> None:
    block = nn.Linear(2, 2)
    block.register_forward_pre_hook(NotInlined())
    twin, x = copied(block), torch.ones(1, 2)
    assert torch.equal(twin(x), block(x))
    # What is in its place needs no dcache to be read.
    assert b"dcache" not in pickle.dumps(NotInlined())
    (hook,) = twin._forward_pre_hooks.values()
    assert hook(twin, x) is x
