"""`weighted_sum` against float64 arithmetic."""

import itertools

import pytest
import torch

from dcache.kernels.weighted_sum import weighted_sum

DTYPES = (torch.float64, torch.float32, torch.bfloat16, torch.float16)
WEIGHTS = {1: [1.0], 2: [-0.75, 1.75], 3: [1.0, -3.0, 3.0]}


@pytest.mark.parametrize(("stored", "dtype"), list(itertools.product(DTYPES[1:], DTYPES)))
@pytest.mark.parametrize("count", WEIGHTS)
@pytest.mark.parametrize("with_base", [False, True])
def test_sum_in_wide_arithmetic_rounded_once(stored, dtype, count, with_base):
    anchors = [torch.randn(3, 5).to(stored) for _ in range(count)]
    base = torch.randn(3, 5).to(dtype) if with_base else None
    weights = WEIGHTS[count]
    before = [a.clone() for a in anchors], None if base is None else base.clone()
    out = weighted_sum(base, anchors, weights, dtype)
    exact = sum(w * a.double() for w, a in zip(weights, anchors, strict=True))
    if base is not None:
        exact = exact + base.double()
    assert out.dtype == dtype
    assert out.shape == (3, 5)
    torch.testing.assert_close(out, exact.to(dtype), rtol=torch.finfo(dtype).eps * 2, atol=2e-6)
    assert all(torch.equal(a, b) for a, b in zip(anchors, before[0], strict=True))
    assert base is None or torch.equal(base, before[1])


@pytest.mark.parametrize("dtype", DTYPES)
@pytest.mark.parametrize("weights", [[1.0], [2.0], [0.0, 1.0]])
@pytest.mark.parametrize("with_base", [False, True])
def test_the_result_is_new_memory(dtype, weights, with_base):
    anchors = [torch.ones(4, dtype=dtype) for _ in weights]
    base = torch.zeros(4, dtype=dtype) if with_base else None
    out = weighted_sum(base, anchors, weights, dtype)
    out.fill_(5)
    assert all(torch.equal(a, torch.ones(4, dtype=dtype)) for a in anchors)
    assert base is None or not base.any()


def test_one_anchor_of_weight_one_comes_back_bit_for_bit():
    for dtype in DTYPES:
        z = torch.randn(7).to(dtype)
        assert torch.equal(weighted_sum(None, [z], [1.0], dtype), z)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_narrow_dtypes_accumulate_in_float32(dtype):
    # 256 + 1 - 256 is 0 in bfloat16 (and 2048 + 1 - 2048 in float16) step by step, 1 in float32.
    big = torch.tensor([256.0 if dtype is torch.bfloat16 else 2048.0], dtype=dtype)
    one = torch.ones(1, dtype=dtype)
    assert weighted_sum(big, [one, big], [1.0, -1.0], dtype).item() == 1.0
    assert weighted_sum(None, [big, one, big], [1.0, 1.0, -1.0], dtype).item() == 1.0
