import torch

from dcache.lm_kv.codecs.codec import Plain
from dcache.lm_kv.codecs.low_bit import LowBitCodec
from dcache.lm_kv.storage.reducers import Demote
from dcache.lm_kv.storage.store import LayerStore
from dcache.lm_kv.storage.tiers import is_lower

LOWER = LowBitCodec(4, 4, 0)


def filled(tokens: int) -> LayerStore:
    torch.manual_seed(0)
    keys, values = torch.randn(1, 2, tokens, 8), torch.randn(1, 2, tokens, 8)
    store = LayerStore(keys, values, ())
    store.append(keys, values, torch.arange(tokens)[None], None, torch.tensor([tokens]))
    store.add_scores(torch.arange(2.0 * tokens).view(1, 2, tokens))
    return store


def positions(store: LayerStore) -> list[list[list[int]]]:
    """Of each segment the positions of each head."""
    return [[run.tolist() for run in s.places().split(s.sizes)] for s in store.segments]


def test_what_is_not_kept_is_stored_below_and_never_encoded_again():
    store = filled(8)
    whole = store.stored()
    keep = torch.zeros(1, 2, 8, dtype=torch.bool)
    keep[0, 0, [1, 5]] = keep[0, 1, [0, 7]] = True
    store.pack(whole, keep, 0, Demote(LOWER), Plain())
    assert positions(store) == [[[1, 5], [0, 7]], [[0, 2, 3, 4, 6, 7], [1, 2, 3, 4, 5, 6]]]
    high, low = (segment.decoded()[0] for segment in store.segments)
    assert torch.equal(high, whole.keys[keep])
    # 16 levels of groups of four tokens.
    assert 0 < (low - whole.keys[~keep]).abs().max() < 0.3
    assert store.segments[0].score.tolist() == [1, 5, 8, 15]
    # One more of each head falls; what lay below stays to the bit.
    stored = store.stored()
    fallen = is_lower(store.segments, stored.valid, LOWER)
    assert fallen[0].sum(-1).tolist() == [6, 6]
    again = torch.zeros_like(stored.valid)
    again[0, :, 0] = True
    store.pack(stored, again, 0, Demote(LOWER), Plain())
    assert positions(store) == [[[1], [0]], [[0, 2, 3, 4, 6, 7, 5], [1, 2, 3, 4, 5, 6, 7]]]
    before, after = low.view(2, 6, 8), store.segments[1].decoded()[0].view(2, 7, 8)
    assert torch.equal(after[:, :6], before)
    assert store.kept().tolist() == [[8, 8]]
