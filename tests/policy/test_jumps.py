"""Jumps of an observation, and copies of it."""

import threading
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import pytest
import torch

from dcache import DcacheError
from dcache.policy.jumps import Jumps, copied, encoded


def seen(jumps: Jumps, observation: Any, rows: int = 1) -> bool:
    """Whether an observation jumped; a chunk is made under it."""
    jumped = jumps.see(observation, rows)
    jumps.keep()
    return jumped


@dataclass
class Reading:
    """An observation as an object."""

    state: Any
    camera: Any = 0


class Pair(NamedTuple):
    """An observation as a named tuple."""

    state: Any
    text: str


def test_all_numbers_of_an_observation_are_one_vector() -> None:
    observation = {
        "state": np.array([1, 2]),
        "image": torch.tensor([[3.0], [4.0]]),
        "more": [5, (6.0,)],
        "text": "go",
    }
    # In the order of the names, whatever the mapping's is.
    assert encoded(observation).tolist() == [3, 4, 5, 6, 1, 2]
    assert encoded(dict(reversed(observation.items()))).tolist() == [3, 4, 5, 6, 1, 2]
    assert encoded(Reading(np.array([1.0]), [2])).tolist() == [1, 2]
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
    assert seen(jumps, torch.tensor([3.0, 4.0]))
    assert seen(jumps, torch.tensor(second)) is jumped


def test_the_observation_is_compared_with_the_one_before_in_the_users_encoding() -> None:
    jumps, buffer = Jumps(0.1, lambda observation: observation["state"]), torch.ones(2)
    assert seen(jumps, {"state": buffer})
    buffer.fill_(9.0)
    assert seen(jumps, {"state": buffer})
    assert not seen(jumps, {"state": buffer})


def test_a_jump_stays_one_until_a_chunk_was_made_under_it() -> None:
    jumps, far = Jumps(0.5), torch.tensor([9.0])
    assert seen(jumps, torch.ones(1))
    assert [jumps.see(far), jumps.see(far)] == [True, True]
    jumps.keep()
    assert not jumps.see(far)
    jumps.forget()
    assert jumps.see(far)


@pytest.mark.parametrize("encode", [None, lambda observation: observation["state"]], ids=["all", "encode"])
def test_in_a_batch_one_row_that_jumped_is_enough(encode: Any) -> None:
    state = torch.ones(16, 3)
    jumps = Jumps(0.5, encode)
    assert seen(jumps, {"state": state})
    state = state.clone()
    state[5] = -1.0
    # The length of all rows together changes by half: 2 sqrt(3) of sqrt(48).
    assert not jumps.see({"state": state}, rows=1)
    assert jumps.see({"state": state}, rows=16)


def test_another_instruction_or_other_names_are_a_jump() -> None:
    jumps = Jumps(0.5)
    first = {"state": np.ones(3), "camera": np.ones((2, 2), np.uint8), "task": ["open the drawer"]}
    assert seen(jumps, first)
    assert not seen(jumps, dict(reversed(first.items())))
    assert seen(jumps, {**first, "task": ["close the drawer"]})
    renamed = {name.replace("camera", "wrist"): value for name, value in first.items()}
    assert seen(jumps, {**renamed, "task": ["close the drawer"]})


def test_what_cannot_be_compared_is_an_error_and_no_silence() -> None:
    with pytest.raises(DcacheError, match=r"of type object has no numbers.*encode=.*jump=None"):
        Jumps(0.5).see(object())


@pytest.mark.parametrize("make", [lambda: torch.ones(2), lambda: np.ones(2)], ids=["tensor", "array"])
def test_copies_share_no_memory(make: Any) -> None:
    observation = {"a": make(), "b": [make(), "go"]}
    twin = copied(observation)
    observation["a"][0] = observation["b"][0][0] = 7
    assert float(twin["a"][0]) == float(twin["b"][0][0]) == 1
    assert twin["b"][1] == "go"


def test_copies_of_objects_share_no_memory_and_an_open_device_is_passed_on() -> None:
    camera = threading.Lock()
    observation = Pair(Reading(np.ones(2)), "go")
    twin = copied(observation)
    observation.state.state[0] = 7
    assert isinstance(twin, Pair)
    assert twin.state.state.tolist() == [1, 1]
    assert copied({"camera": camera})["camera"] is camera
