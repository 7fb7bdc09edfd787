import pytest
import torch

from dcache import DcacheError, lm_kv
from dcache.lm_kv.layers.shifted import shifted
from dcache.lm_kv.storage.store import LayerStore
from tests.lm_kv.language_models import batch, llama, prefill, prefilled


@torch.no_grad()
def test_shifted_positions_equal_a_run_of_the_kept_tokens_alone():
    # In one layer keys depend on their token alone, so kept ones are what a short text has.
    model, inputs = llama(1), {name: tensor[1:] for name, tensor in batch().items()}
    cache = prefilled(model, lm_kv.streaming_llm(sinks=2), inputs, budget=10)
    new = torch.tensor([[50]])
    out = model(new, past_key_values=cache, position_ids=torch.tensor([[40]])).logits[:, -1]
    ids = inputs["input_ids"]
    short = torch.cat([ids[:, :2], ids[:, -8:], new], 1)
    torch.testing.assert_close(out, model(short, use_cache=False).logits[:, -1], atol=1e-5, rtol=1e-5)
    assert cache.stats().kept == (11.0,)


@torch.no_grad()
def test_positions_that_jump_are_refused_where_tokens_are_shifted():
    model, inputs = llama(1), batch()
    cache = lm_kv.KVCache(model, lm_kv.streaming_llm(sinks=2), budget=10)
    prefill(model, inputs, cache)
    mask = torch.cat([inputs["attention_mask"], torch.ones(2, 1)], 1)
    with pytest.raises(DcacheError, match="positions must go on without gaps"):
        # Without position_ids the model counts columns: for the padded row that is 13 further on.
        model(torch.tensor([[5], [6]]), attention_mask=mask, past_key_values=cache)


def test_each_run_is_moved_up_to_the_position_before_the_next_token():
    # Keys say where they stand; turning adds.
    keys = torch.arange(6.0).view(1, 1, 6, 1)
    store = LayerStore(keys, keys)
    store.append(
        keys, keys, torch.arange(6)[None], torch.tensor([[1, 0, 1, 0, 0, 1]]).bool(), torch.tensor([6])
    )
    part = shifted(store, lambda states, by: states + by[:, None, :, None])
    assert part.keys[0, 0, :, 0][part.valid[0, 0]].tolist() == [3, 4, 5]
