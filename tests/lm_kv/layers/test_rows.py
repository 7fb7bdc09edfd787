import copy
import pickle

import pytest
import torch

from dcache import DcacheError, lm_kv
from tests.lm_kv.language_models import batch, llama, prefill, prefilled


def test_layers_and_text_have_the_same_rows():
    model, inputs = llama(1), batch()
    cache = lm_kv.KVCache(model, "kvzip", budget=0.4)
    with cache.hold():
        prefill(model, inputs, cache)
    cache.reorder_cache(torch.tensor([1, 0]))
    assert cache.stats().seen == (40, 27)
    cache.batch_repeat_interleave(2)
    assert cache.stats().seen == (40, 40, 27, 27)
    cache.batch_select_indices(torch.tensor([3, 0]))
    assert cache.stats().seen == (27, 40)
    # kvzip reads each row's own text again: its budgets are those of the rows as they stand.
    cache.compress()
    assert cache.stats().kept == (10.0, 16.0)


def test_a_cache_that_is_filled_goes_on_as_the_one_that_has_the_text():
    model, inputs = llama(2), batch()
    full, filled = (lm_kv.KVCache(model, lm_kv.kvzip(), budget=0.4) for _ in range(2))
    with full.hold():
        prefill(model, inputs, full)
    tails = {layer.index: layer.store.tail for layer in full.layers}
    keys, values = ({i: getattr(t, side) for i, t in tails.items()} for side in ("keys", "values"))
    logits = {layer.index: layer.logits for layer in full.layers}
    filled.fill(keys, values, logits, inputs["input_ids"], inputs["attention_mask"].bool())
    assert filled.stats().seen == full.stats().seen == (27, 40)
    # kvzip reads the text again, which was filled in too.
    for cache in (full, filled):
        cache.compress()
    for one, other in zip(full.layers, filled.layers, strict=True):
        assert torch.equal(one.store.kept(), other.store.kept())
    with pytest.raises(DcacheError, match="holds 40 tokens already"):
        filled.fill(keys, values, logits, inputs["input_ids"], inputs["attention_mask"].bool())
    filled.reset()
    with pytest.raises(DcacheError, match="holds nothing yet"):
        filled.compress()


def test_marks_of_calls_are_not_of_a_text_that_comes_by_none():
    model, ids = llama(2), batch(pads=0)["input_ids"][0]
    cache = lm_kv.KVCache(model, lm_kv.rekv(page=4), budget=12)
    cache.mark(torch.ones(1, 30, dtype=torch.bool))
    with pytest.raises(DcacheError, match=r"marks are of the columns of calls.*mark what comes behind it"):
        lm_kv.join(model, [ids[:30]], "pie", cache=cache)


@torch.no_grad()
def test_a_shallow_copy_goes_its_own_way_too_and_a_pickle_is_refused():
    model = llama(1)
    cache = prefilled(model, "keydiff", batch(), budget=1.0)
    other = copy.copy(cache)
    model(torch.tensor([[5], [6]]), past_key_values=other)
    assert (cache.get_seq_length(), other.get_seq_length()) == (40, 41)
    assert cache.stats().seen == (27, 40)
    with pytest.raises(DcacheError, match=r"cannot be pickled.*use save and load"):
        pickle.dumps(cache)


@torch.no_grad()
def test_layers_share_their_counts_after_rows_moved_too():
    model = llama(3)
    cache = prefilled(model, lm_kv.streaming_llm(sinks=1), batch(), budget=12)
    new = {"attention_mask": torch.ones(2, 41), "position_ids": torch.tensor([[27], [40]])}
    model(torch.tensor([[5], [6]]), **new, past_key_values=cache)
    for move in (
        lambda: cache.reorder_cache(torch.tensor([1, 0])),
        lambda: cache.batch_repeat_interleave(2),
        lambda: cache.batch_select_indices(torch.tensor([0, 3])),
    ):
        move()
        stores = [layer.store for layer in cache.layers]
        assert len({id(store.seen) for store in stores}) == len({id(store.offset) for store in stores}) == 1
    assert cache.stats().seen == (41, 28)
