import pytest
import torch

from dcache import DcacheError, lm_kv
from tests.lm_kv.language_models import batch, family, generate, llama, prefilled


def test_all_directions_are_exact():
    model, inputs = llama(3), batch()
    ids, full = generate(model, inputs, None)
    for layers in (1, 2, 4):
        cache = lm_kv.KVCache(model, lm_kv.xkv(layers=layers, rank=999, value_rank=999, residual=0))
        own, logits = generate(model, inputs, cache)
        assert torch.equal(own, ids)
        torch.testing.assert_close(logits, full, atol=1e-4, rtol=0)


def test_a_group_stores_less_than_its_layers_alone():
    model, inputs = llama(4), batch(pads=0, length=160)
    options = {"residual": 0}
    # The same number of directions for each layer: one basis of tokens instead of four.
    one = prefilled(model, lm_kv.xkv(layers=4, rank=16, value_rank=16, **options), inputs)
    four = prefilled(model, lm_kv.xkv(layers=1, rank=16, value_rank=16, **options), inputs)
    assert one.nbytes < 0.65 * four.nbytes
    # Of 2 rows keys and values: 160 tokens and 128 features by 16 directions, in 2 heads of 16 channels.
    factors = 2 * 2 * (160 + 4 * 2 * 16) * 16 * 4
    assert factors < one.nbytes < 1.1 * factors


def test_positions_that_are_no_rotations_are_refused():
    with pytest.raises(DcacheError, match="rotat"):
        lm_kv.KVCache(family("gpt2"), "xkv")
    assert lm_kv.KVCache(family("gpt2"), "minicache").stats().seen == ()
