import torch

from dcache.lm_kv.storage.segment import Segment
from dcache.lm_kv.storage.stored import gather
from dcache.lm_kv.storage.tail import Tail


def test_segments_and_tail_lie_side_by_side_with_empty_slots_masked():
    keys = torch.tensor([[1.0], [2.0], [3.0]])
    segment = Segment(keys, keys, torch.tensor([0, 4, 7], dtype=torch.int32), torch.tensor([[2], [1]]))
    tail = Tail(torch.zeros(2, 1, 0, 1), torch.zeros(2, 1, 0, 1))
    newest = torch.tensor([8.0, 9.0]).view(2, 1, 1, 1)
    tail.append(newest, newest, torch.tensor([[5], [8]]), torch.tensor([[True], [False]]))
    stored = gather([segment], tail)
    assert stored.keys[..., 0].tolist() == [[[1, 2, 8]], [[3, 0, 9]]]
    assert stored.positions.tolist() == [[[0, 4, 5]], [[7, 0, 8]]]
    assert stored.valid.tolist() == [[[True, True, True]], [[True, False, False]]]
    assert stored.bias is None
    assert stored.score is None
    assert stored.rope is None
    offset = torch.tensor([0, 13])
    assert gather([segment], tail, offset).rope.tolist() == [[[0, 4, 5]], [[20, 13, 21]]]


def test_a_part_without_a_bias_has_zeros_beside_one_that_has():
    keys = torch.ones(1, 1)
    segment = Segment(keys, keys, torch.zeros(1), torch.tensor([[1]]), bias=torch.tensor([0.5]))
    tail = Tail(torch.zeros(1, 1, 0, 1), torch.zeros(1, 1, 0, 1))
    tail.append(torch.ones(1, 1, 2, 1), torch.ones(1, 1, 2, 1), torch.tensor([[1, 2]]), None)
    assert gather([segment], tail).bias.tolist() == [[[0.5, 0.0, 0.0]]]
