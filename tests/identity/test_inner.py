"""The denoiser of a policy, and what is said where there is none."""

from typing import Any

import pytest
import torch
from torch import nn

from dcache import DcacheError
from dcache.identity.denoisers import denoiser_in, denoising_methods, inner_denoiser, is_policy
from tests.policies import Decoder


class Policy(nn.Module):
    """Its own call is for training; its encoder is larger than its denoiser."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder, self.net = nn.Linear(200, 200), Decoder()

    def forward(self, batch: Any) -> Any:
        return self.net(batch, torch.zeros(1), batch)

    def select_action(self, batch: Any) -> Any:
        """Never called."""


class Flow(nn.Module):
    """Denoises by a method (pi0, SmolVLA)."""

    def __init__(self) -> None:
        super().__init__()
        self.tower = nn.Linear(4, 4)

    def embed_suffix(self, noisy_actions: Any, timestep: Any) -> Any:
        """Never called."""

    def denoise_step(self, state: Any, x_t: Any, timestep: Any) -> Any:
        """Never called."""

    def forward(self, batch: Any) -> Any:
        """For training."""


class Vla(nn.Module):
    def __init__(self) -> None:
        super().__init__()
        self.model = Flow()

    def select_action(self, batch: Any) -> Any:
        """Never called."""

    def forward(self, batch: Any) -> Any:
        """For training."""


class Regressor(nn.Module):
    """No diffusion at all (ACT)."""

    def __init__(self) -> None:
        super().__init__()
        self.net = nn.Linear(4, 4)

    def predict_action(self, observation: Any) -> Any:
        """Never called."""

    def forward(self, batch: Any) -> Any:
        """For training."""


def test_a_policy_makes_actions_and_takes_no_timestep() -> None:
    assert is_policy(Policy())
    assert is_policy(Vla())
    assert not is_policy(Decoder())
    assert not is_policy(nn.Linear(2, 2))


def test_a_policys_denoiser_may_be_the_smaller_part() -> None:
    policy = Policy()
    assert inner_denoiser(policy) is None
    assert denoiser_in(policy) is policy.net
    assert denoiser_in(policy.net) is policy.net


def test_of_several_parts_with_a_timestep_the_largest_is_the_denoiser() -> None:
    policy = Policy()
    policy.small = Decoder(layers=1)
    policy.large = Decoder(layers=9)
    assert denoiser_in(policy) is policy.large


class Timed(Flow):
    """Its call is a loss, and takes a time for it."""

    def forward(self, batch: Any, noise: Any, time: Any = None) -> Any:
        """For training."""


def test_a_module_that_is_called_for_its_loss_and_denoises_by_a_method_is_refused() -> None:
    policy = Vla()
    policy.model = Timed()
    for module, call in ((policy, "model.denoise_step"), (policy.model, "denoise_step")):
        with pytest.raises(DcacheError, match=rf"denoised by its method denoise_step.*call='{call}'"):
            denoiser_in(module)


def test_methods_that_denoise_are_named_first() -> None:
    assert list(denoising_methods(Vla())) == ["model.denoise_step", "model.embed_suffix"]


@pytest.mark.parametrize(
    ("module", "says"),
    [
        (Vla(), r"no denoiser found in Vla.*sites='model', call='model\.denoise_step'"),
        (Regressor(), r"no denoiser found in Regressor.*dcache\.step in the loop"),
        (nn.Sequential(), None),
        (nn.ModuleDict({"net": nn.Linear(2, 2)}), "ModuleDict cannot be called"),
    ],
    ids=["by a method", "none at all", "may be called", "cannot be called"],
)
def test_what_has_no_denoiser_is_refused_with_the_way_out(module: nn.Module, says: str | None) -> None:
    if says is None:
        assert denoiser_in(module) is module
        return
    with pytest.raises(DcacheError, match=says):
        denoiser_in(module)
