"""The last observations together."""

import numpy as np
import pytest
import torch

from dcache import DcacheError
from dcache.policy import History, Loop


def test_the_last_observations_are_stacked_behind_the_batch_and_the_first_is_repeated() -> None:
    seen, buffer = History(3), np.zeros((2, 1))
    stacks = []
    for i in range(4):
        # The robot writes into the same memory.
        buffer[:] = i
        stacks.append(seen({"state": buffer, "more": {"x": torch.full((2,), float(i))}, "task": f"go {i}"}))
    assert [stack["state"][1, :, 0].tolist() for stack in stacks] == [
        [0, 0, 0],
        [0, 0, 1],
        [0, 1, 2],
        [1, 2, 3],
    ]
    assert stacks[-1]["more"]["x"].tolist() == [[1, 2, 3]] * 2
    assert stacks[-1]["task"] == "go 3"
    seen.reset()
    assert seen({"state": buffer})["state"][0, :, 0].tolist() == [3, 3, 3]
    with pytest.raises(DcacheError, match="steps must be a whole number"):
        History(0)


@pytest.mark.parametrize("asynchronous", [False, True])
def test_a_loop_shows_it_every_observation_and_makes_a_chunk_of_the_stack(asynchronous: bool) -> None:
    stacks: list[list[float]] = []

    def policy(stack: torch.Tensor) -> torch.Tensor:
        stacks.append(stack.flatten().tolist())
        return torch.zeros(3, 1)

    loop = Loop(policy, observe=History(2), asynchronous=asynchronous, ahead=1)
    with loop:
        for i in range(4):
            loop.act(torch.tensor([float(i)]))
    # Ahead, the second chunk is made under the observation of the first one's last action.
    assert stacks[:2] == [[0, 0], [1, 2] if asynchronous else [2, 3]]
    loop.reset()
    with loop:
        loop.act(torch.tensor([9.0]))
    assert stacks[-1] == [9, 9]
