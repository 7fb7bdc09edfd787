import torch

from dcache import lm_kv
from dcache.lm_kv.layers import probe
from tests.lm_kv.language_models import alone, batch, family, llama, prefill, prefilled


def read(cache):
    text = cache._text.to_read(None, "kvzip")
    return probe.received_attention(cache.decoder, cache, cache._shared, *text)


def held(model, inputs):
    cache = lm_kv.KVCache(model, "kvzip", budget=0.4)
    with cache.hold():
        prefill(model, inputs, cache)
    return cache


@torch.no_grad()
def test_what_is_received_equals_eager_attention_of_the_text_repeated():
    model, inputs = llama(attention="eager"), {name: tensor[1:] for name, tensor in batch().items()}
    received = read(held(model, inputs))
    twice = torch.cat([inputs["input_ids"]] * 2, 1)
    weights = model(twice, output_attentions=True, use_cache=False).attentions
    for layer, weight in enumerate(weights):
        expected = weight[:, :, 40:, :40].unflatten(1, (2, 2)).amax((2, 3))
        torch.testing.assert_close(received[layer], expected, atol=1e-6, rtol=1e-4)


def test_pads_are_left_out_and_chunks_are_cut_as_in_a_single_run(monkeypatch):
    model = llama()
    monkeypatch.setattr(probe, "CHUNK", 7)
    both, single = read(held(model, batch())), read(held(model, alone(batch())))
    for layer in range(3):
        torch.testing.assert_close(both[layer][:1, :, 13:], single[layer], atol=1e-6, rtol=1e-4)
        assert not both[layer][0, :, :13].any()


def test_the_cache_is_as_it_was_with_the_librarys_own_layers():
    model, inputs = family("qwen3_next"), batch()
    cache, other = held(model, inputs), held(model, inputs)
    read(cache)
    assert cache.get_seq_length() == 40
    new = {"input_ids": torch.tensor([[5], [6]]), "attention_mask": torch.ones(2, 41, dtype=torch.long)}
    new["position_ids"] = torch.tensor([[27], [40]])
    with torch.no_grad():
        first, second = (model(**new, past_key_values=one).logits for one in (cache, other))
    torch.testing.assert_close(first, second, atol=0, rtol=0)


def test_another_context_gives_other_tokens():
    model, inputs = llama(), batch()
    own, other = held(model, inputs), held(model, inputs)
    own.compress()
    other.compress(context=torch.full((2, 9), 33))
    assert (
        own.layers[0].store.segments[0].positions.tolist()
        != other.layers[0].store.segments[0].positions.tolist()
    )
    assert prefilled(model, "kvzip", inputs, budget=0.4).layers[0].store.kept().tolist() == (
        own.layers[0].store.kept().tolist()
    )
