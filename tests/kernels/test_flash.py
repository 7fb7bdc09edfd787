"""`flash` against softmax in float64."""

import pytest
import torch

from dcache.kernels import flash

B, H, KV, S, D = 2, 4, 2, 3, 8


def inputs(keys: int, dtype: torch.dtype = torch.float32) -> list[torch.Tensor]:
    shapes = ((B, H, S, D), (B, KV, keys, D), (B, KV, keys, D))
    return [torch.randn(shape, generator=torch.Generator().manual_seed(1)).to(dtype) for shape in shapes]


def exact(query, keys, values, added):
    keys, values = (x.double().repeat_interleave(H // KV, 1) for x in (keys, values))
    logits = 0.3 * query.double() @ keys.mT + added
    return logits.softmax(-1).nan_to_num(0.0) @ values, logits.logsumexp(-1)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64, torch.bfloat16, torch.float16])
def test_log_sum_exps_come_with_the_outputs(dtype):
    query, keys, values = inputs(5, dtype)
    assert flash.possible(query, keys, values)
    out, lse = flash.flash(query, keys, values, 0.3)
    wanted, sums = exact(query, keys, values, 0.0)
    assert (out.dtype, lse.dtype) == (dtype, torch.promote_types(dtype, torch.float32))
    eps = max(torch.finfo(dtype).eps, 1e-7)
    torch.testing.assert_close(out.double(), wanted, atol=2 * eps, rtol=2 * eps)
    torch.testing.assert_close(lse.double(), sums, atol=1e-6, rtol=1e-6)


def test_a_query_that_sees_no_key_has_no_weight():
    query, keys, values = inputs(5)
    added = torch.zeros(B, 1, 1, 5)
    added[0, ..., :2] = added[1] = float("-inf")
    out, lse = flash.flash(query, keys, values, 0.3, added)
    wanted, sums = exact(query, keys, values, added)
    torch.testing.assert_close(out.double(), wanted, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(lse.double(), sums, atol=1e-6, rtol=1e-6)
    assert (lse[1].isneginf().all(), out[1].abs().max()) == (True, 0)


def test_causal_queries_see_the_keys_before_them():
    query, keys, values = inputs(S)
    hidden = torch.full((S, S), float("-inf")).triu(1)
    out, lse = flash.flash(query, keys, values, 0.3, causal=True)
    wanted, sums = exact(query, keys, values, hidden)
    torch.testing.assert_close(out.double(), wanted, atol=1e-6, rtol=1e-6)
    torch.testing.assert_close(lse.double(), sums, atol=1e-6, rtol=1e-6)


def test_what_the_operator_does_not_take_is_known():
    query, keys, values = inputs(4)
    assert not flash.possible(query, keys[:, :, :0], values[:, :, :0])
    assert not flash.possible(query, keys, values[..., :4])
    assert not flash.possible(query, keys.bfloat16(), values.bfloat16())
    assert not flash.possible(query, keys.mT.contiguous().mT, values)
    assert not flash.possible(query.to(torch.int8), keys.to(torch.int8), values.to(torch.int8))
