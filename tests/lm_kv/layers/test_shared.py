import pytest
import torch

from dcache import DcacheError, lm_kv
from dcache.lm_kv.budgets.budget import Budget
from dcache.lm_kv.layers.shared import Shared
from dcache.lm_kv.policy import Policy
from dcache.lm_kv.scoring.scorers import KeyDistance
from tests.lm_kv.language_models import batch, llama, prefill


def shared() -> Shared:
    return Shared(Policy(scorer=KeyDistance()), Budget(0.5), lambda layers: None)


def test_the_peak_is_the_most_that_was_held():
    one = shared()
    for change in (100, 50, -120, 20):
        one.count_bytes(change)
    assert one.bytes_held == 50
    assert one.peak_bytes == 150


def test_a_mask_is_read_once_for_all_layers_and_anew_for_each_forward():
    one, mask = shared(), torch.tensor([[0, 1]])
    key = torch.zeros(1, 1, 2, 4)
    one.begin(None)
    first = one.call(mask, key, 0)
    assert one.call(mask, key, 0) is first
    one.end()
    one.begin(torch.tensor([[5, 6]]))
    assert one.call(mask, key, 0).rope.tolist() == [[5, 6]]


def test_a_policy_that_turns_without_saying_so_is_told_what_to_set():
    with pytest.raises(DcacheError, match="set `needs_rotary`"):
        shared().turn(0, torch.zeros(1, 1, 1, 4), torch.zeros(1, 1), "shift")
    with pytest.raises(DcacheError, match="set `needs_rotary`"):
        shared().mean_rotation(0, 4, 0, 8, torch.zeros(1))


def test_a_codec_is_given_what_it_wants_to_know_of_its_layer():
    policy = lm_kv.shadowkv(budget=8)
    one = Shared(policy, Budget(8), lambda layers: None)
    one.prepare(llama(2).model, [0, 1])
    facts = one.codec(1).facts
    assert facts.whole == 8
    keys, places = torch.randn(1, 2, 3, 16), torch.tensor([[4, 5, 6]])
    turned = facts.turn(keys, places, "back")
    assert torch.equal(turned, one.turn(1, keys, places, "back"))
    assert not torch.equal(turned, keys)
    # Nothing is known of it to the policy itself, and other codecs are the policy's own.
    assert policy.codec.facts.turn is None
    plain = shared()
    assert plain.codec(0) is plain.policy.codec
    # Without a selector nothing is read whole.
    evicting = Policy(scorer=KeyDistance(), codec=policy)
    assert Shared(evicting, Budget(8), lambda layers: None).codec(0).facts.whole == 0


def test_a_call_that_is_refused_has_not_begun():
    model, other = llama(1), llama(1)
    cache = lm_kv.KVCache(model, lm_kv.look_m(window=2), budget=18)
    cache.mark(torch.ones(3, 40, dtype=torch.bool))
    with pytest.raises(DcacheError, match="3 rows were marked, the call has 2"):
        prefill(model, batch(), cache)
    # Else another model, which has none of our hooks, would see the keys of this call alone.
    with pytest.raises(DcacheError, match="belongs to another model"):
        prefill(other, batch(), cache)
    cache.mark(torch.ones(2, 40, dtype=torch.bool))
    prefill(model, batch(), cache)
    assert cache.stats().seen == (27, 40)


def test_a_fork_is_not_held_with_its_cache():
    model = llama(1)
    cache = lm_kv.KVCache(model, "keydiff", budget=0.5)
    with cache.hold():
        fork = cache.fork()
    prefill(model, batch(), fork)
    assert fork.stats().kept == (13.0, 20.0)


def test_the_budget_of_rows_is_read_once_for_layers_that_share_their_counts():
    one, seen = shared(), torch.tensor([10, 7])
    first = one.allowed(seen)
    assert first.tolist() == [5, 3]
    assert one.allowed(seen) is first
    assert one.allowed(seen + 2).tolist() == [6, 4]
