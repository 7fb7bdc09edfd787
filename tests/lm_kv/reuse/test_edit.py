import pytest
import torch

from dcache import DcacheError, lm_kv
from tests.lm_kv.language_models import batch, generate, prefilled
from tests.lm_kv.reuse.common import NEW, QUESTION, close, usual, whole

TEXT = batch(pads=0)["input_ids"][:1]


def filled(layers: int = 3, policy: object = "keydiff", **more: object) -> lm_kv.KVCache:
    """A cache of the text."""
    inputs = {"input_ids": TEXT, "attention_mask": torch.ones_like(TEXT)}
    return prefilled(usual(layers), policy, inputs, **{"budget": 1.0, **more})


def edited(start: int, stop: int, new: torch.Tensor) -> torch.Tensor:
    return torch.cat([TEXT[:, :start], new, TEXT[:, stop:]], 1)


def logits(cache: lm_kv.KVCache, layers: int, text: torch.Tensor) -> torch.Tensor:
    ids = torch.cat([text, QUESTION], 1)
    return generate(usual(layers), {"input_ids": ids, "attention_mask": torch.ones_like(ids)}, cache)[1]


# Tokens are replaced by more, inserted, deleted; at the begin, in the middle, at the end.
EDITS = [(10, 14, 7), (10, 10, 7), (10, 20, 0), (0, 3, 7), (33, 40, 2), (0, 0, 1)]


@pytest.mark.parametrize(("start", "stop", "count"), EDITS)
def test_a_model_of_one_layer_is_exact(start, stop, count):
    new = NEW[:, :count]
    cache = lm_kv.edit(usual(1), filled(1), start, stop, new if count else None)
    text = edited(start, stop, new)
    assert cache.stats().seen == (text.shape[1],)
    close(logits(cache, 1, text), whole(usual(1), text))


@pytest.mark.parametrize(("start", "stop", "count"), [(39, 40, 1), (33, 40, 7), (40, 40, 7), (33, 40, 0)])
def test_an_edit_at_the_end_is_exact(start, stop, count):
    new = NEW[:, :count]
    cache = lm_kv.edit(usual(), filled(), start, stop, new if count else None)
    close(logits(cache, 3, edited(start, stop, new)), whole(usual(), edited(start, stop, new)))


def test_the_same_tokens_are_no_change_and_the_old_cache_stays():
    cache = filled()
    before = [layer.store.tail.keys.clone() for layer in cache.layers]
    same = lm_kv.edit(usual(), cache, 10, 14, TEXT[:, 10:14])
    lm_kv.edit(usual(), cache, 10, 14, NEW)
    for layer, keys, other in zip(cache.layers, before, same.layers, strict=True):
        assert torch.equal(layer.store.tail.keys, keys)
        close(other.store.tail.keys, keys)


def test_an_edit_that_is_taken_back_leaves_the_keys_behind_it():
    there = lm_kv.edit(usual(), filled(), 10, 10, NEW)
    back = lm_kv.edit(usual(), there, 10, 17)
    for layer, other in zip(back.layers, filled().layers, strict=True):
        close(layer.store.tail.keys, other.store.tail.keys)
        close(layer.store.tail.values, other.store.tail.values)


def test_the_policy_goes_on_behind_the_edit():
    policy = lm_kv.snapkv(window=4, sinks=1)
    cache = lm_kv.KVCache(usual(), policy, budget=0.5)
    ids = {"input_ids": TEXT, "attention_mask": torch.ones_like(TEXT)}
    with cache.hold():
        generate(usual(), ids, cache, 1)
    after = lm_kv.edit(usual(), cache, 10, 14, NEW)
    logits(after, 3, edited(10, 14, NEW))
    # Half of 48, and eleven that were decoded.
    assert after.stats().kept == (35.0,)
    assert after.policy == cache.policy


def test_tokens_of_several_segments_are_in_their_order():
    cache = filled(policy=lm_kv.keydiff(window=4, sinks=0), budget=30)
    with pytest.raises(DcacheError, match="were evicted or encoded, and an edit needs all of them"):
        lm_kv.edit(usual(), cache, 3, 4, NEW)
    whole_cache = filled()
    for layer in whole_cache.layers:
        store, policy = layer.store, whole_cache.policy
        store.pack(store.stored(), store.stored().valid, 4, policy.reducer, policy.codec)
    after = lm_kv.edit(usual(), whole_cache, 10, 14, NEW)
    for layer, other in zip(after.layers, lm_kv.edit(usual(), filled(), 10, 14, NEW).layers, strict=True):
        close(layer.store.tail.keys, other.store.tail.keys)


@pytest.mark.parametrize(
    ("span", "ids"),
    [((5, 4), NEW), ((0, 41), NEW), ((7, 7), None), ((0, 40), None), ((-1, 3), NEW), ((1.5, 3), NEW)],
    ids=range(6),
)
def test_spans_outside_the_text_are_refused(span, ids):
    with pytest.raises(DcacheError, match=r"an edit needs 0 <= start <= stop <= 40|must be a whole number"):
        lm_kv.edit(usual(), filled(), *span, ids)


def test_caches_that_cannot_be_edited_are_refused():
    with pytest.raises(DcacheError, match="holds nothing yet"):
        lm_kv.edit(usual(), lm_kv.KVCache(usual(), "keydiff", budget=1.0), 0, 1, NEW)
    with pytest.raises(DcacheError, match="cache is another model's"):
        lm_kv.edit(usual(1), filled(), 0, 1, NEW)
    with pytest.raises(DcacheError, match="cache is a str"):
        lm_kv.edit(usual(), "cache", 0, 1, NEW)
    with pytest.raises(DcacheError, match="kvzip reads the text again"):
        lm_kv.edit(usual(), filled(policy="kvzip"), 0, 1, NEW)
    for text in (lm_kv.hydragen(filled(), 1), lm_kv.ape(filled(), [NEW[0]]), lm_kv.hogwild(filled(), 1)):
        # With and without tokens of its own.
        for _ in range(2):
            with pytest.raises(DcacheError, match=f"begins behind text that {text.policy.name} shares"):
                lm_kv.edit(usual(), text, 0, 1, NEW)
            with torch.no_grad():
                usual()(NEW, past_key_values=text)
    with pytest.raises(DcacheError, match="were evicted or encoded"):
        lm_kv.edit(usual(), filled(policy=lm_kv.kivi(group=8, residual=8)), 0, 1, NEW)
    # On the host, though nothing was evicted.
    with pytest.raises(DcacheError, match=r"keeps all as it is, such as keydiff's with budget=1.0"):
        lm_kv.edit(usual(), filled(policy=lm_kv.leoam()), 0, 1, NEW)
    rows = prefilled(usual(), "keydiff", batch(), budget=1.0)
    with pytest.raises(DcacheError, match="has 2 rows: edit them one by one"):
        lm_kv.edit(usual(), rows, 0, 1, NEW)
    row = rows.fork()
    row.batch_select_indices(torch.tensor([0]))
    # Its 27 tokens, without the pads in front.
    assert lm_kv.edit(usual(), row, 0, 1, NEW).stats().seen == (33,)
