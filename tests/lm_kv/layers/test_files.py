from functools import cache

import pytest
import torch

from dcache import DcacheError, lm_kv
from dcache.lm_kv.scoring.scorers import KeyDistance
from tests.lm_kv.language_models import (
    batch,
    check_they_go_on_alike,
    copies,
    family,
    generate,
    llama,
    prefilled,
)

NEW = {"input_ids": torch.tensor([[5], [6]]), "position_ids": torch.tensor([[27], [40]])}


@torch.no_grad()
def step(model, cache):
    return model(**NEW, attention_mask=torch.ones(2, 41), past_key_values=cache).logits


@pytest.mark.parametrize(
    "policy",
    [lm_kv.snapkv(window=4, allocation="heads"), lm_kv.h2o(), lm_kv.expected_attention(), lm_kv.kvzip()],
    ids=lambda policy: policy.name,
)
def test_a_loaded_cache_goes_on_as_the_saved_one(policy, tmp_path):
    model = llama()
    cache = prefilled(model, policy, batch(), budget=0.4)
    loaded = lm_kv.KVCache.load(cache.save(tmp_path / "cache.safetensors"), model)
    assert loaded.policy == cache.policy
    torch.testing.assert_close(step(model, loaded), step(model, cache), atol=0, rtol=0)
    cache.compress()
    loaded.compress()
    torch.testing.assert_close(step(model, loaded), step(model, cache), atol=0, rtol=0)


MODEL = cache(lambda: llama(4))


@torch.no_grad()
@pytest.mark.filterwarnings("ignore:sinks=:dcache.DcacheWarning", "ignore:of a budget:dcache.DcacheWarning")
@pytest.mark.parametrize("name", sorted(lm_kv.available("policy")))
def test_copies_go_on_as_their_cache_with_every_policy(name, tmp_path):
    policy = lm_kv.make(name)
    # Policies that encode several layers together keep all tokens.
    budget = {} if policy.joint is not None or name == "xquant" else {"budget": 0.5}
    own = prefilled(MODEL(), policy, batch(), **budget)
    others = copies(own, MODEL(), tmp_path / "cache.safetensors")
    check_they_go_on_alike(MODEL(), [own, *others], steps=2, atol=1.5e-5)
    assert [other.stats().kept for other in others] == [own.stats().kept] * 3
    assert [other.stats().read for other in others] == [own.stats().read] * 3


@torch.no_grad()
def test_a_loaded_cache_knows_from_where_positions_go_on(tmp_path):
    # Called without position_ids, the padded row counts columns: 13 more than true tokens.
    model, inputs = llama(1), batch()
    cache = lm_kv.KVCache(model, lm_kv.streaming_llm(sinks=2), budget=10)
    model(**inputs, past_key_values=cache)
    loaded = lm_kv.KVCache.load(cache.save(tmp_path / "cache.safetensors"), model)
    new = {"input_ids": NEW["input_ids"], "attention_mask": torch.ones(2, 41)}
    logits = [model(**new, past_key_values=one).logits for one in (cache, loaded)]
    torch.testing.assert_close(*logits, atol=0, rtol=0)


def test_a_cache_of_another_model_is_refused(tmp_path):
    path = prefilled(llama(), "keydiff", batch(), budget=0.4).save(tmp_path / "cache.safetensors")
    with pytest.raises(
        DcacheError,
        match=r"a cache of a model with num_hidden_layers 3, .*one has num_hidden_layers 2",
    ):
        lm_kv.KVCache.load(path, llama(2))
    # Other heads: the first call would have been the first to notice, somewhere inside.
    wide = llama(num_key_value_heads=4)
    with pytest.raises(DcacheError, match="with num_key_value_heads 2, this one has num_key_value_heads 4"):
        lm_kv.KVCache.load(path, wide)


@pytest.mark.parametrize("path", [None, "", 3])
def test_what_is_no_path_is_refused(path):
    with pytest.raises(DcacheError, match="expected the path of a cache file, got"):
        lm_kv.KVCache.load(path, llama(1))
    with pytest.raises(DcacheError, match="expected the path of a cache file, got"):
        prefilled(llama(1), "keydiff", batch(), budget=0.4).save(path)


def test_what_cannot_be_saved_says_why(tmp_path):
    path = tmp_path / "cache.safetensors"
    with pytest.raises(DcacheError, match="holds nothing yet"):
        lm_kv.KVCache(llama(1), "keydiff", budget=0.4).save(path)
    own = lm_kv.Policy("mine", scorer=KeyDistance(), sinks=0, window=0)
    with pytest.raises(DcacheError, match="only caches of registered policies can be saved, got 'mine'"):
        prefilled(llama(1), own, batch(), budget=0.4).save(path)
    on_host = prefilled(llama(1), lm_kv.keydiff(), batch(), budget=0.4, codec=lm_kv.rekv())
    with pytest.raises(DcacheError, match=r"HostCodec\(\) beside keydiff cannot be saved.*another codec"):
        on_host.save(path)
    with pytest.raises(DcacheError, match="has layers whose cache is the library's"):
        prefilled(family("gemma2"), "keydiff", batch(), budget=0.4).save(path)
    assert not path.exists()


def test_other_files_are_refused(tmp_path):
    from safetensors.torch import save_file

    path = tmp_path / "other.safetensors"
    save_file({"a": torch.zeros(1)}, path)
    with pytest.raises(DcacheError, match=r"is not a cache that KVCache\.save wrote"):
        lm_kv.KVCache.load(path, llama(1))
    with pytest.raises(DcacheError, match="cannot read the cache"):
        lm_kv.KVCache.load(tmp_path / "none.safetensors", llama(1))


def test_generation_continues_from_a_file(tmp_path):
    model, inputs = llama(), batch(pads=0)
    cache = lm_kv.KVCache(model, "keydiff", budget=1.0)
    first, _ = generate(model, inputs, cache, 4)
    loaded = lm_kv.KVCache.load(cache.save(tmp_path / "cache.safetensors"), model)
    longer = torch.cat([inputs["input_ids"], first], 1)
    again = {"input_ids": longer, "attention_mask": torch.ones_like(longer)}
    assert torch.equal(generate(model, again, loaded, 4)[0], generate(model, again, None, 4)[0])
