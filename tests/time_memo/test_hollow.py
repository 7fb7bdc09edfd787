"""Shapes without data where a shape is all there is, data everywhere else."""

import torch

from dcache.time_memo.hollow import Hollow

META = torch.device("meta")


def test_what_is_made_of_data_has_data_wherever_it_is_asked_for() -> None:
    mask = torch.tensor([True, False, True])
    with Hollow():
        lengths = mask.to(META).sum().reshape(1).tolist()
        places = torch.arange(3, device=META)[mask]
    assert lengths == [2]
    assert places.tolist() == [0, 2]


def test_what_meets_a_shape_is_a_shape() -> None:
    weights = torch.empty(3, 4, device=META)
    with Hollow():
        product = torch.ones(2, 3) @ weights
        rows = weights[torch.tensor([True, False, True])]
        weights[torch.tensor([False, True, True])] = torch.zeros(2, 4)
    assert (product.shape, product.device) == ((2, 4), META)
    assert (rows.shape, rows.device) == ((2, 4), META)


def test_what_is_written_into_stays_the_tensor_it_was() -> None:
    places, values = torch.zeros(4), torch.empty(4, device=META)
    with Hollow():
        result = places[:2].copy_(values[:2])
        assert places.add_(values) is places
    assert result.device.type == "cpu"
    assert places.tolist() == [0.0] * 4


def test_what_is_read_of_a_shape_is_zero() -> None:
    shapes = torch.empty(3, device=META), torch.empty(5, device=META, dtype=torch.int64)
    with Hollow():
        assert shapes[0].sum().item() == 0
        assert shapes[0].cpu().tolist() == [0.0] * 3
        assert shapes[1].bincount().tolist() == [5]
