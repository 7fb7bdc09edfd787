"""The bands that an output is split in, and the rows of a batch."""

from __future__ import annotations

import pytest
import torch

from dcache.engine.lowering.guidance_math import rows_of, split
from tests.pipelines import generator


@pytest.mark.parametrize(
    "shape", [(1, 3, 8, 8), (2, 4, 5, 9), (1, 2, 3, 16, 10), (2, 1, 4, 4), (2, 7, 5), (3, 4)]
)
def test_the_bands_add_up(shape):
    x = torch.randn(shape, generator=generator(3))
    low, high = split(x)
    torch.testing.assert_close(low + high, x)
    # The low band is a projection, and the high one has nothing of it.
    torch.testing.assert_close(split(low)[0], low, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(split(high)[0], torch.zeros_like(x), rtol=0, atol=1e-5)


def test_low_is_within_a_fifth_of_the_shorter_side():
    n = torch.arange(20.0)
    for k in range(11):
        wave = torch.cos(2 * torch.pi * k * n / 20).expand(1, 1, 20, 20)
        low, high = split(wave)
        kept, gone = (low, high) if k <= 4 else (high, low)
        torch.testing.assert_close(kept, wave, rtol=0, atol=1e-5)
        torch.testing.assert_close(gone, torch.zeros_like(wave), rtol=0, atol=1e-5)
    assert torch.equal(split(torch.ones(2, 5, 3))[0], torch.ones(2, 5, 3))


def test_rows_are_taken_of_nested_arguments():
    x = torch.arange(12.0).view(4, 3)
    other = torch.arange(6.0).view(2, 3)
    scalar = torch.tensor(4.0)
    given = (x, [x, (other, x)], {"a": x, "b": {"c": scalar, "d": None}}, 7, "four")
    first, nested, named, number, text = rows_of(given, 4, slice(2, 4))
    assert torch.equal(first, x[2:])
    assert all(torch.equal(found, x[2:]) for found in (nested[0], nested[1][1], named["a"]))
    # What has another number of rows, or none, belongs to all of them.
    assert nested[1][0] is other
    assert named["b"] == {"c": scalar, "d": None}
    assert (type(nested), type(nested[1]), number, text) == (list, tuple, 7, "four")
    assert x.shape == (4, 3)
