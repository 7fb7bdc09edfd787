import gc

import pytest
import torch
from transformers import DynamicCache, StaticCache

from dcache import DcacheError, lm_kv
from tests.lm_kv.language_models import REFUSED, batch, generate, language_model, llama, prefill


def test_generate_gets_a_cache_and_its_figures_stay_when_it_is_gone():
    model, inputs = llama(), batch()
    _, expected = generate(model, inputs, lm_kv.KVCache(model, lm_kv.snapkv(window=4), budget=0.4))
    assert lm_kv.enable(model, lm_kv.snapkv(window=4, budget=0.4)) is model
    assert lm_kv.is_enabled(model)
    _, logits = generate(model, inputs, None)
    torch.testing.assert_close(logits, expected, atol=0, rtol=0)
    gc.collect()
    stats = lm_kv.stats(model)
    assert (stats.method, stats.kept, stats.seen) == ("snapkv", (21.0, 27.0), (38, 51))
    lm_kv.disable(model)
    assert not lm_kv.is_enabled(model)


def test_nothing_is_left_after_disable():
    model, inputs = llama(1), batch()
    decoder, before = model.model, dict(vars(model.model))
    expected = prefill(model, inputs, None)
    lm_kv.enable(model, "keydiff", budget=0.5)
    prefill(model, inputs, None)
    lm_kv.disable(model)
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
    lm_kv.enable(model, "keydiff", budget=1.0)
    assert torch.equal(model.generate(**inputs, num_beams=2, **options), beams)
    assert torch.equal(model.generate(**inputs, prefill_chunk_size=7, **options), chunks)


def test_a_call_with_a_cache_that_would_not_be_compressed_is_refused():
    model, inputs = llama(1), batch()
    filled = DynamicCache(config=model.config)
    prefill(model, inputs, filled)
    lm_kv.enable(model, "keydiff", budget=0.5)
    with pytest.raises(
        DcacheError, match="the call brings its own DynamicCache, which would not be compressed"
    ):
        prefill(model, inputs, filled)
    with pytest.raises(DcacheError, match="the call brings its own StaticCache"):
        prefill(model, inputs, StaticCache(config=model.config, max_cache_len=64))
    own = lm_kv.KVCache(model, "random", budget=0.5)
    prefill(model, inputs, own)
    assert own.stats().evictions == 1


def test_calls_without_a_cache_and_with_gradients_run_as_they_are():
    model, inputs = llama(1), batch()
    lm_kv.enable(model, "keydiff", budget=0.5)
    with torch.no_grad():
        assert model(**inputs, use_cache=False).past_key_values is None
    model.requires_grad_(True)
    out = model(**inputs)
    assert type(out.past_key_values) is DynamicCache
    out.logits.sum().backward()
    assert model.lm_head.weight.grad is not None


def test_it_is_refused_where_a_cache_would_be():
    with pytest.raises(DcacheError, match="no budget was given"):
        lm_kv.enable(llama(1), "keydiff")
    make, reason = REFUSED["mistral_sw"]
    with pytest.raises(DcacheError, match=reason):
        lm_kv.enable(language_model(make()), "keydiff", budget=0.5)
    model = lm_kv.enable(llama(1), "keydiff", budget=0.5)
    with pytest.raises(DcacheError, match="enabled on this model already"):
        lm_kv.enable(model, "random", budget=0.5)
    with pytest.raises(DcacheError, match=r"options \(window\) go with a policy's name"):
        lm_kv.enable(llama(1), lm_kv.keydiff(budget=0.5), window=3)


@pytest.mark.parametrize("ask", [lm_kv.stats, lm_kv.disable])
def test_nothing_enabled_is_nothing_to_ask(ask):
    with pytest.raises(DcacheError, match="no lm_kv policy is enabled on this model"):
        ask(llama(1))


def test_before_the_first_call_the_figures_are_empty():
    model = lm_kv.enable(llama(1), "keydiff", budget=0.5)
    assert lm_kv.stats(model).method == "keydiff"
    assert lm_kv.stats(model).seen == ()


def test_the_figures_are_the_newest_texts_even_if_an_older_cache_goes_later():
    model, inputs = llama(1), batch()
    lm_kv.enable(model, "keydiff", budget=10)
    with torch.no_grad():
        older = model(**inputs).past_key_values
        newer = model(inputs["input_ids"][:1]).past_key_values
    assert lm_kv.stats(model).seen == (40,)
    del newer
    assert lm_kv.stats(model).seen == (40,)
    del older
    assert lm_kv.stats(model).seen == (40,)
