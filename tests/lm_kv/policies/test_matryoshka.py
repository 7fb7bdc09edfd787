import pytest
import torch

import dcache
from dcache import lm_kv
from tests.lm_kv.language_models import batch, family, generate, llama


@pytest.mark.parametrize("name", ["llama", "gpt2"])
def test_all_directions_give_the_tokens_of_full_precision(name):
    # Keys are taken as attention has them, so learned positions are no obstacle.
    model, inputs = family(name), batch(pads=0)
    ids, logits = generate(model, inputs, None)
    near_ids, near = generate(model, inputs, lm_kv.KVCache(model, lm_kv.matryoshka(share=1.0, residual=0)))
    assert torch.equal(near_ids, ids)
    assert (near - logits).abs().max() < 0.02 * logits.abs().max()


def test_fewer_directions_are_further_off():
    model, inputs = llama(), batch()
    _, logits = generate(model, inputs, None, 4)

    def off(share):
        cache = lm_kv.KVCache(model, lm_kv.matryoshka(share=share, residual=0))
        return float((generate(model, inputs, cache, 4)[1] - logits).abs().mean())

    assert off(0.25) > off(0.5) > off(0.75) > 4 * off(1.0)


@torch.no_grad()
def test_the_bytes_at_4096_tokens():
    model = llama(1, hidden_size=128, num_attention_heads=2, max_position_embeddings=4096).bfloat16()
    cache = lm_kv.KVCache(model, lm_kv.matryoshka())
    model.model(input_ids=torch.randint(2, 97, (1, 4096)), past_key_values=cache)
    stats = cache.stats()
    # Half of 256 bytes, which basis it is twice, and the newest tokens; directions and means of two heads.
    token = 128 + 2 * 2
    bases = 2 * (128 * 64 * 2 + 2 * 64 * 4) / (2 * 4096)
    assert stats.bytes_held / stats.bytes_full == pytest.approx((token + bases) / 256, abs=0.015)
    assert stats.bytes_held == cache.nbytes


def test_it_is_enabled_by_name():
    model, inputs = llama(1), batch()
    dcache.enable(model, "matryoshka", share=0.75)
    out = model.generate(**inputs, max_new_tokens=4, do_sample=False, pad_token_id=0)
    dcache.disable(model)
    assert out.shape == (2, 44)
