import pytest
import torch

from dcache import DcacheError, lm_kv
from dcache.lm_kv.codecs.low_bit import LowBitCodec
from tests.lm_kv.language_models import (
    batch,
    check_a_padded_row_is_as_alone,
    check_they_go_on_alike,
    copies,
    generate,
    llama,
    prefill,
    prefilled,
)

# Groups so small that a text of 27 tokens has several.
KIVI = lm_kv.kivi(bits=4, group=4, residual=6)
EVICTING = {
    "kivi": KIVI,
    "keydiff": lm_kv.keydiff(every=4),
    "snapkv heads": lm_kv.snapkv(window=4, pool=1, allocation="heads", every=4),
    "h2o": lm_kv.h2o(every=3),
    "kvzip": lm_kv.kvzip(every=6),
    "streaming_llm": lm_kv.streaming_llm(sinks=2, every=4),
    "quest": lm_kv.quest(page=4, window=4, every=4),
    "scissorhands": lm_kv.scissorhands(window=4, every=4),
    "razor_attention": lm_kv.razor_attention(sinks=2, every=4),
    "cake": lm_kv.cake(window=4, pool=1, every=4),
}


def codes(segment):
    """Each run's codes of keys and values, `[tokens, bytes]`."""
    both = torch.cat([segment.keys.codes, segment.values.codes], 1)
    return both.split(segment.sizes)


@pytest.mark.parametrize("name", sorted(EVICTING))
def test_a_padded_row_equals_its_single_run_while_encoding_and_evicting(name):
    # In float64: a sum in another order may move a float32 number across the middle between two levels.
    model, inputs = llama().double(), batch()
    options = {} if name == "kivi" else {"codec": KIVI, "budget": 0.5}
    _, caches = check_a_padded_row_is_as_alone(model, inputs, EVICTING[name], **options)
    stores = [layer.store for cache in caches for layer in cache.layers[:1]]
    assert all(isinstance(segment.codec, LowBitCodec) for store in stores for segment in store.segments)
    assert stores[0].kept()[0].tolist() == stores[1].kept()[0].tolist()


@torch.no_grad()
def test_every_token_is_stored_once_and_the_newest_ones_as_they_came():
    model, inputs = llama(1), batch()
    cache, plain = prefilled(model, KIVI, inputs), prefilled(model, "keydiff", inputs, budget=1.0)
    store, exact = cache.layers[0].store, plain.layers[0].store.stored()
    # Of 27 and 40 tokens 6 stay at least; the others leave in fours.
    assert store.segments[0].lengths.tolist() == [[20, 20], [32, 32]]
    assert store.tail.valid.sum(1).tolist() == [7, 8]
    stored = store.stored()
    for row, pads in enumerate((13, 0)):
        valid = stored.valid[row, 0]
        assert stored.positions[row, 0, valid].tolist() == list(range(40 - pads))
        off = (stored.keys[row][:, valid] - exact.keys[row, :, pads:]).abs()
        step = store.segments[0].keys.step.max()
        newest = (7, 8)[row]
        assert 0 < off[:, :-newest].max() <= step / 2 + 1e-6
        assert off[:, -newest:].max() == 0


@torch.no_grad()
def test_codes_never_change_while_others_are_appended():
    model, inputs = llama(1), batch()
    cache = prefilled(model, KIVI, inputs)
    before = codes(cache.layers[0].store.segments[0])
    for step in range(40):
        new = {"input_ids": torch.tensor([[5 + step], [6]]), "attention_mask": torch.ones(2, 41 + step)}
        model(**new, position_ids=torch.tensor([[27], [40]]) + step, past_key_values=cache)
    store = cache.layers[0].store
    assert store.segments[0].lengths.tolist() == [[60, 60], [72, 72]]
    for old, now in zip(before, codes(store.segments[0]), strict=True):
        assert torch.equal(now[: len(old)], old)
    assert store.segments[0].keys.index is None
    assert store.segments[0].places().split(store.segments[0].sizes)[2].tolist() == list(range(72))


@torch.no_grad()
def test_what_an_eviction_keeps_keeps_its_levels():
    model, inputs = llama(1), batch()
    cache = prefilled(model, lm_kv.snapkv(window=4, pool=1), inputs, codec=KIVI, budget=20)
    before = cache.layers[0].store.stored()
    shared = cache._shared
    shared.budget = type(shared.budget)(12)
    cache.compress()
    after = cache.layers[0].store.stored()
    for row in range(2):
        for head in range(2):
            kept = after.positions[row, head][after.valid[row, head]]
            assert len(kept) == 12
            was = {int(p): i for i, p in enumerate(before.positions[row, head]) if before.valid[row, head, i]}
            old = before.keys[row, head][[was[int(p)] for p in kept]]
            assert torch.equal(after.keys[row, head][after.valid[row, head]], old)


