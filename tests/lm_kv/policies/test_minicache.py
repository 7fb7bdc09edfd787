import pytest
import torch

from dcache import DcacheWarning, lm_kv
from tests.lm_kv.language_models import batch, generate, llama, prefilled


def test_the_first_half_of_the_layers_stays_as_it_is():
    model, inputs = llama(5), batch()
    cache = prefilled(model, lm_kv.minicache(gamma=0.2, residual=8), inputs)
    whole = prefilled(model, "keydiff", inputs, budget=1.0)
    for index, (own, plain) in enumerate(zip(cache.layers, whole.layers, strict=True)):
        merged = index in (2, 3)
        assert bool(own.store.segments) == merged
        near, exact = own.store.stored(), plain.store.stored()
        keys = torch.stack([x.keys[1, :, :32] for x in (near, exact)])
        assert torch.equal(keys[0], keys[1]) != merged
        # Lengths are each layer's own.
        torch.testing.assert_close(*keys.norm(dim=-1))


def test_without_a_pair_all_is_exact():
    model, inputs = llama(3), batch()
    ids, full = generate(model, inputs, None)
    with pytest.warns(DcacheWarning, match="minicache encodes no layer"):
        cache = lm_kv.KVCache(model, lm_kv.minicache(start=1.0))
    own, logits = generate(model, inputs, cache)
    assert torch.equal(own, ids)
    torch.testing.assert_close(logits, full, atol=1.5e-5, rtol=0)


def test_a_pair_stores_little_more_than_half():
    model, inputs = llama(2), batch(pads=0, length=160)
    cache = prefilled(model, lm_kv.minicache(gamma=0.0, start=0.0, residual=0), inputs)
    # A vector of 16 numbers for two, their two lengths, and a byte that says that it is merged.
    vectors = 2 * 2 * 160 * 2
    expected = vectors * (16 * 4 + 2 * 4 + 1)
    assert expected < cache.nbytes < expected + 2000
    assert cache.nbytes < 0.6 * cache.stats().bytes_full
