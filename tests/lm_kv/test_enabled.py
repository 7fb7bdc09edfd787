import copy
import gc

import pytest
import torch
from transformers import DynamicCache, StaticCache

import dcache
from dcache import DcacheError, lm_kv
from dcache.lm_kv import enabled
from tests.lm_kv.language_models import REFUSED, batch, generate, language_model, llama, prefill


def test_generate_gets_a_cache_and_its_figures_stay_when_it_is_gone():
    model, inputs = llama(), batch()
    _, expected = generate(model, inputs, lm_kv.KVCache(model, lm_kv.snapkv(window=4), budget=0.4))
    assert dcache.enable(model, lm_kv.snapkv(window=4, budget=0.4)) is model
    _, logits = generate(model, inputs, None)
    torch.testing.assert_close(logits, expected, atol=0, rtol=0)
    gc.collect()
    stats = dcache.stats(model)
    assert (stats.method, stats.kept, stats.seen) == ("snapkv", (21.0, 27.0), (38, 51))
    dcache.disable(model)
    assert dcache.stats(model) == stats


def test_nothing_is_left_after_disable():
    model, inputs = llama(1), batch()
    decoder, before = model.model, dict(vars(model.model))
    expected = prefill(model, inputs, None)
    dcache.enable(model, "keydiff", budget=0.5)
    prefill(model, inputs, None)
    dcache.disable(model)
    gc.collect()
    assert not decoder._forward_pre_hooks
    assert not decoder._forward_hooks
    assert vars(decoder).keys() == before.keys()
    torch.testing.assert_close(prefill(model, inputs, None), expected, atol=0, rtol=0)


def test_beams_chunks_and_two_texts_have_caches_of_their_own():
    model, inputs = llama(), batch()
    options = {"max_new_tokens": 6, "do_sample": False}
    beams = model.generate(**inputs, num_beams=2, **options)
    chunks = model.generate(**inputs, prefill_chunk_size=7, **options)
    dcache.enable(model, "keydiff", budget=1.0)
    assert torch.equal(model.generate(**inputs, num_beams=2, **options), beams)
    assert torch.equal(model.generate(**inputs, prefill_chunk_size=7, **options), chunks)


def test_a_call_with_a_cache_that_would_not_be_compressed_is_refused():
    model, inputs = llama(1), batch()
    filled = DynamicCache(config=model.config)
    prefill(model, inputs, filled)
    dcache.enable(model, "keydiff", budget=0.5)
    with pytest.raises(
        DcacheError, match="the call brings its own DynamicCache, which would not be compressed"
    ):
        prefill(model, inputs, filled)
    with pytest.raises(DcacheError, match="the call brings its own StaticCache"):
        prefill(model, inputs, StaticCache(config=model.config, max_cache_len=64))
    with pytest.raises(DcacheError, match="the call brings its own DynamicCache"):
        prefill(model, inputs, DynamicCache(config=model.config, offloading=True))
    own = lm_kv.KVCache(model, "random", budget=0.5)
    prefill(model, inputs, own)
    assert own.stats().evictions == 1


def test_calls_without_a_cache_and_with_gradients_run_as_they_are():
    model, inputs = llama(1), batch()
    dcache.enable(model, "keydiff", budget=0.5)
    with torch.no_grad():
        assert model(**inputs, use_cache=False).past_key_values is None
    model.requires_grad_(True)
    out = model(**inputs)
    assert type(out.past_key_values) is DynamicCache
    out.logits.sum().backward()
    assert model.lm_head.weight.grad is not None


def test_it_is_refused_where_a_cache_would_be_and_nothing_is_changed():
    make, reason = REFUSED["mistral_sw"]
    with pytest.raises(DcacheError, match=reason):
        dcache.enable(language_model(make()), "keydiff", budget=0.5)
    model = dcache.enable(llama(1), "keydiff", budget=0.5)
    with pytest.raises(DcacheError, match="dense_layers must be indices from 0 to 0, got 7"):
        dcache.enable(model, "random", budget=0.5, dense_layers=(7,))
    assert dcache.stats(model).method == "keydiff"


