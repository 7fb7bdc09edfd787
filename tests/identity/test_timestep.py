"""The timestep argument of a denoiser: found by its name, read from a call."""

from typing import Any

import pytest
import torch
from torch import nn

from dcache.identity.timestep import TimeArgument


class Plain(nn.Module):
    def forward(self, hidden_states: Any, timestep: Any, sigma: Any = None) -> Any:
        return hidden_states


class Sigmas(nn.Module):
    def forward(self, x: Any, *, text: Any = None) -> Any:
        return x


class NoiseLevel(nn.Module):
    def forward(self, noise_level: Any, x: Any) -> Any:
        return x


def test_a_time_is_found_by_its_name_and_a_timestep_comes_before_a_noise_level() -> None:
    time = TimeArgument(Plain())
    assert (time.name, time.place, time.is_sigma) == ("timestep", 1, False)
    level = TimeArgument(NoiseLevel())
    assert (level.name, level.place, level.is_sigma) == ("noise_level", 0, True)
    none = TimeArgument(Sigmas())
    assert (none.name, none.is_sigma) == (None, False)
    assert none.read((torch.ones(1), torch.ones(1)), {"timestep": 3}) is None


@pytest.mark.parametrize(
    ("value", "read"),
    [
        (7, 7.0),
        (0.25, 0.25),
        (torch.tensor(999), 999.0),
        (torch.tensor([5.0]), 5.0),
        # One for every row of the batch.
        (torch.tensor([5.0, 5.0, 5.0]), 5.0),
        (torch.full((2, 3), 4), 4.0),
        # One for every token or frame: no single value.
        (torch.tensor([5.0, 4.0]), None),
        (torch.empty(0), None),
        (None, None),
        ("noon", None),
        ([5.0], None),
    ],
)
def test_a_time_is_read_where_it_has_one_value(value: Any, read: float | None) -> None:
    time = TimeArgument(Plain())
    assert time.read((None, value), {}) == read
    assert time.read((), {"hidden_states": None, "timestep": value}) == read


def test_a_call_without_its_time_has_none() -> None:
    time = TimeArgument(Plain())
    assert time.read((torch.ones(1),), {}) is None
    assert time.read((), {"sigma": 3.0}) is None
    # By position where the keyword is there but empty.
    assert time.read((None, 6), {"timestep": None}) == 6.0


class Wrapper(nn.Module):
    """Passes on whatever it is called with."""

    def forward(self, *args: Any, **kwargs: Any) -> Any:
        return args, kwargs


def test_a_wrapper_that_names_no_argument_is_called_with_a_timestep_by_its_name() -> None:
    time = TimeArgument(Wrapper())
    assert time.read((torch.ones(1), 5.0), {}) is None
    assert time.read((), {"hidden_states": torch.ones(1), "timestep": torch.tensor([3.0])}) == 3.0
    assert (time.name, time.is_sigma) == ("timestep", False)
    level = TimeArgument(Wrapper())
    assert level.read((torch.ones(1),), {"sigma": 0.5}) == 0.5
    assert level.is_sigma
