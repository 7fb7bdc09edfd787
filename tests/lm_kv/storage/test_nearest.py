import math

import pytest
import torch

from dcache.lm_kv.codecs.codec import Plain
from dcache.lm_kv.storage.nearest import MergeInto
from dcache.lm_kv.storage.stored import Stored

# Cosines of token 1 with the kept 0 and 2 are 0.6 and 0.8, of token 3 -1 and 0.
KEYS = [[2.0, 0.0], [0.6, 0.8], [0.0, 3.0], [-1.0, 0.0]]
KEPT = [1, 0, 1, 0]


def packed(reducer: MergeInto, keys: list[list[float]] = KEYS, kept: list[int] = KEPT, dead: int = 0):
    """Keys and values of what is kept; values are the keys times ten."""
    count = len(keys)
    states = torch.tensor(keys).view(1, 1, count, 2)
    valid = torch.ones(1, 1, count, dtype=torch.bool)
    valid[..., count - dead :] = False
    positions = torch.arange(count).view(1, 1, count)
    stored = Stored(states, 10 * states, positions, valid)
    segment = reducer(stored, torch.tensor(kept).bool().view(1, 1, count) & valid, Plain())
    return segment.keys, segment.values


@pytest.mark.parametrize(
    ("weights", "own", "lost"),
    [
        ("average", 1.0, 1.0),
        # The mean of the token and its middle with the other one: 3/4 and 1/4.
        ("pivot", 1.5, 0.5),
        ("weighted", 1.0, 0.9),
        ("exponential", math.e, math.exp(0.8)),
    ],
)
def test_a_lost_token_goes_to_the_most_similar_key(weights, own, lost):
    keys, values = packed(MergeInto(weights, 0.5))
    merged = (own * torch.tensor([0.0, 3.0]) + lost * torch.tensor([0.6, 0.8])) / (own + lost)
    torch.testing.assert_close(keys, torch.stack([torch.tensor([2.0, 0.0]), merged]))
    torch.testing.assert_close(values, 10 * keys)


def test_the_threshold_may_be_the_mean_of_the_lost():
    # 0.8 and 0 have a mean of 0.4, so token 3 is dropped; at -1 nothing is.
    torch.testing.assert_close(packed(MergeInto("average"))[0], packed(MergeInto("average", 0.4))[0])
    every, _ = packed(MergeInto("average", -1.0))
    torch.testing.assert_close(every[1], (torch.tensor([0.0, 3.0]) + torch.tensor([-0.4, 0.8])) / 3)


def test_the_nearest_of_two_is_the_older():
    keys, _ = packed(MergeInto("average", -1.0, by_position=True))
    torch.testing.assert_close(keys, torch.tensor([[1.3, 0.4], [-0.5, 1.5]]))


def test_what_took_none_stays_to_the_bit_and_unused_slots_take_no_part():
    keys, _ = packed(MergeInto("pivot", 2.0))
    assert keys.tolist() == [[2, 0], [0, 3]]
    few, _ = packed(MergeInto("average", -1.0), dead=1)
    torch.testing.assert_close(few[1], torch.tensor([0.3, 1.9]))


def test_equal_tokens_stay_what_they_are():
    keys, _ = packed(MergeInto("pivot"), [[1.0, 2.0]] * 4)
    torch.testing.assert_close(keys, torch.tensor([[1.0, 2.0]] * 2))
    assert packed(MergeInto("average", -1.0), kept=[0, 0, 0, 0])[0].shape == (0, 2)
