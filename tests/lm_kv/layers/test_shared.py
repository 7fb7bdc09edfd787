import pytest
import torch

from dcache import DcacheError, lm_kv
from dcache.lm_kv.budgets.budget import Budget
from dcache.lm_kv.layers.shared import Shared
from dcache.lm_kv.policy import Policy
from dcache.lm_kv.scoring.scorers import KeyDistance
from tests.lm_kv.language_models import llama


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
