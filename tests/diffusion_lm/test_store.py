"""`KVStore`: rows are written where they belong, by ordinal of the call, and bytes are counted."""

import torch

from dcache.diffusion_lm.selection import Selection
from dcache.diffusion_lm.store import KVStore

FULL = Selection(torch.ones(2, 5, dtype=torch.bool))


def test_rows_replace_those_of_their_position_and_call():
    store = KVStore()
    first, second = torch.randn(2, 3, 5, 4), torch.randn(2, 3, 5, 6)
    assert store.write(0, first, second, FULL)[0] is first
    store.write(1, second, first, FULL)
    mask = torch.zeros(2, 5, dtype=torch.bool)
    mask[0, [1, 4]] = mask[1, 2] = True
    keys, values = store.write(0, torch.ones(2, 3, 2, 4), torch.zeros(2, 3, 2, 6), Selection(mask))
    named = mask[:, None, :, None]
    assert torch.equal(keys, torch.where(named, 1.0, first))
    assert torch.equal(values, torch.where(named, 0.0, second))
    untouched, _ = store.write(1, second[:, :, :0], first[:, :, :0], Selection(torch.zeros_like(mask)))
    assert torch.equal(untouched, second)
    assert store.bytes_held == 2 * (2 * 3 * 5 * (4 + 6)) * 4


def test_what_was_stored_stays_when_the_sequence_grows():
    store = KVStore()
    keys = torch.randn(2, 3, 5, 4)
    store.write(0, keys, keys, FULL)
    store.grow(7)
    new = torch.zeros(2, 7, dtype=torch.bool)
    new[:, 5:] = True
    both, _ = store.write(0, torch.ones(2, 3, 2, 4), torch.ones(2, 3, 2, 4), Selection(new))
    assert torch.equal(both[:, :, :5], keys)
    assert bool((both[:, :, 5:] == 1).all())


def test_storage_is_not_the_callers():
    store, keys = KVStore(), torch.randn(2, 3, 5, 4)
    kept = keys.clone()
    store.write(0, keys, keys, FULL)
    keys.zero_()
    assert torch.equal(store.write(0, keys[:, :, :0], keys[:, :, :0], Selection(~FULL.mask))[0], kept)
