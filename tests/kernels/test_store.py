"""`store`: plain and quantised, by torch and by kernel, and what becomes of numbers that are none."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch

from dcache.kernels import Packed, launch, store
from dcache.kernels.packed import LARGEST
from dcache.kernels.store import empty, launching, reference
from tests.kernels.closeness import DEVICE

INPUTS = (torch.float32, torch.bfloat16, torch.float16)
STORES = list(LARGEST)
# One element, odd ones, one scale for all, many rows to a program, one row to several blocks.
SHAPES = [(), (5,), (3, 7), (2, 3, 65), (300, 64), (2, 3, 7, 5), (2, 4097), (1, 10000)]


def tensor(*shape: int, dtype: torch.dtype = torch.float32) -> torch.Tensor:
    return torch.randn(shape, device=DEVICE).to(dtype)


def stored(y: torch.Tensor, opened: torch.Tensor | None, dtype: torch.dtype | None) -> Any:
    out = empty(y, dtype)
    store(y, opened, out)
    return out


def assert_quantised(p: Packed, z: torch.Tensor) -> None:
    """Each row's largest magnitude is the largest number there is, all others are the nearest ones."""
    largest = LARGEST[p.data.dtype]
    rows, data = p.by_row(z.contiguous()), p.by_row(p.data.to(torch.float32))
    torch.testing.assert_close(p.scale, rows.abs().amax(1) / largest, rtol=2e-7, atol=0)
    assert torch.equal(data.abs().amax(1), torch.full_like(p.scale, largest))
    # The quotient is off by a few float32 roundings, which count where it is near the middle of two numbers.
    quotient = rows / p.scale[:, None]
    whole = torch.frexp(quotient).exponent.clamp(min=-5).float() - 4
    quantum = torch.ones_like(quotient) if p.data.dtype == torch.int8 else torch.exp2(whole)
    assert bool(((data - quotient).abs() <= quantum * 0.5 + 4e-7 * quotient.abs()).all())


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", STORES)
@pytest.mark.parametrize("with_input", [False, True])
def test_rows_are_quantised_to_nearest(path, shape, dtype, with_input):
    for kind in INPUTS:
        y, opened = tensor(*shape, dtype=kind), tensor(*shape, dtype=kind) if with_input else None
        kept = y.clone(), None if opened is None else opened.clone()
        p = stored(y, opened, dtype)
        assert p.dtype == kind
        assert_quantised(p, y.float() if opened is None else y.float() + opened.float())
        assert torch.equal(y, kept[0])
        assert opened is None or torch.equal(opened, kept[1])


@pytest.mark.parametrize("shape", SHAPES, ids=str)
@pytest.mark.parametrize("dtype", STORES)
def test_kernel_and_reference_write_the_same_numbers(kernels, shape, dtype):
    y, opened = tensor(*shape), tensor(*shape, dtype=torch.bfloat16)
    p, q = stored(y, opened, dtype), Packed.empty(y, dtype)
    reference.store(y, opened, q)
    assert torch.equal(p.scale, q.scale)
    assert torch.equal(p.data.to(torch.float32), q.data.to(torch.float32))


@pytest.mark.parametrize("dtype", STORES)
def test_halves_are_rounded_to_even(path, dtype):
    z = torch.zeros(64, device=DEVICE)
    # With a scale of 1; float8 has steps of 2 from 16 on.
    z[:6] = torch.tensor([LARGEST[dtype], 0.5, 1.5, 2.5, -3.5, 17.0])
    to = [0.0, 2.0, 2.0, -4.0, 17.0] if dtype == torch.int8 else [0.5, 1.5, 2.5, -3.5, 16.0]
    assert stored(z, None, dtype).float32()[1:6].tolist() == to


@pytest.mark.parametrize("dtype", STORES)
def test_every_number_that_can_be_stored_is_stored_exactly(path, dtype):
    data = torch.arange(256, dtype=torch.uint8).view(dtype).to(torch.float32)
    data = data[data.isfinite() & (data.abs() <= LARGEST[dtype])].to(DEVICE)
    assert torch.equal(stored(data, None, dtype).float32(), data)
    assert torch.equal(stored(data * 2.0**-40, None, dtype).float32(), data * 2.0**-40)


