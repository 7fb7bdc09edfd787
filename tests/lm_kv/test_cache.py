"""The cache against its oracles: DynamicCache, a row by itself, dense attention with dropped keys at -inf."""

import copy
import gc
import weakref

import pytest
import torch
from transformers import DynamicCache, TextStreamer

from dcache import DcacheError, lm_kv
from tests.lm_kv.language_models import FAST, SLOW, alone, batch, family, generate, llama, prefill, prefilled

# Sum of layers' rounding; states of linear attention are summed in another order where rows are padded.
TOLERANCE = 1.5e-5
LINEAR_TOLERANCE = 1.5e-4
# Their float32 rounding is as large as the tolerance on some machines: compared in float64.
DOUBLE = {"granite"}
SNAPKV = lm_kv.snapkv(window=4, pool=3, every=4)
# They round; test_low_bit.py and its neighbours have their bounds.
LOW_BIT = {
    "cskv", "gear", "kivi", "matryoshka", "minicache", "rotatekv", "think", "vidkv", "xkv", "xquant",
    "xquant_cl", "zipcache",
}  # fmt: skip
# Their attention decides how much is kept, and the budget is an upper limit; test_zipvl.py has their oracle.
LESS = {"zipvl"}
# Beside those of test_every_policy.py: other allocations, an eviction at each step, a probe while decoding.
POLICIES = {
    "keydiff heads": lm_kv.keydiff(allocation="heads", every=4),
    "snapkv layers": lm_kv.snapkv(window=2, allocation="layers", every=4),
    "snapkv global": lm_kv.snapkv(window=4, allocation="global", every=4),
    "tova each step": lm_kv.tova(every=1),
    "tova global": lm_kv.make("tova", allocation="global", every=4),
    "h2o each step": lm_kv.h2o(every=1),
    "kvzip": lm_kv.kvzip(every=6),
}


def close(actual: torch.Tensor, expected: torch.Tensor, tolerance: float = TOLERANCE) -> None:
    torch.testing.assert_close(actual, expected, atol=tolerance, rtol=0)


def full(model):
    return lm_kv.KVCache(model, "keydiff", budget=1.0)


def check_family(name: str) -> None:
    model, inputs = family(name).to(torch.float64 if name in DOUBLE else torch.float32), batch()
    ids, logits = generate(model, inputs, DynamicCache(config=model.config))
    own_ids, own_logits = generate(model, inputs, full(model))
    assert torch.equal(own_ids, ids)
    close(own_logits, logits)
    evicting = [lm_kv.KVCache(model, SNAPKV, budget=0.4) for _ in range(2)]
    _, both = generate(model, inputs, evicting[0])
    _, single = generate(model, alone(inputs), evicting[1])
    close(both[:1], single, LINEAR_TOLERANCE if name.startswith("qwen3_") else TOLERANCE)
    assert (both - logits).abs().max() > 100 * LINEAR_TOLERANCE
    assert evicting[0].stats().evictions == 3
    # Of 38 and 51 tokens 35 and 48 were there at the last eviction: 14 and 19 are kept, and three since.
    assert evicting[0].stats().kept == (17.0, 22.0)


@pytest.mark.parametrize("name", sorted(FAST))
def test_a_family_equals_dynamic_cache_and_a_padded_row_its_single_run_while_evicting(name):
    check_family(name)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(SLOW))
def test_more_families(name):
    check_family(name)


@pytest.mark.parametrize("name", sorted(POLICIES))
def test_a_padded_row_equals_its_single_run_while_evicting(name):
    check_policy(llama(), name)


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(POLICIES))
def test_so_it_does_where_rounding_could_choose_other_experts(name):
    check_policy(family("gpt_oss"), name)


