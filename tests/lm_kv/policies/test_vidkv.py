import pytest
import torch

from dcache import lm_kv
from tests.lm_kv.language_models import batch, family, generate, llama


def test_groups_of_one_token_give_the_tokens_of_full_precision():
    # Then a number is its own level, but for float16.
    model, inputs = llama(), batch()
    ids, logits = generate(model, inputs, None)
    near_ids, near = generate(model, inputs, lm_kv.KVCache(model, lm_kv.vidkv(group=1, residual=0)))
    assert torch.equal(near_ids, ids)
    assert (near - logits).abs().max() < 0.02 * logits.abs().max()


@torch.no_grad()
def test_the_bytes_at_4096_tokens():
    model = llama(1, hidden_size=128, num_attention_heads=2, max_position_embeddings=4096).bfloat16()
    cache = lm_kv.KVCache(model, lm_kv.vidkv())
    model.model(input_ids=torch.randint(2, 97, (1, 4096)), past_key_values=cache)
    stats = cache.stats()
    # Of 256 bytes: 12 + 1 + 13, and a group's steps and lows, 6 and 4 bits a channel of keys and 2 of values.
    token = 12 + 1 + 13 + (32 * 4 + 32 * 2 + 64 * 2) / 32
    assert stats.bytes_held / stats.bytes_full == pytest.approx(token / 256, abs=0.015)
    assert stats.bytes_held == cache.nbytes


def test_learned_positions_and_grouped_queries_are_no_obstacle():
    model, inputs = family("gpt2"), batch(pads=0)
    assert generate(model, inputs, lm_kv.KVCache(model, lm_kv.vidkv(group=4, residual=2)))[0].shape[0] == 2
