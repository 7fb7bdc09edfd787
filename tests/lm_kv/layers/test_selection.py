from dataclasses import replace

import pytest
import torch

from dcache import DcacheError, lm_kv
from dcache.lm_kv.codecs.codec import Plain
from dcache.lm_kv.layers.selection import by_position
from dcache.lm_kv.scoring.observers import ColumnSums
from dcache.lm_kv.scoring.preference import GivenLayers
from dcache.lm_kv.scoring.scorers import Recency
from dcache.lm_kv.scoring.selectors import PageBounds
from dcache.lm_kv.storage.reducers import drop
from dcache.lm_kv.storage.store import LayerStore
from tests.lm_kv.language_models import batch, check_a_padded_row_is_as_alone, generate, llama, prefilled

POLICIES = {
    "a2ats": lm_kv.a2ats(codes=8, distance=8, queries=8, sinks=1, window=4, every=4),
    "actqkv": lm_kv.actqkv(page=2, queries=8, window=4, every=4),
    "quest": lm_kv.quest(page=4, window=4, sinks=1, every=4),
    "rekv": lm_kv.rekv(page=2, sinks=1, window=4, every=4),
    "retrieval_attention": lm_kv.retrieval_attention(sinks=1, window=4, every=4),
    "shadowkv": lm_kv.shadowkv(page=4, rank=6, window=4, every=4),
    "loopserve": lm_kv.loopserve(queries=4, window=4, every=4),
    "double_sparsity": lm_kv.double_sparsity(channels=6, window=4, every=4),
}
NEW = {"input_ids": torch.tensor([[5], [6]]), "position_ids": torch.tensor([[27], [40]])}


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_a_padded_row_equals_its_single_run_while_reading_a_part(name):
    # In float64: a sum in another order may move a float32 number across the middle between two of float16.
    model, inputs = llama().double(), batch()
    both, caches = check_a_padded_row_is_as_alone(model, inputs, POLICIES[name], budget=0.4)
    _, full = generate(model, inputs, None)
    assert (both - full).abs().max() > 0.1
    stats = caches[0].stats()
    # The last token was not read: 38 and 51 tokens, of which 40 % round down to 15 and 20.
    assert stats.kept == (38.0, 51.0)
    assert stats.evictions == 0
    assert 11 < stats.read[0] <= 15
    assert 16 < stats.read[1] <= 20
    assert f"read per step  {stats.read[0]:.1f}, {stats.read[1]:.1f}" in str(stats)


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_a_row_reads_its_own_window_beside_a_shorter_one(name):
    # Half of 10 and of 16 tokens: three of the longer window leave the tail of the batch.
    model, inputs = llama(2).double(), batch()
    policy = replace(POLICIES[name], window=0.5, sinks=0)
    second = {key: tensor[1:] for key, tensor in inputs.items()}
    _, both = generate(model, inputs, lm_kv.KVCache(model, policy, budget=0.4))
    _, single = generate(model, second, lm_kv.KVCache(model, policy, budget=0.4))
    torch.testing.assert_close(both[1:], single, atol=1.5e-5, rtol=0)


@torch.no_grad()
def test_what_is_read_is_what_dense_attention_sees_with_the_rest_at_minus_infinity():
    model, inputs = llama(1), {name: tensor[1:] for name, tensor in batch().items()}
    new = {name: tensor[1:] for name, tensor in NEW.items()}
    # With all channels and pages of one token the largest logits of the group's mean weight are read.
    policy = lm_kv.double_sparsity(channels=16, window=0)
    logits = model(**new, past_key_values=prefilled(model, policy, inputs, budget=11)).logits
    whole = prefilled(model, "keydiff", inputs, budget=1.0)
    eager = llama(1, attention="eager")
    text = torch.cat([inputs["input_ids"], new["input_ids"]], 1)
    weights = eager(text, output_attentions=True, use_cache=False).attentions[0][0, :, -1, :40]
    scores = (weights / weights.sum(-1, keepdim=True)).unflatten(0, (2, 2)).mean(1)
    mask = torch.full((1, 4, 1, 41), float("-inf"))
    mask[..., 40] = 0.0
    for head in range(2):
        # Ten beside the new token, which is one of the eleven.
        mask[0, 2 * head : 2 * head + 2, 0, scores[head].topk(10).indices] = 0.0
    rows = torch.zeros(1, 4, 41, 41).masked_fill(~torch.ones(41, 41, dtype=torch.bool).tril(), float("-inf"))
    rows[:, :, -1:] = mask
    expected = eager(text, attention_mask=rows, use_cache=False).logits[:, -1:]
    torch.testing.assert_close(logits, expected, atol=1.5e-5, rtol=0)
    assert whole.stats().read == ()