def check_policy(model, name: str) -> None:
    inputs = batch()
    caches = [lm_kv.KVCache(model, POLICIES[name], budget=0.4) for _ in range(2)]
    _, both = generate(model, inputs, caches[0])
    _, single = generate(model, alone(inputs), caches[1])
    close(both[:1], single)
    assert caches[0].stats().evictions > 1
    kept = [[cache.layers[i].store.kept()[0].tolist() for i in cache.compressed_layers] for cache in caches]
    assert kept[0] == kept[1]


@pytest.mark.parametrize("name", sorted(lm_kv.available("policy").keys() - LOW_BIT - LESS))
def test_a_budget_of_everything_equals_dynamic_cache_with_every_policy(name):
    model, inputs = llama(), batch()
    ids, logits = generate(model, inputs, DynamicCache(config=model.config))
    own_ids, own_logits = generate(model, inputs, lm_kv.KVCache(model, name, budget=1.0, every=2))
    assert torch.equal(own_ids, ids)
    close(own_logits, logits)


@torch.no_grad()
def test_ragged_heads_equal_dense_attention_with_dropped_keys_at_minus_infinity():
    model, inputs = llama(1), batch()
    cache = prefilled(model, lm_kv.snapkv(window=2, sinks=1, allocation="heads"), inputs, budget=0.4)
    store = cache.layers[0].store
    kept = store.kept()
    assert kept[0, 0] != kept[0, 1]
    visible = torch.zeros(2, 2, 41, dtype=torch.bool)
    visible[..., 40] = True
    for run, positions in enumerate(store.segments[0].positions.split(store.segments[0].sizes)):
        row, head = divmod(run, 2)
        pads = (13, 0)[row]
        visible[row, head, positions.long() + pads] = True
        visible[row, head, store.tail.positions[row].long() + pads] = True
    assert torch.equal(visible.sum(-1) - 1, kept)
    new = {"input_ids": torch.tensor([[5], [6]]), "position_ids": torch.tensor([[27], [40]])}
    own = model(**new, attention_mask=torch.ones(2, 41), past_key_values=cache).logits[:, -1]
    eager = llama(1, attention="eager")
    dynamic = DynamicCache(config=eager.config)
    prefill(eager, inputs, dynamic)
    mask = torch.zeros(2, 4, 1, 41).masked_fill(~visible.repeat_interleave(2, 1)[:, :, None], float("-inf"))
    close(own, eager(**new, attention_mask=mask, past_key_values=dynamic).logits[:, -1])


@torch.no_grad()
def test_scores_equal_eager_attentions():
    model, inputs = llama(attention="eager"), {name: tensor[1:] for name, tensor in batch().items()}
    weights = model(inputs["input_ids"], output_attentions=True, use_cache=False).attentions
    h2o, snapkv = lm_kv.KVCache(model, "h2o", budget=1.0), lm_kv.KVCache(model, SNAPKV, budget=0.4)
    with h2o.hold(), snapkv.hold():
        # A chunk, then token by token.
        model(inputs["input_ids"][:, :30], past_key_values=h2o)
        for column in range(30, 40):
            model(inputs["input_ids"][:, column : column + 1], past_key_values=h2o)
        model(inputs["input_ids"], past_key_values=snapkv)
    for layer, weight in enumerate(weights):
        grouped = weight.unflatten(1, (2, 2))
        close(h2o.layers[layer].store.stored().score, grouped.mean(2).sum(2), 2e-6)
        state = snapkv.layers[layer].state
        assert state["position"].tolist() == [[36, 37, 38, 39]]
    snapkv.compress()
    voted = weights[0].unflatten(1, (2, 2))[:, :, :, -4:].mean((2, 3))[..., :36]
    pooled = torch.nn.functional.avg_pool1d(voted, 3, 1, 1)
    for head, positions in enumerate(snapkv.layers[0].store.segments[0].positions.split([12, 12])):
        assert set(positions.tolist()) == set(pooled[0, head].topk(12).indices.tolist())


