import pytest
import torch

from dcache import DcacheError, lm_kv
from tests.lm_kv.language_models import (
    batch,
    check_a_padded_row_is_as_alone,
    check_they_go_on_alike,
    copies,
    generate,
    llama,
    prefilled,
)

# A tenth of the ids end a sentence.
ENDS = tuple(range(2, 97, 10))


def test_a_padded_row_reads_and_keeps_what_it_does_alone():
    policy = lm_kv.sentencekv(ends=ENDS, held=0.5, longest=6, sinks=2, window=4, every=4)
    _, caches = check_a_padded_row_is_as_alone(llama(2), batch(), policy, budget=12)
    stats = caches[0].stats()
    # Of 35 and 48 tokens at the last indexing half were held, and three are newer.
    assert stats.kept == (20.0, 27.0)
    # The last sentence is cut, so that the whole budget is used.
    assert stats.read == (12.0, 12.0)
    assert stats.evictions == 3


@torch.no_grad()
def test_what_is_read_is_what_dense_attention_sees_with_the_rest_at_minus_infinity():
    model, inputs = llama(1), {name: tensor[1:] for name, tensor in batch().items()}
    policy = lm_kv.sentencekv(ends=ENDS, held=1.0, longest=6, sinks=2, window=3)
    cache = prefilled(model, policy, inputs, budget=12)
    ids = [*inputs["input_ids"][0].tolist(), 6, 12, 7]
    dense = prefilled(model, "keydiff", inputs, budget=1.0)
    queries = []
    for step in range(3):
        new = {"input_ids": torch.tensor([[ids[40 + step]]]), "position_ids": torch.tensor([[40 + step]])}
        state = {name: tensor.clone() for name, tensor in cache.layers[0].state.items()}
        logits = model(**new, past_key_values=cache).logits
        queries.append(cache.layers[0].state["query"][0, :, -1])
        if step == 1:
            # 12 ended the sentence: the third token asks by itself.
            queries = []
    assert state["count"].tolist() == [0]
    model(torch.tensor([ids[40:]]), position_ids=torch.tensor([[40, 41, 42]]), past_key_values=dense)
    stored = dense.layers[0].store.stored()
    begins = [p for p in range(37) if p == 0 or ids[p - 1] in ENDS]
    pieces = [list(range(a, b)) for a, b in zip(begins, [*begins[1:], 37], strict=True)]
    pieces = [piece[i : i + 6] for piece in pieces for i in range(0, len(piece), 6)]
    asked = queries[0].view(2, 2, 16)
    mask = torch.full((1, 4, 1, 43), float("-inf"))
    # The new token and the five before it, which are in the tail.
    mask[..., 37:] = 0.0
    for head in range(2):
        keys = stored.keys[0, head]
        means = torch.stack([keys[piece].mean(0) for piece in pieces])
        scores = (asked[head] @ means.T / 4).softmax(-1).mean(0)
        order = scores.argsort(descending=True).tolist()
        tokens = [0, 1, *(token for page in order for token in pieces[page] if token > 1)][:6]
        mask[0, 2 * head : 2 * head + 2, 0, tokens] = 0.0
    eager = llama(1, attention="eager")
    rows = torch.zeros(1, 4, 43, 43).masked_fill(~torch.ones(43, 43, dtype=torch.bool).tril(), float("-inf"))
    rows[:, :, -1:] = mask
    expected = eager(torch.tensor([ids]), attention_mask=rows, use_cache=False).logits[:, -1:]
    torch.testing.assert_close(logits, expected, atol=1.5e-5, rtol=0)


def test_the_mean_query_of_the_sentence_decides():
    model, inputs = llama(1), batch()
    absent = next(i for i in range(2, 97) if i not in ENDS and not (inputs["input_ids"] == i).any())
    caches = [
        prefilled(
            model, lm_kv.sentencekv(ends=ends, held=1.0, longest=6, sinks=0, window=2), inputs, budget=8
        )
        for ends in (ENDS, (*ENDS, absent))
    ]
    # The same sentences of the prompt; only the second policy ends the current one with that token.
    for step, token in enumerate((absent, 6)):
        new = {"input_ids": torch.full((2, 1), token), "attention_mask": torch.ones(2, 41 + step)}
        new["position_ids"] = torch.tensor([[27], [40]]) + step
        with torch.no_grad():
            first, second = (model(**new, past_key_values=cache).logits for cache in caches)
        assert torch.equal(first, second) == (token == absent)