@pytest.mark.parametrize("dtype", STORES)
@pytest.mark.parametrize("shape", [(6, 70), (6, 5000)], ids=str)
def test_zeros_stay_and_what_is_not_finite_stays_visible(path, dtype, shape):
    y = tensor(*shape)
    y[1], y[2, -1], y[3, 3], y[4, 0], y[5] = 0.0, torch.nan, torch.inf, -torch.inf, 1e-36
    p = stored(y, None, dtype)
    out = p.float32()
    assert p.scale[1] == 0
    assert not out[1].any()
    assert bool(out[2:5].isnan().all())
    assert bool(out[:2].isfinite().all())
    # Too small for the inverse of a scale to be a number.
    assert not out[5].any()
    assert bool(p.data.to(torch.float32)[:2].isfinite().all())


@pytest.mark.parametrize("dtype", STORES)
def test_the_largest_and_smallest_rows(path, dtype):
    y = tensor(4, 70)
    y *= torch.tensor([[1e38], [1.0], [1e-20], [1e-34]], device=DEVICE) / y.abs().amax(1, keepdim=True)
    assert_quantised(stored(y, None, dtype), y)


@pytest.mark.parametrize(("x", "y", "to"), list(itertools.product(INPUTS, INPUTS, (None, *INPUTS))))
def test_a_difference_is_rounded_to_the_inputs_dtype_and_cast(path, x, y, to):
    opened, out = tensor(3, 70, dtype=x), tensor(3, 70, dtype=y)
    found = stored(out, opened, to)
    exact = (opened + out).to(x).to(to or y)
    if path == "on" and DEVICE == "cpu" and torch.bfloat16 in (x, to or y):
        # Triton's interpreter truncates to bfloat16.
        torch.testing.assert_close(found, exact, rtol=torch.finfo(torch.bfloat16).eps, atol=0)
    else:
        assert torch.equal(found, exact)


@pytest.mark.parametrize("to", [None, *INPUTS])
def test_a_value_is_cast(path, to):
    y = tensor(3, 70, dtype=torch.bfloat16)
    assert torch.equal(stored(y, None, to), y.to(to or y.dtype))


def test_what_was_opened_may_be_where_it_is_stored(path):
    x, y = tensor(3, 70), tensor(3, 70)
    out = x.neg()
    store(y, out, out)
    assert torch.equal(out, y - x)


@pytest.mark.parametrize("dtype", [*STORES, torch.bfloat16])
def test_inputs_that_are_not_contiguous(path, dtype):
    y, opened = tensor(70, 3).t(), tensor(3, 140)[:, ::2]
    plain = stored(y.contiguous(), opened.contiguous(), dtype)
    found = stored(y, opened, dtype)
    for a, b in zip(*((t.tensors() if isinstance(t, Packed) else (t,)) for t in (found, plain)), strict=True):
        assert torch.equal(a.to(torch.float32), b.to(torch.float32))


@pytest.mark.parametrize("dtype", STORES)
def test_the_kernel_takes_what_it_claims(kernels, monkeypatch, dtype):
    ran: list[Any] = []
    run = launching.run
    monkeypatch.setattr(launching, "run", lambda *given: ran.append(given) or run(*given))
    for kind in INPUTS:
        stored(tensor(3, 70, dtype=kind), None, dtype)
        stored(tensor(3, 70, dtype=kind), tensor(3, 70), dtype)
    stored(tensor(3, 70), tensor(3, 70, dtype=torch.bfloat16), None)
    assert len(ran) == 7
    # torch has one pass for these, and float64 no kernel.
    stored(tensor(3, 70), tensor(3, 70), None)
    stored(tensor(3, 70), None, torch.bfloat16)
    stored(tensor(3, 70, dtype=torch.float64), None, dtype)
    assert len(ran) == 7


@pytest.mark.parametrize("dtype", STORES)
def test_blocks_give_the_same_bits(monkeypatch, dtype):
    y, opened = torch.randn(50, 130), torch.randn(50, 130)
    whole = stored(y, opened, dtype)
    monkeypatch.setattr(launch, "CPU_BLOCK", 300)
    parts = stored(y, opened, dtype)
    assert torch.equal(whole.scale, parts.scale)
    assert torch.equal(whole.data.view(torch.uint8), parts.data.view(torch.uint8))


@pytest.mark.parametrize("dtype", STORES)
def test_no_elements(path, dtype):
    for shape in ((0, 64), (2, 0)):
        assert stored(tensor(*shape), None, dtype).float32().shape == shape