def test_beams_equal_dynamic_cache_and_a_row_its_single_run_while_evicting():
    model, inputs = llama(), batch()
    options = {"num_beams": 3, "max_new_tokens": 8, "do_sample": False}
    expected = model.generate(**inputs, **options)
    assert torch.equal(model.generate(**inputs, past_key_values=full(model), **options), expected)
    caches = [lm_kv.KVCache(model, SNAPKV, budget=0.4) for _ in range(2)]
    both = model.generate(**inputs, past_key_values=caches[0], **options)
    single = model.generate(**alone(inputs), past_key_values=caches[1], **options)
    assert torch.equal(both[:1, 40:], single[:, 27:])
    assert caches[0].stats().evictions > 1


@torch.no_grad()
def test_kvzip_reads_each_rows_own_text_after_rows_moved():
    model, inputs = llama(), batch()
    swapped = {name: tensor[[1, 0]] for name, tensor in inputs.items()}
    moved, expected = (lm_kv.KVCache(model, "kvzip", budget=0.4) for _ in range(2))
    with moved.hold(), expected.hold():
        prefill(model, inputs, moved)
        prefill(model, swapped, expected)
    moved.reorder_cache(torch.tensor([1, 0]))
    for cache in (moved, expected):
        cache.batch_repeat_interleave(2)
        cache.batch_select_indices(torch.tensor([0, 2]))
        cache.compress()
    for layer in range(3):
        first, second = (cache.layers[layer].store.segments[0] for cache in (moved, expected))
        assert torch.equal(first.positions, second.positions)


def test_kvzip_with_beams_equals_its_single_run():
    model, inputs = llama(), batch()
    options = {"num_beams": 2, "max_new_tokens": 8, "do_sample": False}
    caches = [lm_kv.KVCache(model, lm_kv.kvzip(every=3), budget=0.4) for _ in range(2)]
    both = model.generate(**inputs, past_key_values=caches[0], **options)
    single = model.generate(**alone(inputs), past_key_values=caches[1], **options)
    assert torch.equal(both[:1, 40:], single[:, 27:])
    assert caches[0].stats().evictions == 3


def test_a_row_with_nothing_to_evict_is_asked_at_the_same_columns_as_alone():
    # 27 tokens and a budget of 30: the row is asked at 27, 30 and 33 tokens, and evicts at 33.
    model, inputs = llama(), batch()
    caches = [lm_kv.KVCache(model, lm_kv.keydiff(every=3), budget=30) for _ in range(2)]
    _, both = generate(model, inputs, caches[0], 9)
    _, single = generate(model, alone(inputs), caches[1], 9)
    close(both[:1], single)
    assert caches[1].stats().kept == (32.0,)


def test_a_chunked_prefill_equals_dynamic_cache():
    model, inputs = llama(), batch()
    expected, logits = generate(model, inputs, DynamicCache(config=model.config))
    ids, own = generate(model, inputs, full(model), prefill_chunk_size=7)
    assert torch.equal(ids, expected)
    close(own, logits)


def test_assisted_decoding_equals_greedy_and_evicts():
    model, inputs = llama(), {name: tensor[1:] for name, tensor in batch().items()}
    expected, _ = generate(model, inputs, None)
    ids, _ = generate(model, inputs, full(model), prompt_lookup_num_tokens=3)
    assert torch.equal(ids, expected)
    cache = lm_kv.KVCache(model, SNAPKV, budget=0.4)
    generate(model, inputs, cache, prompt_lookup_num_tokens=3)
    assert cache.stats().evictions > 1
    assert cache.stats().kept[0] < 25


def test_sampling_returns_and_a_streamer():
    model, inputs = llama(), batch()
    cache = lm_kv.KVCache(model, SNAPKV, budget=0.4)
    out = model.generate(
        **inputs, past_key_values=cache, do_sample=True, num_return_sequences=2, max_new_tokens=4
    )
    assert out.shape == (4, 44)

    class Collected(TextStreamer):
        def __init__(self) -> None:
            self.ids = []

        def put(self, value: torch.Tensor) -> None:
            self.ids += value.flatten().tolist()

        def end(self) -> None:
            pass

    streamer, single = Collected(), alone(inputs)
    ids, _ = generate(model, single, lm_kv.KVCache(model, SNAPKV, budget=0.4), 4, streamer=streamer)
    assert streamer.ids[-4:] == ids[0].tolist()


