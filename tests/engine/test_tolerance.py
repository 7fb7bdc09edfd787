"""The tolerances: wide enough for what a dtype rounds, too narrow for a mistake."""

import pytest
import torch

from dcache.cache.codec import Codec
from dcache.engine.tolerance import TOLERANCE
from dcache.intercept.pytree import same

STORED = (torch.float32, torch.bfloat16, torch.float16, torch.int8, torch.float8_e4m3fn)
TENSORS = [torch.randn(64, 48, generator=torch.Generator().manual_seed(seed)) for seed in range(5)]


def kept_in(x: torch.Tensor, dtype: torch.dtype) -> torch.Tensor:
    """What comes back of a tensor that was stored in another dtype."""
    return Codec("value", dtype).close(None, x).to(x.dtype)


def test_every_dtype_that_anchors_are_stored_in_has_one() -> None:
    assert set(STORED) < set(TOLERANCE)


@pytest.mark.parametrize("dtype", STORED, ids=str)
def test_what_storing_rounds_lies_within_it(dtype: torch.dtype) -> None:
    for x in TENSORS:
        distance, alike = same(x, kept_in(x, dtype))
        assert alike
        assert distance <= TOLERANCE[dtype]


@pytest.mark.parametrize("dtype", TOLERANCE, ids=str)
def test_an_output_that_is_one_eighth_too_large_lies_outside(dtype: torch.dtype) -> None:
    for x in TENSORS:
        distance, _ = same(x, x * 1.125)
        assert distance == pytest.approx(0.125, rel=1e-4)
        assert distance > TOLERANCE[dtype]


def test_a_dtype_with_fewer_bits_of_mantissa_is_allowed_no_less() -> None:
    floats = [torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.float8_e4m3fn]
    assert [torch.finfo(dtype).eps for dtype in floats] == sorted(torch.finfo(dtype).eps for dtype in floats)
    assert [TOLERANCE[dtype] for dtype in floats] == sorted(TOLERANCE[dtype] for dtype in floats)
