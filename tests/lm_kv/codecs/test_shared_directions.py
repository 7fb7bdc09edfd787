import math

import pytest
import torch

from dcache import DcacheError
from dcache.lm_kv.codecs.shared_directions import SharedDirectionsCodec

ONE = torch.tensor([[3]])


def codec(t: float = 0.6, gamma: float = 0.0, start: float = 0.5) -> SharedDirectionsCodec:
    return SharedDirectionsCodec(t, gamma, start, 0)


def merged(first: torch.Tensor, second: torch.Tensor, lengths: torch.Tensor = ONE, **more: float):
    own = codec(**more)
    encoded = own.encode_group([own] * 2, [first, second], [second, first], lengths, torch.zeros(2).long())
    return own, encoded, [own.decode(pair[0]) for pair in encoded]


def test_directions_lie_between_on_the_sphere_and_lengths_stay():
    angles = torch.tensor([0.0, 0.5, 1.5])
    first = torch.stack([torch.ones(3), torch.zeros(3)], 1) * 2.0
    second = torch.stack([angles.cos(), angles.sin()], 1) * 5.0
    _, encoded, (a, b) = merged(first, second)
    expected = torch.stack([(0.6 * angles).cos(), (0.6 * angles).sin()], 1)
    torch.testing.assert_close(a, expected * 2.0)
    torch.testing.assert_close(b, expected * 5.0)
    assert encoded[0][0].direction is encoded[1][0].direction
    assert encoded[0][0].whole is encoded[1][0].whole
    # Values are merged in the same way, here from the other side.
    torch.testing.assert_close(
        codec().decode(encoded[0][1]), torch.stack([(0.4 * angles).cos(), (0.4 * angles).sin()], 1) * 5.0
    )


def test_layers_with_like_directions_are_exact():
    first = torch.randn(6, 4)
    _, _, (a, b) = merged(first, first * 3.0, torch.tensor([[2, 2], [1, 1]]), gamma=0.5)
    torch.testing.assert_close(a, first)
    torch.testing.assert_close(b, first * 3.0)


def test_what_is_least_alike_in_its_run_stays_as_it_came():
    # Cosines of 1, .5 and 0, then of .9 and .8 in another row.
    cosines = torch.tensor([1.0, 0.5, 0.0, 0.9, 0.8])
    first = torch.stack([torch.ones(5), torch.zeros(5)], 1)
    second = torch.stack([cosines, (1 - cosines**2).sqrt()], 1)
    _, encoded, (a, b) = merged(first, second, torch.tensor([[3], [2]]), gamma=0.6)
    # Below .6 in the first run and below .86 in the second.
    assert encoded[0][0].whole.tolist() == [False, True, True, False, True]
    assert torch.equal(a[[1, 2, 4]], first[[1, 2, 4]])
    assert torch.equal(b[[1, 2, 4]], second[[1, 2, 4]])
    assert not torch.allclose(a[3], first[3])


def test_rows_are_taken_whole_and_restored():
    first, second = torch.randn(10, 4), torch.randn(10, 4)
    own, encoded, (a, _) = merged(first, second, torch.tensor([[3, 3], [2, 2]]), gamma=0.3)
    order = torch.tensor([6, 7, 8, 9, *range(6)])
    taken = own.take(encoded[0][0], order, torch.tensor([[2, 2], [3, 3]]))
    torch.testing.assert_close(own.decode(taken), a[order])
    assert taken.direction is encoded[0][0].direction
    assert torch.equal(own.decode(own.restore(own.tensors(taken), first)), own.decode(taken))


def test_opposite_directions_are_finite():
    first = torch.tensor([[1.0, 0.0], [1.0, 0.0], [0.0, 1.0]])
    _, _, tokens = merged(first, -first)
    assert all(x.isfinite().all() for x in tokens)


def test_pairs_begin_in_the_middle_and_ranges_are_checked():
    assert codec().groups(8) == [(4, 5), (6, 7)]
    assert codec().groups(7) == [(3, 4), (5, 6)]
    assert codec(start=0.0).groups(3) == [(0, 1)]
    assert codec(start=1.0).groups(4) == []
    for name in ("t", "gamma", "start"):
        with pytest.raises(DcacheError, match=f"{name} must be a number of at least 0 and at most 1"):
            codec(**{name: math.nan})
