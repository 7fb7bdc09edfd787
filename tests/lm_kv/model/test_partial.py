"""Computing some tokens of a text, with keys and values of the others given."""

import pytest
import torch
import transformers as T
from transformers import DynamicCache

from dcache import DcacheError
from dcache.lm_kv.model.families import decoder_of
from dcache.lm_kv.model.partial import check_all_full, compute
from dcache.lm_kv.model.states import States
from tests.lm_kv.language_models import SIZED, batch, family, language_model, llama

IDS = batch(pads=0)["input_ids"][:1]
LENGTH = IDS.shape[1]
ALL = torch.arange(LENGTH)


def whole(model):
    """All tokens computed, and what the model's own cache holds after them."""
    states, own = States(), DynamicCache(config=model.config)
    assert compute(decoder_of(model), states, IDS, ALL) is None
    with torch.no_grad():
        model(IDS, past_key_values=own)
    return states, own


def close(states, own):
    for layer, cached in enumerate(own.layers):
        torch.testing.assert_close(states.keys[layer], cached.keys, atol=1e-5, rtol=0)
        torch.testing.assert_close(states.values[layer], cached.values, atol=1e-5, rtol=0)


@pytest.mark.parametrize("name", ["llama", "qwen3", "phi"])
def test_all_tokens_are_the_plain_forward(name):
    model = family(name)
    states, own = whole(model)
    close(states, own)
    assert [logits.scaling for logits in states.logits.values()] == [0.25] * 3
    assert model.config._attn_implementation == "sdpa"


@pytest.mark.parametrize("tokens", [[39], [0, 1, 2], [0], [5, 6, 30], [*range(1, 40)], [17]], ids=str)
def test_some_tokens_are_what_they_were_where_the_others_are_right(tokens):
    model = llama()
    states, own = whole(model)
    some = torch.tensor(tokens)
    for layer in range(3):
        states.put(layer, some, torch.full((2, len(some), 16), 9.0), torch.full((2, len(some), 16), 9.0))
    compute(decoder_of(model), states, IDS, some)
    close(states, own)


def test_tokens_behind_the_last_one_and_wrong_ones_before_it_are_told_apart():
    model = llama()
    states, own = whole(model)
    # What stands behind is seen by none; what stands before is seen by all.
    states.put(1, slice(30, 40), torch.full((2, 10, 16), 9.0), torch.full((2, 10, 16), 9.0))
    compute(decoder_of(model), states, IDS, torch.tensor([29]))
    torch.testing.assert_close(states.keys[2][:, :, 29], own.layers[2].keys[:, :, 29], atol=1e-5, rtol=0)
    states.put(1, slice(0, 20), torch.full((2, 20, 16), 9.0), torch.full((2, 20, 16), 9.0))
    compute(decoder_of(model), states, IDS, torch.tensor([29]))
    assert (states.keys[2][:, :, 29] - own.layers[2].keys[:, :, 29]).abs().max() > 0.1
    # Its keys of the first two layers depend on the states of the first one alone.
    torch.testing.assert_close(states.keys[1][:, :, 29], own.layers[1].keys[:, :, 29], atol=1e-5, rtol=0)


def test_a_forward_ends_at_a_layer_before_that_is_written():
    model = llama()
    states, own = whole(model)
    part = States()
    keys, values = compute(decoder_of(model), part, IDS, ALL, until=1)
    torch.testing.assert_close(keys, own.layers[1].keys, atol=1e-5, rtol=0)
    torch.testing.assert_close(values, own.layers[1].values, atol=1e-5, rtol=0)
    assert list(part.keys) == [0]
    # The model goes on working, with and without a cache.
    assert model.config._attn_implementation == "sdpa"
    again, _ = whole(model)
    torch.testing.assert_close(again.keys[2], states.keys[2], atol=0, rtol=0)


def test_who_watches_sees_queries_and_all_keys():
    model, seen = llama(2), []
    states, own = whole(model)
    compute(decoder_of(model), states, IDS, torch.tensor([3, 20]), watch=seen.append)
    assert [watched.layer for watched in seen] == [0, 1]
    assert seen[1].query.shape == (1, 4, 2, 16)
    torch.testing.assert_close(seen[1].keys, own.layers[1].keys[:, :, :21], atol=1e-5, rtol=0)
    assert seen[1].visible.sum(1).tolist() == [4, 21]


def test_no_token_is_no_work():
    assert compute(decoder_of(llama(1)), States(), IDS, torch.tensor([], dtype=torch.long)) is None


FULL = {"layer_types": ["full_attention"] * 3}
OTHERS = {
    "soft cap": lambda: T.Gemma2Config(**SIZED, **FULL, query_pre_attn_scalar=16, attn_logit_softcapping=5.0),
    "sinks": lambda: T.GptOssConfig(**SIZED, **FULL, num_local_experts=4, num_experts_per_tok=2),
}


@pytest.mark.parametrize("name", sorted(OTHERS))
def test_soft_caps_and_sinks_count(name):
    model = language_model(OTHERS[name](), "eager")
    states, own = whole(model)
    close(states, own)
    compute(decoder_of(model), states, IDS, torch.tensor([2, 21, 39]))
    close(states, own)


@pytest.mark.parametrize("name", ["gemma2", "gpt_oss", "llama4", "qwen3_next"])
def test_layers_without_full_attention_are_refused(name):
    with pytest.raises(DcacheError, match=r"has layers whose cache is the library's \(\w+.*lm_kv.KVCache"):
        check_all_full(decoder_of(family(name)))
