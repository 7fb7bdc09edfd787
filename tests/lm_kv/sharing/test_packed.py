"""A batch that is read packed fills a cache as the padded batch does."""

import pytest
import torch
from transformers import DynamicCache

from dcache import DcacheError, lm_kv
from dcache.lm_kv.sharing.packed import read_packed
from tests.lm_kv.language_models import batch, family, llama, prefilled

POLICIES = {
    "all": lm_kv.keydiff(budget=1.0),
    "snapkv": lm_kv.snapkv(budget=0.4, window=4, pool=3),
    "h2o": lm_kv.h2o(budget=0.4),
    "kvzip": lm_kv.kvzip(budget=0.4),
    "streaming_llm": lm_kv.streaming_llm(budget=0.4, sinks=2),
    "kivi": lm_kv.kivi(bits=8, group=8, residual=8),
    "quest": lm_kv.quest(budget=0.4, page=4, window=4),
}


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_it_holds_what_a_padded_batch_leaves(name):
    model, inputs = llama(2), batch()
    packed = lm_kv.KVCache(model, POLICIES[name])
    read_packed(packed, inputs["input_ids"], inputs["attention_mask"])
    padded = prefilled(model, POLICIES[name], {key: tensor[:, :-1] for key, tensor in inputs.items()})
    for own, other in zip(packed.layers, padded.layers, strict=True):
        few, exact = own.store.stored(), other.store.stored()
        assert torch.equal(few.valid, exact.valid)
        assert torch.equal(few.positions[few.valid], exact.positions[few.valid])
        for part in ("keys", "values"):
            near, far = getattr(few, part)[few.valid], getattr(exact, part)[few.valid]
            torch.testing.assert_close(near, far, atol=0.1 if name == "kivi" else 1e-5, rtol=0)
    assert packed.stats() == padded.stats()


def test_pads_are_never_read():
    model, inputs = llama(2), batch()
    columns = []
    hook = model.model.layers[0].mlp.register_forward_pre_hook(lambda _, args: columns.append(args[0].shape))
    read_packed(lm_kv.KVCache(model, POLICIES["all"]), inputs["input_ids"], inputs["attention_mask"])
    hook.remove()
    # 27 and 40 tokens, the last one of each excepted.
    assert columns == [(1, 26 + 39, 64)]


IDS, MASK = torch.full((2, 4), 5), torch.tensor([[0, 0, 1, 1], [1, 1, 1, 1]])


@pytest.mark.parametrize(
    ("ids", "mask", "message"),
    [
        (IDS, MASK.flip(1), "pad on the left"),
        (IDS, MASK[:, :3], "attention_mask must have the shape of input_ids"),
        (IDS[:, :1], MASK[:, :1], "input_ids must be .* at least two columns, got .2, 1."),
        (IDS, None, "attention_mask must be .* got None"),
        (IDS, torch.tensor([[0, 0, 0, 1], [0, 0, 0, 1]]), "in front of it"),
    ],
    ids=["right", "shape", "one column", "no mask", "nothing in front"],
)
def test_another_batch_is_refused(ids, mask, message):
    with pytest.raises(DcacheError, match=message):
        read_packed(lm_kv.KVCache(llama(2), POLICIES["all"]), ids, mask)


def test_another_cache_is_refused():
    model = llama(2)
    full = prefilled(model, POLICIES["all"], batch())
    with pytest.raises(DcacheError, match="this cache holds 40 columns already"):
        read_packed(full, IDS, MASK)
    full.reset()
    read_packed(full, IDS, MASK)
    with pytest.raises(DcacheError, match="prepacking fills a KVCache, got DynamicCache"):
        read_packed(DynamicCache(), IDS, MASK)
    with pytest.raises(DcacheError, match="has layers whose cache is the library's"):
        read_packed(lm_kv.KVCache(family("gemma2"), POLICIES["all"]), IDS, MASK)
