"""PushT's features and actions in the block's frame."""

import math

import torch

from dcache.demo.policies import pusht_frame
from dcache.demo.policies.pusht_frame import GOAL, corner_error, encode, to_chunk, to_targets


def test_targets_are_turned_into_the_blocks_frame() -> None:
    # The block is turned by a quarter: what is above the agent (y + 30) lies along the block's x axis.
    state = torch.tensor([[100.0, 200.0, 300.0, 300.0, math.pi / 2]])
    targets = torch.tensor([[[100.0, 230.0], [90.0, 200.0]]])
    chunk = to_chunk(targets, state, torch.tensor([[10.0], [2.0]]))
    torch.testing.assert_close(chunk, torch.tensor([[[3.0, 0.0], [0.0, 5.0]]]), atol=1e-5, rtol=0)
    torch.testing.assert_close(to_targets(chunk, state, torch.tensor([[10.0], [2.0]])), targets)


def test_targets_stay_on_the_table() -> None:
    state = torch.tensor([[500.0, 5.0, 300.0, 300.0, 0.0]])
    far = torch.tensor([[[100.0, -100.0]]])
    assert to_targets(far, state, torch.ones(1, 1)).tolist() == [[[512.0, 0.0]]]


def test_a_block_on_its_goal_has_no_error() -> None:
    at_goal = corner_error(torch.tensor([GOAL[:2]]), torch.tensor([GOAL[2]]))
    torch.testing.assert_close(at_goal, torch.zeros(1, 16), atol=1e-4, rtol=0)
    # Ten pixels off in x, seen from a block that is turned as the goal is: (-10, 0) turned back.
    off = corner_error(torch.tensor([[GOAL[0] + 10, GOAL[1]]]), torch.tensor([GOAL[2]]))
    side = 10 / math.sqrt(2)
    torch.testing.assert_close(off.view(8, 2), torch.tensor([[-side, side]]).expand(8, 2), atol=1e-4, rtol=0)


def test_features_have_their_number_and_a_motion() -> None:
    states = torch.tensor([[[100.0, 100.0, 300.0, 300.0, 0.0], [120.0, 100.0, 300.0, 300.0, 0.0]]])
    features = encode(states)
    assert features.shape == (1, 2, pusht_frame.FEATURES)
    # The agent moved by 20 pixels in x: one unit; the first state has no state before it.
    assert features[0, :, -2:].tolist() == [[0.0, 0.0], [1.0, 0.0]]