@torch.no_grad()
def test_a_forked_a_loaded_and_a_reordered_cache_go_on_alike(tmp_path):
    model, inputs = llama(), batch()
    for policy, more in ((KIVI, {}), (lm_kv.keydiff(), {"codec": KIVI, "budget": 0.5})):
        cache = prefilled(model, policy, inputs, **more)
        others = copies(cache, model, tmp_path / "cache")
        loaded = others[1]
        assert loaded.policy == cache.policy
        assert loaded.policy.codec == cache.policy.codec
        assert loaded.nbytes <= cache.nbytes + 3 * 2 * 2 * 2 * 8
        check_they_go_on_alike(model, [cache, *others], steps=9, atol=0)


@torch.no_grad()
def test_only_tokens_that_were_not_encoded_can_be_taken_back():
    model, inputs = llama(1), batch()
    cache, other = (prefilled(model, KIVI, inputs) for _ in range(2))
    with pytest.raises(DcacheError, match="only the newest 7 can be taken back"):
        cache.crop(-8)
    cache.crop(-5)
    ids, mask = inputs["input_ids"], torch.ones(2, 40)
    new = {"position_ids": torch.stack([torch.arange(22, 27), torch.arange(35, 40)])}
    model(input_ids=ids[:, 35:], attention_mask=inputs["attention_mask"], **new, past_key_values=cache)
    both = [
        model(
            input_ids=torch.tensor([[5], [6]]),
            attention_mask=torch.cat([mask, mask[:, :1]], 1),
            position_ids=torch.tensor([[27], [40]]),
            past_key_values=c,
        ).logits
        for c in (cache, other)
    ]
    torch.testing.assert_close(*both, atol=1e-5, rtol=0)


def test_drafts_that_are_verified_are_not_encoded_before_they_are_accepted():
    model, inputs = llama(), {name: tensor[1:] for name, tensor in batch().items()}
    ids, _ = generate(model, inputs, lm_kv.KVCache(model, lm_kv.kivi(bits=8, group=4, residual=0)))
    own = lm_kv.KVCache(model, lm_kv.kivi(bits=8, group=4, residual=0))
    drafted, _ = generate(model, inputs, own, prompt_lookup_num_tokens=3)
    assert drafted.shape == ids.shape
    assert own.layers[0].store.segments[0].lengths.min() > 40


def test_layers_beside_the_budget_and_texts_on_hold_stay_as_they_came():
    model, inputs = llama(), batch()
    cache = lm_kv.KVCache(model, KIVI, dense_layers=(1,))
    with cache.hold():
        prefill(model, inputs, cache)
        assert not any(layer.store.segments for layer in cache.layers)
    cache.compress()
    assert [len(layer.store.segments) for layer in cache.layers] == [1, 0, 1]


@torch.no_grad()
@pytest.mark.parametrize("size", [64, 128])
def test_the_bytes_at_4096_tokens(size):
    model = llama(1, hidden_size=2 * size, num_attention_heads=2, max_position_embeddings=4096).bfloat16()
    ids = torch.randint(2, 97, (1, 4096))
    for codec, budget, most in ((None, 1.0, 0.3), (lm_kv.kivi(bits=4), 0.25, 0.085)):
        policy = lm_kv.kivi(bits=4) if codec is None else lm_kv.keydiff(window=0)
        cache = lm_kv.KVCache(model, policy, codec=codec, budget=budget)
        model.model(input_ids=ids, past_key_values=cache)
        stats = cache.stats()
        assert stats.bytes_full == 2 * 4096 * 2 * size * 2
        assert most - 0.013 < stats.bytes_held / stats.bytes_full <= most


def test_a_codec_that_is_none_is_refused():
    with pytest.raises(DcacheError, match=r"codec must be a codec, or a policy that has one such as"):
        lm_kv.make("keydiff", budget=0.5, codec=lm_kv.snapkv())
    with pytest.raises(DcacheError, match="codec must be a codec"):
        lm_kv.make("keydiff", budget=0.5, codec="kivi")
    for bits in (5, 4.0, True):
        with pytest.raises(DcacheError, match=f"bits must be one of 2, 3, 4, 8, got {bits}"):
            lm_kv.kivi(bits=bits)
