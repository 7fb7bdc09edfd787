"""Caching on a wrapper whose own call never runs: it lies on the part that is called, or that is named."""

import warnings
from typing import Any

import pytest
import torch
from torch import nn

import dcache
from dcache import DcacheWarning
from dcache.identity.denoisers import inner_denoiser
from tests.engine.tiny_models import Toy

X = torch.ones(1, 2, 4)


class Policy(nn.Module):
    """A robot policy: its denoiser is called in a loop of `act`, its own call is for training alone."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Identity()
        self.unet = Toy()
        self.eval()

    def forward(self, batch: torch.Tensor) -> torch.Tensor:
        return self.unet(batch, 5.0)

    @torch.no_grad()
    def act(self) -> torch.Tensor:
        x = X
        for t in (3.0, 2.0, 1.0):
            x = self.unet(x, t)
        return x


class Wrapper(nn.Module):
    """Hands everything on, as DataParallel and peft's models do."""

    def __init__(self) -> None:
        super().__init__()
        self.inner = Toy()

    def forward(self, *args: Any, **kwargs: Any) -> torch.Tensor:
        return self.inner(*args, **kwargs)


def test_a_wrapper_that_is_never_called_is_cached_at_the_part_that_is() -> None:
    policy = Policy()
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        dcache.enable(policy, "interval", interval=3, sites="model")
        # ((1 + 3) * 8, which the two other evaluations predict.
        assert torch.equal(policy.act(), X * 32)
        assert (dcache.stats(policy).computed, dcache.stats(policy).predicted) == (1, 2)
        dcache.disable(policy)
    assert "_compiled_call_impl" not in vars(policy.unet)


def test_a_wrapper_that_is_called_is_cached_and_nothing_is_said() -> None:
    policy = Policy()
    dcache.enable(policy, "interval", interval=2, sites="model")
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("error")
        for i in range(4):
            dcache.step(policy, i, timestep=4.0 - i)
            policy(X)
    assert (dcache.stats(policy).computed, dcache.stats(policy).predicted) == (2, 2)
    dcache.disable(policy)
    assert "_compiled_call_impl" not in vars(policy.unet)


def test_the_part_is_the_one_that_takes_the_timestep_and_holds_most_parameters() -> None:
    found = inner_denoiser(Policy())
    assert found is not None
    assert found[0] == "unet"
    # The module's own call takes the timestep, or anything at all.
    assert inner_denoiser(Toy()) is None
    assert inner_denoiser(Wrapper()) is None
    policy = Policy()
    policy.encoder = nn.Linear(8, 8)  # type: ignore[assignment]
    assert inner_denoiser(policy) is None


class Timed(nn.Module):
    """A wrapper whose own call takes a timestep too."""

    def __init__(self) -> None:
        super().__init__()
        self.model = Toy()
        self.eval()

    def forward(self, x: torch.Tensor, timestep: Any) -> torch.Tensor:
        return self.model(x, timestep)


def test_a_wrapper_that_takes_a_timestep_and_is_never_called_is_said_too() -> None:
    outer = dcache.enable(Timed(), "interval", interval=2, sites="model")
    with (
        torch.no_grad(),
        pytest.warns(
            DcacheWarning, match=r"Timed, and its part model \(Toy\).*dcache\.enable\(module\.model\)"
        ),
    ):
        outer.model(X, 1.0)
    dcache.disable(outer)
    assert "_compiled_call_impl" not in vars(outer.model)


def test_a_wrapper_that_takes_a_timestep_and_is_called_is_cached_in_silence() -> None:
    outer = dcache.enable(Timed(), "interval", interval=2, sites="model")
    with warnings.catch_warnings(), torch.no_grad():
        warnings.simplefilter("error")
        for t in (4.0, 3.0, 2.0, 1.0):
            outer(X, t)
    assert (dcache.stats(outer).computed, dcache.stats(outer).predicted) == (2, 2)


def test_blocks_that_take_the_timestep_are_no_denoisers() -> None:
    class Blocks(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.blocks = nn.ModuleList([Timed()])

        def forward(self, x: torch.Tensor, timestep: Any) -> torch.Tensor:
            return self.blocks[0](x, timestep)

    assert inner_denoiser(Blocks()) is None
