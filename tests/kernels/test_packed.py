"""`Packed`: its rows, its views, and what it gives back."""

from __future__ import annotations

import pytest
import torch

from dcache.kernels import Packed, store
from dcache.kernels.packed import LARGEST, groups
from dcache.kernels.store import empty
from tests.kernels.closeness import DEVICE

STORES = list(LARGEST)
# (shape, scales)
ROWS = [
    ((2, 64, 192), 128),
    ((2, 7, 64), 14),
    ((2, 7, 63), 2),
    ((2, 4, 8, 8), 8),
    ((2, 3, 7, 5), 2),
    ((4, 16), 1),
    ((5,), 1),
    ((), 1),
    ((0, 64), 0),
    ((2, 0), 1),
    ((3, 100, 1), 3),
]


def packed(z: torch.Tensor, dtype: torch.dtype) -> Packed:
    out = empty(z, dtype)
    store(z, None, out)
    assert isinstance(out, Packed)
    return out


@pytest.mark.parametrize(("shape", "count"), ROWS, ids=str)
@pytest.mark.parametrize("dtype", STORES)
def test_a_row_is_the_fewest_trailing_dimensions_of_64_elements(shape, count, dtype):
    p = packed(torch.randn(shape, device=DEVICE), dtype)
    assert p.scale.shape == (count,)
    assert count == groups(torch.Size(shape))
    assert (p.shape, p.ndim, p.numel()) == (torch.Size(shape), len(shape), torch.Size(shape).numel())
    assert p.float32().shape == shape
    assert p.data.dtype == dtype
    assert p.data.is_contiguous()


def test_unpacked_is_data_times_scale():
    data = torch.arange(-64, 64, dtype=torch.int8).view(2, 64)
    p = Packed(data, torch.tensor([0.5, -2.0]), torch.bfloat16)
    exact = torch.cat([torch.arange(-64, 0) * 0.5, torch.arange(64) * -2.0]).view(2, 64)
    assert torch.equal(p.float32(), exact)
    assert torch.equal(p.to(torch.float64), exact.double())
    assert p.to(torch.bfloat16).dtype == torch.bfloat16
    assert torch.equal(p.data, data)


def test_every_float8_number_is_read_as_torch_reads_it():
    data = torch.arange(256, dtype=torch.uint8).view(torch.float8_e4m3fn)
    # The two that stand for NaN are never stored.
    data = data[~data.to(torch.float32).isnan()]
    assert data.numel() == 254
    p = Packed(data, torch.tensor([3.0]), torch.float32)
    assert torch.equal(p.float32(), data.to(torch.float32) * 3)


@pytest.mark.parametrize("dtype", STORES)
@pytest.mark.parametrize("shape", [(4, 3, 64), (4, 2, 5, 7), (4, 100), (4, 16), (4,)], ids=str)
def test_rows_of_dimension_0_are_views(shape, dtype):
    p = packed(torch.randn(shape, device=DEVICE), dtype)
    whole = p.float32()
    for part in (slice(0, 2), slice(1, 3), slice(3, None), slice(2, 2), slice(None)):
        some = p[part]
        assert torch.equal(some.float32(), whole[part])
        assert some.data.untyped_storage().data_ptr() == p.data.untyped_storage().data_ptr()
        assert some.dtype == p.dtype
    assert [torch.equal(a.float32(), b) for a, b in zip(p.chunk(2), whole.chunk(2), strict=True)] == [
        True
    ] * 2
    assert [c.shape[0] for c in p.chunk(3)] == [c.shape[0] for c in whole.chunk(3)]


def test_a_clone_is_memory_of_its_own():
    p = packed(torch.randn(2, 64, device=DEVICE), torch.int8)
    copy, before = p[1:].clone(), p.float32()
    copy.data.zero_()
    copy.scale.zero_()
    assert torch.equal(p.float32(), before)
    assert sum(t.untyped_storage().nbytes() for t in copy.tensors()) == 64 + 4


@pytest.mark.parametrize("dtype", STORES)
@pytest.mark.parametrize("shape", [(8, 64, 192), (2, 1024, 64)], ids=str)
def test_it_holds_little_more_than_half_of_bfloat16(shape, dtype):
    z = torch.zeros(shape, dtype=torch.bfloat16)
    held = sum(t.untyped_storage().nbytes() for t in packed(z, dtype).tensors())
    assert z.numel() < held <= 0.55 * z.untyped_storage().nbytes()
