import torch
from transformers import DynamicCache

from dcache.lm_kv.model import adapter
from dcache.lm_kv.model.noted import noted
from tests.lm_kv.language_models import family, llama

IDS = torch.arange(12).view(2, 6) + 3


@torch.no_grad()
def test_layers_note_the_keys_and_values_that_the_librarys_cache_would_hold():
    for name in ("llama", "gpt_oss"):
        decoder = family(name).model
        cache, expected = noted(decoder, IDS), DynamicCache(config=decoder.config)
        decoder(input_ids=IDS, past_key_values=expected)
        assert cache.compressed_layers
        for index in cache.compressed_layers:
            layer = expected.layers[index]
            for states, known in zip(cache.layers[index].noted, (layer.keys, layer.values), strict=True):
                torch.testing.assert_close(states, known, atol=1e-5, rtol=0)
            assert cache.layers[index].given is None


@torch.no_grad()
def test_what_attention_is_given_is_noted_where_hooks_see_it():
    decoder = llama(2).model
    hooks = adapter.InputHooks({i: layer.self_attn for i, layer in enumerate(decoder.layers)})
    cache = noted(decoder, IDS, reads_inputs=True)
    hidden = decoder(IDS, output_hidden_states=True).hidden_states
    for index, layer in enumerate(decoder.layers):
        torch.testing.assert_close(cache.layers[index].given, layer.input_layernorm(hidden[index]))
    assert noted(decoder, IDS).layers[0].given is None
    del hooks
    assert noted(decoder, IDS, reads_inputs=True).layers[0].given is None
    assert not decoder.layers[0].self_attn._forward_pre_hooks