def test_a_padded_second_turn_equals_the_row_without_pads():
    model, inputs = llama(), batch()
    cache = full(model)
    first = model.generate(**inputs, past_key_values=cache, max_new_tokens=3, do_sample=False)
    turn = torch.randint(2, 97, (2, 6))
    turn[0, :3] = 0
    mask = torch.cat([inputs["attention_mask"], torch.ones(2, 3, dtype=torch.long), (turn != 0).long()], 1)
    ids = torch.cat([first, turn], 1)
    _, both = generate(model, {"input_ids": ids, "attention_mask": mask}, cache, 5)
    row = ids[:1][mask[:1].bool()][None]
    _, single = generate(model, {"input_ids": row, "attention_mask": torch.ones_like(row)}, None, 5)
    close(both[:1], single)


@torch.no_grad()
def test_nothing_is_evicted_inside_hold_and_then_by_hand():
    model, inputs = llama(), batch()
    cache = lm_kv.KVCache(model, lm_kv.kvzip(), budget=0.4)
    with cache.hold() as same:
        prefill(model, inputs, same)
    assert cache.stats().kept == (27.0, 40.0)
    cache.compress()
    assert cache.stats().kept == (10.0, 16.0)


@torch.no_grad()
def test_a_fork_goes_its_own_way():
    model, inputs = llama(), batch()
    cache = prefilled(model, SNAPKV, inputs, budget=0.4)
    other, third = cache.fork(), copy.deepcopy(cache)
    assert other.decoder is model.model
    new = {"input_ids": torch.tensor([[5], [6]]), "position_ids": torch.tensor([[27], [40]])}
    new["attention_mask"] = torch.ones(2, 41)
    first = model(**new, past_key_values=cache).logits
    assert other.get_seq_length() == 40
    close(model(**new, past_key_values=other).logits, first, 0)
    close(model(**new, past_key_values=third).logits, first, 0)


def test_half_precision_is_as_near_to_float32_as_the_librarys():
    exact, inputs = llama(), batch()
    ids = {**inputs}
    expected = prefill(exact, ids, None)
    model = llama().to(torch.bfloat16)
    library = (prefill(model, ids, None).float() - expected).abs().max()
    own = (prefill(model, ids, full(model)).float() - expected).abs().max()
    assert own <= 1.5 * library


def test_nobody_else_keeps_a_cache_alive():
    model = llama(1)
    cache = prefilled(model, SNAPKV, batch(), budget=0.4)
    reference = weakref.ref(cache)
    gc.disable()
    try:
        del cache
        assert reference() is None
    finally:
        gc.enable()


def test_what_is_given_to_the_cache_wins_over_the_policy():
    policy = lm_kv.snapkv(budget=0.5, window=4, every=8)
    cache = lm_kv.KVCache(
        llama(2), policy, budget=16, allocation="heads", floor=0.5, dense_layers=(0,), every=2
    )
    chosen = cache.policy
    assert (chosen.budget, chosen.allocation, chosen.floor, chosen.dense_layers, chosen.every) == (
        16, "heads", 0.5, (0,), 2,
    )  # fmt: skip
    assert lm_kv.KVCache(llama(1), policy).policy == policy