def test_a_second_policy_takes_the_place_of_the_first():
    model, inputs = llama(1), batch()
    dcache.enable(model, "keydiff", budget=10)
    dcache.enable(model, "random", budget=8)
    prefill(model, inputs, None)
    assert (dcache.stats(model).method, dcache.stats(model).kept) == ("random", (8.0, 8.0))
    assert len(model.model._forward_pre_hooks) == 2
    dcache.disable(model)
    assert not model.model._forward_pre_hooks


def test_a_with_block_restores_what_was_enabled_before_with_its_figures():
    model, inputs = llama(1), batch()
    dcache.enable(model, "keydiff", budget=10)
    prefill(model, inputs, None)

    def fail_inside():
        with dcache.enabled(model, lm_kv.random(budget=8)) as same:
            prefill(same, inputs, None)
            assert dcache.stats(model).kept == (8.0, 8.0)
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        fail_inside()
    assert (dcache.stats(model).method, dcache.stats(model).kept) == ("keydiff", (10.0, 10.0))
    dcache.disable(model)
    with dcache.enabled(model, "random", budget=8):
        prefill(model, inputs, None)
    assert dcache.stats(model).method == "random"
    assert not model.model._forward_pre_hooks


@pytest.mark.parametrize("policy", [lm_kv.keydiff(budget=0.4, every=4), lm_kv.snapkv(budget=0.4, window=4)])
def test_assisted_decoding_takes_drafts_back_before_tokens_are_evicted(policy):
    # The library marks the cache that it makes, which is replaced.
    model, inputs = llama(), {name: tensor[1:] for name, tensor in batch().items()}
    _, expected = generate(model, inputs, lm_kv.KVCache(model, policy), prompt_lookup_num_tokens=3)
    with dcache.enabled(model, policy):
        _, logits = generate(model, inputs, None, prompt_lookup_num_tokens=3)
    torch.testing.assert_close(logits, expected, atol=0, rtol=0)


def test_a_copy_of_the_model_has_no_policy_enabled():
    model, inputs = dcache.enable(llama(1), "keydiff", budget=10), batch()
    other = copy.deepcopy(model)
    with torch.no_grad():
        assert type(other(**inputs).past_key_values) is DynamicCache
    dcache.disable(dcache.enable(other, "random", budget=8))
    with torch.no_grad():
        assert type(other(**inputs).past_key_values) is DynamicCache


def test_nothing_enabled_has_no_figures_and_nothing_to_take_off():
    model = llama(1)
    with pytest.raises(DcacheError, match="caching is not enabled on this LlamaForCausalLM"):
        dcache.stats(model)
    assert dcache.disable(model) is model
    assert enabled.stats(torch.nn.Linear(1, 1)) is None


def test_before_the_first_call_the_figures_are_empty():
    model = dcache.enable(llama(1), "keydiff", budget=0.5)
    assert dcache.stats(model).method == "keydiff"
    assert dcache.stats(model).seen == ()


def test_the_figures_are_the_newest_texts_even_if_an_older_cache_goes_later():
    model, inputs = llama(1), batch()
    dcache.enable(model, "keydiff", budget=10)
    with torch.no_grad():
        older = model(**inputs).past_key_values
        newer = model(inputs["input_ids"][:1]).past_key_values
    assert dcache.stats(model).seen == (40,)
    del newer
    assert dcache.stats(model).seen == (40,)
    del older
    assert dcache.stats(model).seen == (40,)


def test_a_copy_of_a_texts_cache_does_not_change_the_figures():
    model, inputs = llama(1), batch()
    dcache.enable(model, "keydiff", budget=1.0)
    with torch.no_grad():
        cache = model(**inputs).past_key_values
        fork = cache.fork()
        model(torch.tensor([[5], [6]]), past_key_values=fork)
    del cache
    gc.collect()
    assert dcache.stats(model).seen == (27, 40)
    del fork
    gc.collect()
    assert dcache.stats(model).seen == (27, 40)
