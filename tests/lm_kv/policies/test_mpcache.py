import pytest
import torch

from dcache import DcacheError, lm_kv
from dcache.lm_kv.policy import Policy
from dcache.lm_kv.scoring.scorers import KeyDistance
from tests.lm_kv.language_models import batch, check_a_padded_row_is_as_alone, generate, llama, prefilled


def test_what_is_held_are_the_tokens_that_snapkv_keeps():
    model, inputs = llama(2), batch()
    cache = prefilled(model, lm_kv.mpcache(held=0.4, page=2, queries=4, window=4), inputs, budget=8)
    evicted = prefilled(model, lm_kv.snapkv(window=4, pool=1), inputs, budget=0.4)
    for own, other in zip(cache.layers, evicted.layers, strict=True):
        assert torch.equal(own.store.segments[0].positions, other.store.segments[0].positions)
    assert cache.stats().kept == (10.0, 16.0)
    assert cache.stats().evictions == 1
    every = prefilled(model, lm_kv.quest(page=2, window=4), inputs, budget=8)
    # 16 of 40 tokens and 10 of 27, with the bounds of their pages; beside them eight queries of both rows.
    assert cache.stats().bytes_held < 0.7 * every.stats().bytes_held


def test_what_is_read_is_a_part_of_what_is_held():
    model, inputs = llama(2), batch()
    policy = lm_kv.mpcache(held=0.5, page=2, queries=4, window=4, every=4)
    _, caches = check_a_padded_row_is_as_alone(model, inputs, policy, budget=8)
    stats = caches[0].stats()
    # Of 35 and 48 tokens at the last indexing half were held, and three are newer.
    assert stats.kept == (20.0, 27.0)
    assert all(4 <= read <= 8 for read in stats.read)


def test_what_may_be_read_is_held():
    model, inputs = llama(2), batch()
    own = lm_kv.KVCache(model, lm_kv.mpcache(held=16, page=2, queries=4, window=4, every=2), budget=64)
    _, read = generate(model, inputs, own, 4)
    _, full = generate(model, inputs, None, 4)
    torch.testing.assert_close(read, full, atol=1.5e-5, rtol=0)


def test_options_outside_their_range_are_refused():
    for options, message in (({"held": 1.5}, "held"), ({"page": 0}, "page"), ({"queries": 0}, "queries")):
        with pytest.raises(DcacheError, match=f"{message} must be"):
            lm_kv.mpcache(**options)
    with pytest.raises(DcacheError, match="give the policy a selector and the allocation uniform"):
        Policy(scorer=KeyDistance(), held=0.5)
