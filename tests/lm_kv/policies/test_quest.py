import pytest

from dcache import DcacheError, lm_kv
from tests.lm_kv.language_models import batch, generate, llama


def test_all_tokens_are_kept_and_a_part_is_read():
    model = llama(2)
    cache = lm_kv.KVCache(model, lm_kv.quest(page=4, window=4), budget=12, dense_layers=(0,))
    generate(model, batch(pads=0), cache, 3)
    assert cache.stats().kept == (42.0, 42.0)
    # The first layer reads all 42; the second at most 12, and a page less where it does not fit.
    assert all((42 + 8) / 2 < read <= (42 + 12) / 2 for read in cache.stats().read)


def test_an_option_outside_its_range_is_refused():
    with pytest.raises(DcacheError, match="page must be a whole number of at least 1"):
        lm_kv.quest(page=0)
