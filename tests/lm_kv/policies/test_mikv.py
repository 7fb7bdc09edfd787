import pytest
import torch

from dcache import DcacheError, lm_kv
from dcache.lm_kv.codecs.codec import Plain
from tests.lm_kv.language_models import (
    batch,
    check_a_padded_row_is_as_alone,
    check_they_go_on_alike,
    copies,
    generate,
    llama,
    prefilled,
)


def test_what_h2o_keeps_stays_as_it_came_and_the_rest_has_few_bits():
    model, inputs = llama(2), batch()
    cache = prefilled(model, "mikv", inputs, budget=0.4)
    evicted = prefilled(model, "h2o", inputs, budget=0.4)
    for own, other in zip(cache.layers, evicted.layers, strict=True):
        high, low = own.store.segments
        assert torch.equal(high.positions, other.store.segments[0].positions)
        assert torch.equal(high.keys, other.store.segments[0].keys)
        assert isinstance(high.codec, Plain)
        assert low.codec.bits == 2
        assert own.store.kept().tolist() == [[27, 27], [40, 40]]


def test_a_padded_row_is_as_alone_while_tokens_fall():
    # In float64: a sum in another order may move a float32 number across the middle between two levels.
    model, inputs = llama().double(), batch()
    both, caches = check_a_padded_row_is_as_alone(model, inputs, lm_kv.mikv(every=4, group=8), budget=0.4)
    _, full = generate(model, inputs, None)
    assert (both - full).abs().max() > 0.1
    # Of 35 tokens 14 stayed as they came at the last ranking, and three are newer.
    high, low = caches[0].layers[0].store.segments
    assert high.lengths[0, 0] + caches[0].layers[0].store.tail.valid[0].sum() == 17
    assert low.lengths[0, 0] == 38 - 17


def test_eight_bits_below_are_nearly_the_full_cache():
    model, inputs = llama(), batch()
    _, full = generate(model, inputs, None)
    _, near = generate(model, inputs, lm_kv.KVCache(model, lm_kv.mikv(low=8, every=4), budget=0.4))
    assert 0 < (near - full).abs().max() < 0.05 * full.abs().max()


def test_copies_go_on_alike(tmp_path):
    model = llama()
    cache = prefilled(model, lm_kv.mikv(every=2, group=8), batch(), budget=0.4)
    check_they_go_on_alike(model, [cache, *copies(cache, model, tmp_path / "cache.safetensors")], 3, 1e-5)


def test_bytes_are_those_of_both_tiers():
    inputs = batch(pads=0, length=1024)
    stats = prefilled(llama(), lm_kv.mikv(low=2), inputs, budget=0.25).stats()
    # Of 128 bytes of a token in float32 three quarters become 8 bytes of codes; keys have two float16
    # numbers for 32 tokens of a channel, values two for each group. All have a position and a running sum.
    low = 8 + 16 * 4 / 32 + 4
    assert stats.bytes_held / stats.bytes_full == pytest.approx((0.25 * 128 + 0.75 * low + 8) / 128, abs=0.03)
    assert stats.kept == (1024.0, 1024.0)


def test_what_does_not_go_together_is_refused():
    with pytest.raises(DcacheError, match="mikv stores all tokens by LowBitCodec"):
        lm_kv.KVCache(llama(1), "mikv", budget=0.5, codec=lm_kv.kivi(bits=2, group=32, residual=0))
    with pytest.raises(DcacheError, match="bits must be one of"):
        lm_kv.mikv(low=5)
