import torch

from dcache.lm_kv.codecs.carry import Carry


def test_one_takes_the_place_of_the_one_below_until_the_forward_ends():
    carry, first, second = Carry(), object(), object()
    carry.put(first, torch.ones(1), None)
    assert carry.get(first) is None
    carry.open()
    carry.put(first, torch.ones(1), None)
    carry.put(second, torch.zeros(1), first)
    assert carry.get(first) is None
    assert torch.equal(carry.get(second), torch.zeros(1))
    carry.close()
    assert carry.get(second) is None


def test_a_fork_has_the_tensors_in_common_and_encodes_by_itself():
    carry, of = Carry(), object()
    fork = carry.fork()
    fork.open()
    # Segments that were encoded before the fork have the first cache's.
    carry.put(of, torch.ones(1), None)
    assert fork.get(of) is carry.get(of)
    carry.encoded = 0, of
    assert fork.encoded is None
    fork.close()
    assert carry.get(of) is None
