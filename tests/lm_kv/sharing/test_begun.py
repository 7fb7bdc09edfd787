"""What a shared text must be, and what a cache behind it is."""

import pytest
import torch
from transformers import DynamicCache

from dcache import DcacheError, lm_kv
from dcache.lm_kv.sharing import begun
from dcache.lm_kv.storage.front import Blocks
from tests.lm_kv.language_models import family, llama
from tests.lm_kv.sharing.texts import ids, read


def test_segments_of_a_text_are_shared_and_its_tail_is_copied():
    text = read(llama(2), ids(1, 20), lm_kv.snapkv(window=4, sinks=0), budget=0.5)
    store = text.layers[0].store
    first, second = begun.segments_of(store)
    assert first is store.segments[0]
    assert (first.width, second.width) == (6, 4)
    assert second.keys.data_ptr() != store.tail.keys.data_ptr()
    assert begun.length_of(text) == (20, 20)


def test_another_cache_begins_where_the_text_ends():
    text = read(llama(2), ids(1, 20))
    cache = begun.begin(text, "mine", 3, lambda layer: Blocks(begun.blocks_of(layer)), (20, 18))
    assert cache.get_seq_length() == 20
    assert cache.stats().seen == (18, 18, 18)
    assert cache.stats().method == "mine"
    assert text.stats().kept == (20.0,)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda model: DynamicCache(), "prefix must be a KVCache that has read one text, got DynamicCache"),
        (lambda model: lm_kv.KVCache(model, "keydiff", budget=0.5), "this cache holds nothing yet: run"),
        (lambda model: read(model, ids(2, 9)), "hydragen shares one text, and this cache holds 2 rows"),
        (lambda model: read(model, ids(1, 9), "streaming_llm"), "streaming_llm moves them"),
        (lambda model: read(model, ids(1, 9), lm_kv.quest(window=0)), "quest moves them or reads some"),
        (lambda model: lm_kv.hydragen(read(model, ids(1, 9)), 2), "this cache holds 2 rows"),
        (lambda model: lm_kv.hydragen(read(model, ids(1, 9)), 1), "this cache begins behind another one"),
    ],
    ids=["dynamic", "empty", "rows", "shifted", "selector", "behind rows", "behind"],
)
def test_what_cannot_be_shared_is_refused(make, message):
    with pytest.raises(DcacheError, match=message):
        lm_kv.hydragen(make(llama(2)), 2)


def test_layers_of_the_library_are_refused():
    with pytest.raises(DcacheError, match="has layers whose cache is the library's"):
        lm_kv.hydragen(read(family("gemma2"), ids(1, 9)), 2)


@pytest.mark.parametrize("rows", [0, 1.5, True])
def test_rows_are_a_whole_number(rows):
    with pytest.raises(DcacheError, match="rows must be a whole number of at least 1"):
        lm_kv.hydragen(read(llama(2), ids(1, 9)), rows)


def test_a_call_of_other_rows_is_refused():
    model = llama(2)
    cache = lm_kv.hydragen(read(model, ids(1, 9)), 2)
    with torch.no_grad(), pytest.raises(DcacheError, match="this cache holds 2 rows, the call has 3"):
        model(ids(3, 2), past_key_values=cache)
