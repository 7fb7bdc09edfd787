import math

import pytest
import torch

from dcache.lm_kv.codecs.codec import Plain
from dcache.lm_kv.storage.reducers import Compensate, drop
from dcache.lm_kv.storage.stored import Stored


def test_what_is_kept_is_packed_in_order_of_rows_heads_and_positions():
    keys = torch.arange(6.0).view(1, 2, 3, 1)
    positions = torch.tensor([[[0, 1, 2], [0, 1, 2]]])
    stored = Stored(keys, -keys, positions, torch.ones(1, 2, 3, dtype=torch.bool), bias=torch.zeros(1, 2, 3))
    keep = torch.tensor([[[True, False, True], [False, False, True]]])
    segment = drop(stored, keep, Plain())
    assert segment.keys.flatten().tolist() == [0, 2, 5]
    assert segment.values.flatten().tolist() == [0, -2, -5]
    assert segment.positions.tolist() == [0, 2, 2]
    assert segment.lengths.tolist() == [[2, 1]]
    # A bias of zeros takes no memory.
    assert segment.bias is None


def attended(keys, values, bias):
    weights = (keys.flatten() * 0.7 + bias).softmax(0)
    return weights @ values.view(-1, 1)


def test_lost_tokens_with_one_key_leave_a_slot_that_is_worth_all_of_them():
    keys, values = torch.tensor([3.0, 1.0, 1.0, 2.0, 1.0, 5.0]), torch.arange(6.0)
    stored = Stored(
        keys.view(1, 1, 6, 1), values.view(1, 1, 6, 1), torch.arange(6).view(1, 1, 6),
        torch.ones(1, 1, 6, dtype=torch.bool),
    )  # fmt: skip
    keep = torch.tensor([[[True, False, False, True, False, True]]])
    segment = Compensate()(stored, keep, Plain())
    assert segment.positions.tolist() == [0, 1, 3, 5]
    assert segment.bias.tolist() == pytest.approx([0, math.log(3), 0, 0])
    full = attended(keys, values, torch.zeros(6))
    torch.testing.assert_close(attended(segment.keys, segment.values, segment.bias), full)
    # A second eviction takes the slot in with its three tokens: four with a mean key of 5/4.
    again = Stored(
        *(tensor.view(1, 1, 4, -1) for tensor in (segment.keys, segment.values)),
        segment.positions.view(1, 1, 4).long(), torch.ones(1, 1, 4, dtype=torch.bool),
        segment.bias.view(1, 1, 4),
    )  # fmt: skip
    second = Compensate()(again, torch.tensor([[[True, False, False, True]]]), Plain())
    assert second.keys.flatten().tolist() == pytest.approx([3, 5 / 4, 5])
    assert second.values.flatten().tolist() == pytest.approx([0, (1 + 2 + 4 + 3) / 4, 5])
    assert second.bias.tolist() == pytest.approx([0, math.log(4), 0])


def test_heads_that_lose_nothing_have_no_slot():
    ones = torch.ones(1, 2, 2, 1)
    valid = torch.tensor([[[True, True], [True, False]]])
    stored = Stored(ones, ones, torch.tensor([[[0, 1], [0, 1]]]), valid)
    segment = Compensate()(stored, valid, Plain())
    assert segment.lengths.tolist() == [[2, 1]]
    assert segment.bias is None
