import torch

from dcache import lm_kv
from tests.lm_kv.language_models import batch, llama, prefill


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
