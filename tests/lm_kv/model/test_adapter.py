"""What lm_kv relies on in transformers; a release that changes one of these fails here first."""

import copy
import gc
import inspect
import threading
from typing import Any

import pytest
import torch
from transformers import DynamicCache
from transformers.cache_utils import CacheLayerMixin, DynamicLayer
from transformers.generation.utils import GenerationMixin
from transformers.masking_utils import create_causal_mask, create_sliding_window_causal_mask
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from dcache import DcacheError, lm_kv
from dcache.lm_kv.model import adapter
from tests.lm_kv.language_models import (
    SIZED,
    batch,
    generate,
    llama,
    prefill,
)


def cache(model: Any, **more: Any) -> Any:
    return lm_kv.KVCache(model, "keydiff", **{"budget": 1.0, **more})


def test_the_pinned_surface_of_transformers():
    assert {"lazy_initialization", "update", "get_mask_sizes", "get_seq_length", "get_max_length"} == set(
        CacheLayerMixin.__abstractmethods__
    )
    assert list(inspect.signature(ALL_ATTENTION_FUNCTIONS.get_interface).parameters) == [
        "attn_implementation",
        "default",
    ]
    config = llama(1).config
    assert config._attn_implementation == config._attn_implementation_internal == "sdpa"
    assert type(DynamicCache(config=config).layers[0]) is DynamicLayer
    assert DynamicCache(config=config).offloading is False
    assert inspect.isfunction(GenerationMixin._assisted_decoding)
    # Mask functions are handed the config, by which the implementation that was set before is found.
    for create in (create_causal_mask, create_sliding_window_causal_mask):
        assert "config=config" in inspect.getsource(create)


def test_the_implementation_is_ours_only_while_the_forward_runs():
    model, seen = llama(1), []
    model.model.layers[0].register_forward_pre_hook(lambda *_: seen.append(model.config._attn_implementation))
    prefill(model, batch(), cache(model))
    assert seen == [adapter.NAME]
    assert model.config._attn_implementation == "sdpa"


def test_it_is_restored_after_an_exception_and_the_cache_says_that_it_is_incomplete():
    model = llama(2)
    fail = model.model.layers[1].register_forward_pre_hook(lambda *_: 1 / 0)
    broken = cache(model)
    with pytest.raises(ZeroDivisionError):
        prefill(model, batch(), broken)
    fail.remove()
    assert model.config._attn_implementation == "sdpa"
    with pytest.raises(DcacheError, match="this cache is incomplete"):
        prefill(model, batch(), broken)
    broken.reset()
    torch.testing.assert_close(prefill(model, batch(), broken), prefill(model, batch(), None))


def test_the_hooks_go_with_the_last_cache():
    model = llama(1)
    before = len(model.model._forward_pre_hooks)
    first, second = cache(model), cache(model)
    assert len(model.model._forward_pre_hooks) == before + 1
    del first
    gc.collect()
    assert len(model.model._forward_pre_hooks) == before + 1
    del second
    gc.collect()
    assert len(model.model._forward_pre_hooks) == len(model.model._forward_hooks) == before


def test_a_copy_of_a_model_runs_with_caches_of_its_own():
    model = llama(1)
    first = cache(model)
    other = copy.deepcopy(model)
    with pytest.raises(DcacheError, match="belongs to another model"):
        prefill(other, batch(), first)
    torch.testing.assert_close(prefill(other, batch(), cache(other)), prefill(model, batch(), first))


def test_hooks_that_a_copy_took_along_do_not_run_twice():
    model = llama(1)
    first = cache(model)
    other = copy.deepcopy(model)
    kvzip = [lm_kv.KVCache(one, "kvzip", budget=0.4) for one in (model, other)]
    _, expected = generate(model, batch(), kvzip[0], 3)
    _, logits = generate(other, batch(), kvzip[1], 3)
    torch.testing.assert_close(logits, expected, atol=0, rtol=0)
    assert kvzip[1].stats().bytes_held == kvzip[0].stats().bytes_held
    assert first.get_seq_length() == 0


def test_a_model_that_never_had_a_cache_refuses_anothers():
    with pytest.raises(DcacheError, match="belongs to another model"):
        prefill(llama(1), batch(), cache(llama(1)))


def test_threads_with_and_without_a_cache_share_a_model():
    model, inputs, results = llama(2), batch(), {}
    expected = prefill(model, inputs, None)
    barrier = threading.Barrier(2)
    # Both forwards are in the middle of the model at the same time.

    def wait(*_: Any) -> None:
        barrier.wait(timeout=60)

    model.model.layers[1].register_forward_pre_hook(wait)

    def run(name: str, own: Any) -> None:
        results[name] = prefill(model, inputs, own)

    threads = [threading.Thread(target=run, args=item) for item in (("ours", cache(model)), ("none", None))]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    torch.testing.assert_close(results["ours"], expected)
    torch.testing.assert_close(results["none"], expected)
    assert model.config._attn_implementation == "sdpa"


def test_arguments_may_be_given_by_position():
    model, inputs = llama(1), batch()
    expected = prefill(model, inputs, cache(model))
    own = cache(model)
    positions = (inputs["attention_mask"].cumsum(1) - 1).clamp_min(0)
    with torch.no_grad():
        out = model.model(inputs["input_ids"], inputs["attention_mask"], positions, own)
    torch.testing.assert_close(model.lm_head(out.last_hidden_state[:, -1]), expected)
    assert own.get_seq_length() == 40


def test_other_caches_run_as_before_beside_ours():
    model, inputs = llama(1), batch()
    kept = cache(model)
    static = model.generate(
        **inputs, cache_implementation="static", max_new_tokens=3, do_sample=False, disable_compile=True
    )
    assert torch.equal(static[:, -3:], generate(model, inputs, kept, 3)[0])


@pytest.mark.slow
# peft asks for an attribute that transformers is about to rename.
@pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing` is deprecated:FutureWarning")
def test_a_peft_wrapper_is_looked_through():
    peft = pytest.importorskip("peft")
    model = peft.get_peft_model(llama(2), peft.LoraConfig(target_modules=["q_proj"])).eval()
    expected = model.generate(**batch(), max_new_tokens=6, do_sample=False)
    with torch.no_grad():
        assert torch.equal(
            model.generate(**batch(), past_key_values=cache(model), max_new_tokens=6, do_sample=False),
            expected,
        )


@pytest.mark.slow
def test_a_vision_models_bidirectional_image_block_is_kept():
    from transformers import Gemma3Config, Gemma3ForConditionalGeneration

    text = {**SIZED, "sliding_window": 16, "sliding_window_pattern": 2, "query_pre_attn_scalar": 16}
    vision = {
        "hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
        "image_size": 28, "patch_size": 14,
    }  # fmt: skip
    torch.manual_seed(0)
    model = Gemma3ForConditionalGeneration(
        Gemma3Config(
            text_config=text,
            vision_config=vision,
            image_token_index=96,
            boi_token_index=94,
            eoi_token_index=95,
        )
    ).eval()
    inputs = batch()
    types = torch.zeros_like(inputs["input_ids"])
    types[:, 20:26] = 1
    with torch.no_grad():
        expected = model(**inputs, token_type_ids=types).logits
        own = model(**inputs, token_type_ids=types, past_key_values=cache(model)).logits
        causal = model(**inputs, token_type_ids=types * 0).logits
    real = inputs["attention_mask"].bool()
    torch.testing.assert_close(own[real], expected[real], atol=1e-5, rtol=0)
    assert (expected - causal)[real].abs().max() > 1e-3