def test_an_index_is_counted_moved_and_saved(tmp_path):
    model, inputs = llama(1), batch()
    cache = prefilled(model, POLICIES["quest"], inputs, budget=0.4)
    index = cache.layers[0].store.segments[0].index
    # Nine pages of the second row's 36 tokens; least and largest of 16 channels in two heads of both rows.
    assert {part.shape for part in index.values()} == {(2, 2, 9, 16)}
    assert cache.stats().bytes_held > cache.stats().bytes_full + 2 * 2 * 2 * 9 * 16 * 4
    loaded = lm_kv.KVCache.load(cache.save(tmp_path / "cache.safetensors"), model)
    with torch.no_grad():
        new = {**NEW, "attention_mask": torch.ones(2, 41)}
        expected = model(**new, past_key_values=cache.fork()).logits
        assert torch.equal(model(**new, past_key_values=loaded).logits, expected)
        cache.batch_select_indices(torch.tensor([1, 0]))
        swapped = model(**{name: tensor[[1, 0]] for name, tensor in new.items()}, past_key_values=cache)
    torch.testing.assert_close(swapped.logits[[1, 0]], expected, atol=1.5e-5, rtol=0)


def test_sums_over_what_is_not_read_are_refused():
    with pytest.raises(DcacheError, match="a selector reads some tokens at a step"):
        lm_kv.Policy(scorer=Recency(), selector=PageBounds(), observer=ColumnSums())


def test_statistics_of_columns_lie_at_their_positions():
    store = LayerStore(torch.zeros(2, 1, 0, 2), torch.zeros(2, 1, 0, 2))
    keys, valid = torch.randn(2, 1, 4, 2), torch.tensor([[False, True, True, True], [True] * 4])
    positions = (valid.cumsum(1) - 1).clamp_min(0)
    store.append(keys, keys, positions, valid, valid.sum(1))
    store.pack(store.stored(), store.stored().valid, 1, drop, Plain())
    # A segment of two and three tokens, then the tail's newest one.
    columns = torch.tensor([[[1.0, 2.0, 9.0, 3.0]], [[4.0, 5.0, 6.0, 7.0]]])
    assert by_position(store, columns).tolist() == [[[1, 2, 3, 0]], [[4, 5, 6, 7]]]


class Newest:
    """The last query of a call."""

    def of(self, query, valid):
        return query[:, :, -1:]


@torch.no_grad()
def test_a_call_of_several_tokens_reads_what_its_question_asks_for():
    model, inputs = llama(1), {name: tensor[1:] for name, tensor in batch().items()}
    new = {"input_ids": torch.tensor([[6, 7, 8]]), "position_ids": torch.tensor([[40, 41, 42]])}
    policy = lm_kv.Policy(scorer=Recency(), selector=PageBounds(1), question=Newest(), window=0, sinks=0)
    logits = model(**new, past_key_values=prefilled(model, policy, inputs, budget=10)).logits
    eager = llama(1, attention="eager")
    text = torch.cat([inputs["input_ids"], new["input_ids"]], 1)
    weights = eager(text, output_attentions=True, use_cache=False).attentions[0][0, :, -1, :40]
    scores = (weights / weights.sum(-1, keepdim=True)).unflatten(0, (2, 2)).mean(1)
    mask = torch.zeros(1, 4, 43, 43).masked_fill(~torch.ones(43, 43, dtype=torch.bool).tril(), float("-inf"))
    for head in range(2):
        others = torch.ones(43, dtype=torch.bool)
        others[scores[head].topk(10).indices] = others[40:] = False
        mask[:, 2 * head : 2 * head + 2, 40:, others] = float("-inf")
    expected = eager(text, attention_mask=mask, use_cache=False).logits[:, 40:]
    torch.testing.assert_close(logits, expected, atol=1.5e-5, rtol=0)
    # A policy without a question reads everything.
    policy = lm_kv.Policy(scorer=Recency(), selector=PageBounds(1), window=0, sinks=0)
    logits = model(**new, past_key_values=prefilled(model, policy, inputs, budget=10)).logits
    full = model(text, use_cache=False).logits[:, 40:]
    torch.testing.assert_close(logits, full, atol=1.5e-5, rtol=0)


