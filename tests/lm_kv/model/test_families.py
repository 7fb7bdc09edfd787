"""Which models are supported, and the reasons for refusing the others."""

from typing import Any

import pytest
import torch
import transformers as T
from transformers import PreTrainedModel

import dcache
from dcache import DcacheError, lm_kv
from dcache.lm_kv.model import families
from tests.diffusion_lm.masked_models import llama as masked_llama
from tests.lm_kv.language_models import REFUSED, batch, family, language_model, llama

TINY = {
    "hidden_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32,
    "vocab_size": 97, "pad_token_id": 0,
}  # fmt: skip
TINY_T5 = {"d_model": 32, "d_kv": 16, "d_ff": 32, "num_layers": 1, "num_heads": 2, "vocab_size": 97}
ENCODERS = {
    "bert": lambda: T.BertModel(T.BertConfig(**TINY)),
    "modern bert": lambda: T.ModernBertModel(T.ModernBertConfig(**TINY)),
    "t5 encoder": lambda: T.T5EncoderModel(T.T5Config(**TINY_T5)),
}


def cache(model: Any, **more: Any) -> Any:
    return lm_kv.KVCache(model, "keydiff", **{"budget": 1.0, **more})


def test_the_decoder_is_the_innermost_model_with_attention():
    model = llama(1)
    assert families.decoder_of(model) is model.model
    assert families.decoder_of(model.model) is model.model
    assert isinstance(model.model, PreTrainedModel)


@pytest.mark.parametrize("name", sorted(REFUSED))
def test_unsupported_families_are_refused_with_the_reason(name):
    make, reason = REFUSED[name]
    model = language_model(make(), "eager")
    with pytest.raises(DcacheError, match=reason):
        cache(model)


def test_what_is_no_language_model_is_refused():
    with pytest.raises(DcacheError, match="needs a causal language model of transformers with one decoder"):
        cache(torch.nn.Linear(1, 1))


def test_layers_that_are_not_full_attention_stay_the_librarys():
    layers = cache(family("qwen3_next")).layers
    assert [type(layer).__name__ for layer in layers] == ["LinearAttentionLayer"] * 3 + ["LayerCache"]
    sliding = [type(layer).__name__ for layer in cache(family("gemma2")).layers]
    assert sliding == ["DynamicSlidingWindowLayer", "LayerCache", "DynamicSlidingWindowLayer"]


@pytest.mark.parametrize("name", sorted(ENCODERS))
def test_encoders_are_refused(name):
    with pytest.raises(
        DcacheError, match=r"is an encoder: its attention is not causal, and lm_kv is for causal"
    ):
        cache(ENCODERS[name]())


@pytest.mark.parametrize("way", ["a cache", "enable"])
def test_bidirectional_models_of_a_causal_class_are_refused(way):
    # Masked-diffusion models: the class is Llama's, and transformers' mask is bidirectional.
    model = masked_llama()
    ids = torch.arange(8)[None]
    with torch.no_grad():
        first, longer = (model(ids[:, :n], use_cache=False).logits[0, 0] for n in (4, 8))
    assert not torch.allclose(first, longer)
    with pytest.raises(
        DcacheError, match=r"LlamaModel is bidirectional \(config\.is_causal is False\).* for causal"
    ):
        cache(model) if way == "a cache" else dcache.enable(model, lm_kv.keydiff(budget=0.5))


def test_encoder_decoder_models_are_refused():
    with pytest.raises(DcacheError, match="got T5ForConditionalGeneration, which has 2"):
        cache(T.T5ForConditionalGeneration(T.T5Config(**TINY_T5)))
    sizes = dict.fromkeys(("encoder_attention_heads", "decoder_attention_heads"), 2)
    sizes |= dict.fromkeys(("encoder_layers", "decoder_layers", "bos_token_id", "decoder_start_token_id"), 1)
    sizes |= dict.fromkeys(("d_model", "encoder_ffn_dim", "decoder_ffn_dim"), 32)
    config = T.WhisperConfig(**sizes, vocab_size=97, pad_token_id=0, eos_token_id=2)
    with pytest.raises(DcacheError, match="WhisperDecoder is part of an encoder-decoder model"):
        cache(T.WhisperForConditionalGeneration(config))


def test_compiled_models_are_refused():
    # Nothing is compiled before the first call.
    def in_place(model: Any) -> Any:
        model.compile(backend="eager")
        return model

    def forward(model: Any) -> Any:
        model.forward = torch.compile(model.forward, backend="eager")
        return model

    for compiled in (torch.compile(llama(1), backend="eager"), in_place(llama(1)), forward(llama(1))):
        with pytest.raises(DcacheError, match="LlamaForCausalLM is compiled, and caches of lm_kv change"):
            cache(compiled)


def test_a_decoder_that_ignores_its_cache_is_found_out():
    model = llama(1)
    own = cache(model)
    model.model.layers = torch.nn.ModuleList()
    with pytest.raises(DcacheError, match="LlamaModel ran without its cache"), torch.no_grad():
        model(**batch(), past_key_values=own)
