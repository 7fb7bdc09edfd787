from collections import Counter

import pytest
import torch

from dcache import DcacheError, lm_kv
from dcache.lm_kv.codecs.low_bit import LowBitCodec
from dcache.lm_kv.storage.store import LayerStore
from tests.lm_kv.language_models import batch, check_a_padded_row_is_as_alone, generate, llama, prefilled


def kept(cache):
    return torch.stack([layer.store.kept() for layer in cache.layers], 1)


def test_each_layer_keeps_the_fewest_tokens_that_reach_the_share():
    model, inputs = llama(3, attention="eager"), {name: tensor[1:] for name, tensor in batch().items()}
    weights = model(inputs["input_ids"], output_attentions=True, use_cache=False).attentions
    for share in (0.5, 0.9):
        cache = prefilled(model, lm_kv.zipvl(share=share, window=0), inputs)
        expected = []
        for layer, weight in enumerate(weights):
            columns = weight[0].mean(0).sum(0)
            reached = columns.sort(descending=True).values.cumsum(0)
            count = int((reached < share * columns.sum()).sum()) + 1
            expected.append([count] * 2)
            best = (columns / torch.arange(40, 0, -1)).topk(count).indices
            for run in cache.layers[layer].store.segments[0].positions.split(count):
                assert run.tolist() == sorted(best.tolist())
        assert kept(cache)[0].tolist() == expected
        assert len({count for count, _ in expected}) > 1
    assert cache.policy.budget == 1.0


def test_the_budget_is_an_upper_limit_and_the_whole_share_everything():
    model, inputs = llama(2), batch()
    free = kept(prefilled(model, lm_kv.zipvl(share=0.9, window=2), inputs))
    limited = kept(prefilled(model, lm_kv.zipvl(share=0.9, window=2), inputs, budget=12))
    assert torch.equal(limited, free.clamp_max(12))
    assert bool((free > 12).any())
    _, own = generate(model, inputs, lm_kv.KVCache(model, lm_kv.zipvl(share=1.0, every=2)))
    _, full = generate(model, inputs, None)
    torch.testing.assert_close(own, full, atol=1.5e-5, rtol=0)


def test_what_is_protected_is_kept_beside_the_share():
    model, inputs = llama(2), batch()
    cache = prefilled(model, lm_kv.zipvl(share=0.01, sinks=3, window=4), inputs)
    assert kept(cache).unique().tolist() == [7]
    run = cache.layers[0].store.segments[0].positions[:3].tolist()
    assert run == [0, 1, 2]


def test_fewer_bits_keep_the_others():
    model, inputs = llama(2).double(), batch()
    policy = lm_kv.zipvl(share=0.8, low=2, window=4, every=4)
    _, caches = check_a_padded_row_is_as_alone(model, inputs, policy)
    assert caches[0].stats().kept == (38.0, 51.0)
    high, low = caches[0].layers[0].store.segments
    assert high.codec == LowBitCodec(4, 32, 32)
    assert low.codec == LowBitCodec(2, 32, 0)
    dropped = prefilled(model, lm_kv.zipvl(share=0.8, window=4), inputs)
    both = prefilled(model, policy, inputs)
    for layer, other in zip(both.layers, dropped.layers, strict=True):
        assert torch.equal(layer.store.segments[0].lengths, other.store.segments[0].lengths)


def test_options_outside_their_range_and_other_allocations_are_refused():
    for share in (0.0, 1.5, "x"):
        with pytest.raises(DcacheError, match="share must be a number above 0 and at most 1"):
            lm_kv.zipvl(share=share)
    with pytest.raises(DcacheError, match="'global' for zipvl: leave its allocation as it is"):
        lm_kv.KVCache(llama(1), "zipvl", allocation="global")
    with pytest.raises(DcacheError, match=r"'coverage' for snapkv.*or choose zipvl"):
        lm_kv.KVCache(llama(1), "snapkv", budget=4, allocation="coverage")
    with pytest.raises(DcacheError, match="low must be"):
        lm_kv.zipvl(low=-1)


def test_an_eviction_gathers_a_layers_tokens_for_its_statistics_and_once_more(monkeypatch):
    cache = prefilled(llama(2), lm_kv.zipvl(share=0.9, window=2), batch())
    gather, calls = LayerStore.stored, []
    monkeypatch.setattr(LayerStore, "stored", lambda store: calls.append(store) or gather(store))
    cache.compress()
    assert Counter(calls) == {layer.store: 2 for layer in cache.layers}
