import pytest
import torch

from dcache import DcacheError, lm_kv
from tests.lm_kv.language_models import generate, llama
from tests.lm_kv.reuse.common import PARTS, QUESTION, behind, chunks, close, usual, whole

WAY = lm_kv.cacheblend(ratio=0.3)


def test_a_row_with_pads_is_what_it_is_alone():
    both = lm_kv.join(usual(), [chunks()[:2], chunks()], WAY)
    assert both.mask.sum(1).tolist() == [23, 34]
    assert both.cache.stats().seen == (23, 34)
    logits = behind(usual(), both)
    for row, parts in enumerate([chunks()[:2], chunks()]):
        alone = lm_kv.join(usual(), parts, WAY)
        assert alone.computed == (both.computed[row],)
        assert torch.equal(alone.tokens[0], both.tokens[row, -alone.ids.shape[1] :])
        close(logits[row : row + 1], behind(usual(), alone))


POLICIES = {
    "snapkv": {"window": 4, "sinks": 1},
    "h2o": {"window": 4, "sinks": 1},
    "streaming_llm": {"sinks": 1},
    "kvzip": {},
    "kivi": {"group": 8, "bits": 8},
    "quest": {"window": 4, "page": 4},
}


@pytest.mark.filterwarnings("ignore:sinks=:dcache.DcacheWarning")
@pytest.mark.parametrize("name", sorted(POLICIES))
def test_any_policy_goes_on_from_what_was_joined(name):
    # All tokens are computed, so the cache has what the model itself would have put there.
    policy = lm_kv.make(name, budget=0.5, **POLICIES[name])
    logits, caches = [], []
    for parts in (chunks(), [torch.cat(PARTS, 1)]):
        cache = lm_kv.KVCache(usual(), policy)
        joined = lm_kv.join(usual(), parts, lm_kv.cacheblend(ratio=1.0), cache=cache)
        assert joined.cache is cache
        logits.append(behind(usual(), joined))
        caches.append(cache)
    torch.testing.assert_close(logits[0], logits[1], atol=1e-3, rtol=0)
    for one, other in zip(caches[0].layers, caches[1].layers, strict=True):
        assert torch.equal(one.store.kept(), other.store.kept())
    assert caches[0].stats().kept == caches[1].stats().kept
    if name in ("snapkv", "streaming_llm", "kvzip"):
        # Half of 39 tokens, and eleven that were decoded.
        assert caches[0].stats().kept == (30.0,)


def test_a_full_budget_evicts_nothing_and_a_codec_stores_what_was_joined():
    cache = lm_kv.KVCache(usual(), lm_kv.kivi(bits=8, group=8, residual=8))
    joined = lm_kv.join(usual(), chunks(), WAY, cache=cache)
    exact = behind(usual(), lm_kv.join(usual(), chunks(), WAY))
    near = behind(usual(), joined)
    assert 0 < (near - exact).abs().max() < 0.1 * exact.abs().max()
    assert cache.layers[0].store.segments


def test_copies_go_on_alike(tmp_path):
    joined = lm_kv.join(usual(), chunks(), WAY)
    fork = joined.cache.fork()
    loaded = lm_kv.KVCache.load(joined.cache.save(tmp_path / "cache.safetensors"), usual())
    expected = behind(usual(), joined)
    for cache in (fork, loaded):
        assert torch.equal(generate(usual(), joined.inputs(QUESTION), cache)[1], expected)


def test_bytes_are_those_of_the_tensors_and_the_chunks_stay_as_they_are():
    before = [chunk.states.keys[0].clone() for chunk in chunks()]
    cache = lm_kv.join(usual(), chunks(), lm_kv.cacheblend(ratio=1.0)).cache
    tensors = [tensor for layer in cache.layers for tensor in layer.storages()]
    sizes = {tensor.untyped_storage().data_ptr(): tensor.untyped_storage().nbytes() for tensor in tensors}
    assert cache.nbytes == sum(sizes.values()) >= 34 * 3 * 2 * 2 * 16 * 4
    assert all(torch.equal(a, b.states.keys[0]) for a, b in zip(before, chunks(), strict=True))


def test_tokens_are_evicted_by_hand_where_no_query_is_read():
    cache = lm_kv.KVCache(usual(), lm_kv.keydiff(sinks=0, window=2), budget=10)
    lm_kv.join(usual(), chunks(), WAY, cache=cache)
    cache.compress()
    assert cache.stats().kept == (10.0,)


@pytest.mark.parametrize("name", ["snapkv", "h2o", "double_sparsity"])
def test_policies_that_read_queries_say_that_none_came(name, tmp_path):
    cache = lm_kv.KVCache(usual(), name, budget=0.5)
    lm_kv.join(usual(), chunks(), WAY, cache=cache)
    loaded = lm_kv.KVCache.load(cache.save(tmp_path / "cache.safetensors"), usual())
    for one in (cache, cache.fork(), loaded):
        with pytest.raises(DcacheError, match=f"{name} reads the model's queries, and none came"):
            one.compress()


def test_text_alone_is_computed_and_one_layer_needs_no_repair():
    joined = lm_kv.join(usual(), PARTS, lm_kv.pie())
    assert joined.computed == (1.0,)
    close(behind(usual(), joined), whole(usual(), *PARTS))
    model = usual(1)
    close(behind(model, lm_kv.join(model, chunks(1), lm_kv.pie())), whole(model, *PARTS))


@pytest.mark.parametrize("parts", [[], [[]], "text", [[PARTS[0]], PARTS[0]], PARTS[0]], ids=range(5))
def test_what_is_no_list_of_parts_is_refused(parts):
    with pytest.raises(DcacheError, match="chunks must be a list of what"):
        lm_kv.join(usual(), parts, WAY)


def test_other_arguments_are_refused():
    with pytest.raises(DcacheError, match="cache is another model's"):
        lm_kv.join(usual(), chunks(), WAY, cache=lm_kv.KVCache(llama(), "keydiff", budget=1.0))
    with pytest.raises(DcacheError, match="cache is a str"):
        lm_kv.join(usual(), chunks(), WAY, cache="cache")
    joined = lm_kv.join(usual(), chunks(), WAY)
    with pytest.raises(DcacheError, match="holds 34 tokens already: give an empty one"):
        lm_kv.join(usual(), chunks(), WAY, cache=joined.cache)
    with pytest.raises(DcacheError, match="a part of the text that is no chunk must be a tensor of ids"):
        lm_kv.join(usual(), [*chunks(), 3], WAY)
    for question in (torch.ones(3, 2, dtype=torch.long), torch.ones(1, 0, dtype=torch.long)):
        with pytest.raises(DcacheError, match=r"question must be ids of shape \[1, n\]"):
            joined.inputs(question)
    with pytest.raises(DcacheError, match="question must be a tensor of ids, got str"):
        joined.inputs("what?")


def test_a_question_alone_is_decoded_with_an_assistant():
    joined = lm_kv.join(usual(), [torch.cat(PARTS, 1)], "pie")
    options = {"max_new_tokens": 12, "do_sample": False}
    inputs = joined.inputs(QUESTION)
    plain = usual().generate(**inputs, **options)[0, -12:]
    mask = {"attention_mask": inputs["attention_mask"], "past_key_values": joined.cache}
    assisted = usual().generate(QUESTION, **mask, assistant_model=usual(1), **options)[0, -12:]
    assert torch.equal(assisted, plain)
