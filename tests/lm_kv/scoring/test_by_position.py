import torch

from dcache.lm_kv.scoring.by_position import from_grid, layer_mean, on_grid
from dcache.lm_kv.storage.stored import Stored


def ragged() -> Stored:
    """Two heads with tokens 0, 2, 3 and 2, 5."""
    positions = torch.tensor([[[0, 2, 3], [2, 5, 0]]])
    valid = torch.tensor([[[1, 1, 1], [1, 1, 0]]]).bool()
    return Stored(torch.zeros(1, 2, 3, 1), torch.zeros(1, 2, 3, 1), positions, valid)


def test_values_lie_at_their_positions_and_come_back():
    values = torch.tensor([[[1.0, 2.0, 3.0], [4.0, 5.0, 9.0]]])
    grid = on_grid(values, ragged(), 4)
    assert grid.tolist() == [[[1, 0, 2, 3, 0, 0, 0, 0], [0, 0, 4, 0, 0, 5, 0, 0]]]
    assert from_grid(grid, ragged()).tolist() == [[[1, 2, 3], [4, 5, 0]]]


def test_the_mean_is_over_the_heads_that_hold_a_token():
    values = torch.tensor([[[1.0, 2.0, 3.0], [4.0, 5.0, 9.0]]])
    assert layer_mean(values, ragged()).tolist() == [[[1, 3, 3], [3, 5, 0]]]
    first = torch.tensor([[True, False]])
    assert layer_mean(values, ragged(), first).tolist() == [[[1, 2, 3], [2, 0, 0]]]