@torch.no_grad()
def test_layers_share_what_is_read():
    model, inputs = llama(), batch()
    wants = GivenLayers(((0, 1.0), (1, 2.0), (2, 3.0)))
    policy = replace(lm_kv.actqkv(page=1, queries=8, window=4), preference=wants)
    cache = prefilled(model, policy, inputs, budget=0.4)
    model(**NEW, attention_mask=torch.ones(2, 41), past_key_values=cache)
    # A half, one and one and a half of 11 and 16 tokens, two fifths of 28 and 41.
    assert torch.stack([layer.read for layer in cache.layers], 1).tolist() == [[5, 11, 16], [8, 16, 24]]


def test_a_question_without_a_selector_is_refused():
    with pytest.raises(DcacheError, match="or question=None"):
        lm_kv.Policy(scorer=Recency(), question=Newest())


@torch.no_grad()
@pytest.mark.parametrize(
    "policy",
    [
        lm_kv.quest(sinks=0, window=4, page=4, every=2),
        lm_kv.tidal_decode(start=1, again=2, sinks=0, window=2),
        lm_kv.sentencekv(sinks=0, window=4),
        lm_kv.h2o(sinks=0, window=2, every=2),
    ],
    ids=lambda policy: policy.name,
)
def test_a_row_beside_one_that_is_done_reads_what_it_reads_alone(policy):
    model, inputs = llama(4), batch()
    single = {name: tensor[1:] for name, tensor in inputs.items()}
    both, own = (prefilled(model, policy, some, budget=12) for some in (inputs, single))
    mask = torch.cat([inputs["attention_mask"], torch.tensor([[0] * 6, [1] * 6])], 1)
    for step in range(6):
        place = torch.tensor([[26], [40 + step]])
        new = {"input_ids": torch.tensor([[0], [6]]), "position_ids": place}
        logits = model(**new, attention_mask=mask[:, : 41 + step], past_key_values=both).logits
        assert logits.isfinite().all()
        expected = model(new["input_ids"][1:], position_ids=place[1:], past_key_values=own).logits
        torch.testing.assert_close(logits[1:], expected, atol=1.5e-5, rtol=0)
        assert both.stats().read[1:] == own.stats().read
    assert both.stats().seen == (27, 46)
    assert both.stats().kept[1:] == own.stats().kept


@torch.no_grad()
def test_a_row_of_pads_alone_gives_numbers_and_takes_tokens_later():
    model = llama(2)
    cache = lm_kv.KVCache(model, lm_kv.quest(sinks=0, window=2, page=4), budget=7)
    mask = torch.tensor([[0] * 12, [1] * 12])
    ids = torch.arange(24).view(2, 12) + 5
    for columns in (slice(0, 10), slice(10, 11), slice(11, 12)):
        place = (mask.cumsum(1) - 1).clamp_min(0)[:, columns]
        out = model(
            ids[:, columns], attention_mask=mask[:, : columns.stop], position_ids=place, past_key_values=cache
        )
        assert out.logits.isfinite().all()
    mask = torch.cat([mask, torch.ones(2, 3, dtype=torch.long)], 1)
    place = torch.tensor([[0, 1, 2], [12, 13, 14]])
    own = lm_kv.KVCache(model, "keydiff", budget=1.0)
    logits = model(ids[:, :3], attention_mask=mask, position_ids=place, past_key_values=cache).logits
    expected = model(ids[:1, :3], past_key_values=own).logits
    torch.testing.assert_close(logits[:1], expected, atol=1.5e-5, rtol=0)


@torch.no_grad()
def test_a_mask_for_each_query_chooses_like_one_for_each_row():
    model, inputs = llama(2), batch()
    mask = torch.cat([inputs["attention_mask"], torch.ones(2, 1, dtype=torch.long)], 1)
    new = {"input_ids": torch.tensor([[5], [6]]), "position_ids": torch.tensor([[27], [40]])}
    policy = lm_kv.quest(sinks=0, window=4, page=4)
    caches = [prefilled(model, policy, inputs, budget=12) for _ in range(2)]
    logits = [
        model(**new, attention_mask=some, past_key_values=cache).logits
        for cache, some in zip(caches, (mask, mask[:, None, None].bool()), strict=True)
    ]
    torch.testing.assert_close(logits[1], logits[0], atol=0, rtol=0)
    assert caches[0].stats().read == caches[1].stats().read != ()
