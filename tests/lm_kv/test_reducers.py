import torch

from dcache.lm_kv.codec import Plain
from dcache.lm_kv.reducers import drop
from dcache.lm_kv.stored import Stored


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
