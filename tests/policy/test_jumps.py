"""Jumps of an observation, and copies of it."""

from typing import Any

import numpy as np
import pytest
import torch

from dcache.policy.jumps import Jumps, copied, encoded


def test_all_numbers_of_an_observation_are_one_vector() -> None:
    observation = {
        "state": np.array([1, 2]),
        "image": torch.tensor([[3.0], [4.0]]),
        "more": [5, (6.0,)],
        "text": "go",
    }
    assert encoded(observation).tolist() == [1, 2, 3, 4, 5, 6]
    assert encoded("go").tolist() == []


@pytest.mark.parametrize(
    ("second", "jumped"),
    [
        ([3.0, 4.0], False),
        # A change of 2 and of 3 where the larger vector has length 5 or more.
        ([3.0, 2.0], False),
        ([0.0, 4.0], True),
        ([3.0, float("nan")], True),
        ([3.0], True),
    ],
    ids=["none", "less", "more", "nan", "another size"],
)
def test_a_change_above_the_threshold_is_a_jump(second: list[float], jumped: bool) -> None:
    jumps = Jumps(0.5)
    assert jumps.see(torch.tensor([3.0, 4.0]))
    assert jumps.see(torch.tensor(second)) is jumped


def test_the_observation_is_compared_with_the_one_before_in_the_users_encoding() -> None:
    jumps, buffer = Jumps(0.1, lambda observation: observation["state"]), torch.ones(2)
    assert jumps.see({"state": buffer})
    buffer.fill_(9.0)
    assert jumps.see({"state": buffer})
    assert not jumps.see({"state": buffer})


@pytest.mark.parametrize("make", [lambda: torch.ones(2), lambda: np.ones(2)], ids=["tensor", "array"])
def test_copies_share_no_memory(make: Any) -> None:
    observation = {"a": make(), "b": [make(), "go"]}
    twin = copied(observation)
    observation["a"][0] = observation["b"][0][0] = 7
    assert float(twin["a"][0]) == float(twin["b"][0][0]) == 1
    assert twin["b"][1] == "go"