def test_a_crop_into_compressed_tokens_is_refused_and_changes_nothing():
    model = llama(2)
    cache = prefilled(model, lm_kv.snapkv(window=4), batch(), budget=0.4)
    with pytest.raises(DcacheError, match=r"crop\(-5\) reaches into compressed tokens: only the newest 4"):
        cache.crop(-5)
    assert cache.get_seq_length() == 40
    cache.crop(-4)
    assert cache.get_seq_length() == 36


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda model: lm_kv.KVCache(model, "keydiff"), "no budget was given: pass budget="),
        (lambda model: lm_kv.KVCache(model, "keydiff", budget=True), "budget must be a float"),
        (lambda model: lm_kv.KVCache(model, "keydif", budget=0.5), "policy 'keydif' is unknown"),
        (lambda model: lm_kv.KVCache(model, 0.5), "policy must be an lm_kv.Policy or the name of one"),
        (
            lambda model: lm_kv.KVCache(model, "keydiff", budget=0.5, dense_layers=(7,)),
            "dense_layers must be indices from 0 to 0, got 7",
        ),
        (
            lambda model: lm_kv.KVCache(model, "keydiff", budget=0.5, dense_layers=(0,)),
            r"dense_layers=\(0,\) leaves nothing to compress: the layers with full attention are 0",
        ),
        (
            lambda model: lm_kv.KVCache(model, "keydiff", budget=0.5, dense_layers=0),
            "dense_layers must be a tuple of layer indices, got 0",
        ),
        (lambda model: lm_kv.KVCache(model, "keydiff", budget=0.5).compress(), "holds nothing yet"),
    ],
)
def test_bad_input_is_refused_when_it_is_given(make, message):
    with pytest.raises(DcacheError, match=message):
        make(llama(1))


def test_bad_calls_are_refused_before_any_work():
    model, inputs = llama(1), batch()
    with pytest.raises(DcacheError, match="the batch is empty"):
        prefill(model, {name: tensor[:0] for name, tensor in inputs.items()}, full(model))
    cache = prefilled(model, "keydiff", inputs, budget=0.4)
    with pytest.raises(DcacheError, match="this cache holds 2 rows, the call has 1"):
        prefill(model, alone(inputs), cache)
    model.requires_grad_(True)
    with pytest.raises(DcacheError, match="gradients are recorded"):
        model(**inputs, past_key_values=full(model))
    # The library's own refusal names both arguments.
    with pytest.raises(ValueError, match="cache_implementation"):
        model.generate(**inputs, past_key_values=full(model), cache_implementation="static", max_new_tokens=3)


def test_inference_mode_and_no_grad_may_take_turns():
    model, inputs = llama(2), batch()
    expected = lm_kv.KVCache(model, SNAPKV, budget=0.4)
    cache = lm_kv.KVCache(model, SNAPKV, budget=0.4)
    prefill(model, inputs, expected)
    with torch.inference_mode():
        prefill(model, inputs, cache)
    new = {"input_ids": torch.tensor([[5], [6]]), "position_ids": torch.tensor([[27], [40]])}
    with torch.no_grad():
        first, second = (
            model(**new, attention_mask=torch.ones(2, 41), past_key_values=one).logits
            for one in (cache, expected)
        )
    close(first, second, 0)


@torch.no_grad()
def test_positions_are_the_models_where_a_padded_batch_is_called_without_position_ids():
    # The model then rotates by columns; true tokens are counted apart.
    model, inputs = llama(), batch()
    expected = model(**inputs).logits[:, -1]
    cache = full(model)
    close(model(**inputs, past_key_values=cache).logits[:, -1], expected)
    moments = lm_kv.KVCache(model, "expected_attention", budget=1.0)
    model(**inputs, past_key_values=moments)
    layer = model.model.layers[0]
    queries = layer.self_attn.q_proj(layer.input_layernorm(model.model.embed_tokens(inputs["input_ids"])))
    # Beside 13 pads, the first four are sinks.
    true = queries[0, 13 + 4 :].view(23, 4, 16).sum(0)
    close(moments.layers[0].state["sum"][0].float(), true, 1e-4)
    evicting = lm_kv.KVCache(model, SNAPKV, budget=0.4)
    model(**inputs, past_key_values=evicting)
    assert evicting.stats().kept == (10.0, 16.0)