def test_tokens_are_kept_by_the_largest_attention_of_their_neighbours():
    model, inputs = llama(1), batch(pads=0, length=60)
    cache = prefilled(model, lm_kv.sentencekv(held=20, pool=3, sinks=2, window=4), inputs, budget=12)
    state, layer = cache.layers[0].state, llama(1, attention="eager")
    assert state["query"].shape[2] == 32
    weights = layer(inputs["input_ids"], output_attentions=True, use_cache=False).attentions[0]
    voted = weights[:, :, -32:].unflatten(1, (2, 2)).mean((2, 3))
    voted[..., 28:] = 0.0
    pooled = torch.nn.functional.max_pool1d(voted.flatten(0, 1), 3, 1, 1).view(voted.shape)
    pooled[..., 56:] = -1.0
    pooled[..., :2] = 9.0
    for run, positions in enumerate(cache.layers[0].store.segments[0].positions.split(16)):
        order = pooled[run // 2, run % 2].argsort(descending=True, stable=True)
        assert positions.tolist() == sorted(order[:16].tolist())


def test_a_cache_is_copied_saved_and_moved(tmp_path):
    model = llama(2)
    policy = lm_kv.sentencekv(ends=ENDS, held=0.6, longest=6, sinks=1, window=3, every=2)
    cache = prefilled(model, policy, batch(), budget=8)
    others = copies(cache, model, tmp_path / "cache.safetensors")
    assert others[1].policy == cache.policy
    check_they_go_on_alike(model, [cache, *others], 4, 1.5e-5)


def test_bytes_are_those_of_what_is_held():
    model, inputs = llama(2), batch(pads=0, length=80)
    policy = lm_kv.sentencekv(ends=ENDS, held=0.5, longest=8, window=4)
    cache = prefilled(model, policy, inputs, budget=16)
    tensors = [tensor for layer in cache.layers for tensor in layer.storages()]
    assert cache.stats().bytes_held == sum(tensor.untyped_storage().nbytes() for tensor in tensors)
    states = [tensor for layer in cache.layers for tensor in layer.state.values()]
    # Half of the keys and values, and at most a third more for means, positions and spare slots.
    held = cache.stats().bytes_held - sum(tensor.untyped_storage().nbytes() for tensor in states)
    assert held < 0.75 * cache.stats().bytes_full


def test_embeddings_have_no_ids():
    model, inputs = llama(1), batch()
    cache = lm_kv.KVCache(model, lm_kv.sentencekv(ends=(3,)), budget=8)
    with pytest.raises(DcacheError, match="this call came as embeddings: call the model with input_ids"):
        model(inputs_embeds=model.get_input_embeddings()(inputs["input_ids"]), past_key_values=cache)
    other = lm_kv.KVCache(model, lm_kv.sentencekv(sinks=0, window=4), budget=8)
    with torch.no_grad():
        model(inputs_embeds=model.get_input_embeddings()(inputs["input_ids"]), past_key_values=other)
    assert other.stats().seen == (40, 40)


def test_what_may_be_read_is_held():
    model, inputs = llama(2), batch()
    own = lm_kv.KVCache(model, lm_kv.sentencekv(ends=ENDS, held=16, every=2), budget=64)
    _, read = generate(model, inputs, own, 4)
    _, full = generate(model, inputs, None, 4)
    torch.testing.assert_close(read, full, atol=1.5e-5, rtol=0)


@pytest.mark.parametrize("joined", [0, 20])
def test_a_text_or_question_of_one_token_begins_a_sentence(joined):
    model, ids = llama(2), batch(pads=0)["input_ids"][:1, : joined + 1]
    cache = lm_kv.KVCache(model, lm_kv.sentencekv(ends=(5,), window=4), budget=1.0)
    if joined:
        cache = lm_kv.join(model, [ids[0, :joined]], "pie", cache=cache).cache
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    _, logits = generate(model, inputs, cache, 40)
    torch.testing.assert_close(logits, generate(model, inputs, None, 40)[1], atol=1.5e-5, rtol=0)


def test_options_outside_their_range_are_refused():
    for options, message in (({"held": 1.5}, "held"), ({"longest": 0}, "longest"), ({"pool": 2}, "pool")):
        with pytest.raises(DcacheError, match=f"{message} must be"):
            lm_kv.sentencekv(**options)
