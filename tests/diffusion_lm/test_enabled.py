"""Enabling a row method on a model, and taking it off."""

import pytest
import torch
from torch import nn

import dcache
from dcache import DcacheError, diffusion_lm
from dcache.diffusion_lm import enabled
from tests.diffusion_lm import masked_models as models


@pytest.mark.parametrize(
    "method",
    [dcache.methods.dkv(refresh=4), dcache.methods.dkv, "dkv", "dKV", "dkv:refresh=4"],
    ids=["method", "function", "dkv", "dKV", "dkv:refresh=4"],
)
def test_a_method_its_function_its_name_or_text(method):
    model = models.llama()
    options = {"refresh": 4} if method in (dcache.methods.dkv, "dkv", "dKV") else {}
    assert dcache.enable(model, method, **options) is model
    assert dcache.stats(model).method == "dkv(variant='decode', refresh=4, window=4)"
    assert "nothing ran yet" in str(dcache.stats(model))


def test_the_default_of_a_model_is_dkv():
    model = dcache.enable(models.llama())
    assert dcache.stats(model).method == "dkv(variant='decode', refresh=8, window=4)"
    assert dcache.stats(model).binding == "attention interface"


def test_nothing_stays_behind():
    model, ids = models.llama(), models.prompts()
    before = {path: dict(vars(module)) for path, module in model.named_modules()}
    with torch.no_grad():
        plain = model(ids).logits
        for method in (dcache.methods.dkv(), dcache.methods.elastic()):
            with dcache.enabled(model, method):
                diffusion_lm.generate(model, ids, max_new_tokens=4)
            assert {path: dict(vars(module)) for path, module in model.named_modules()} == before
        assert torch.equal(model(ids).logits, plain)
    assert model.config._attn_implementation == "sdpa"
    assert dcache.stats(model).forwards == 4


def test_a_block_restores_what_was_enabled_with_its_figures():
    model, ids = dcache.enable(models.llama(), dcache.methods.dual()), models.prompts()
    diffusion_lm.generate(model, ids, max_new_tokens=4)
    with dcache.enabled(model, dcache.methods.dkv()):
        assert dcache.stats(model).forwards == 0
    assert dcache.stats(model).method == "dual(block=None)"
    assert dcache.stats(model).forwards == 4


def test_a_refused_method_leaves_the_one_before():
    model = dcache.enable(models.llama(), dcache.methods.dual())
    with pytest.raises(DcacheError, match="dkv has no option 'refersh': it takes variant, refresh, window"):
        dcache.enable(model, "dkv", refersh=3)
    with pytest.raises(DcacheError, match="LlamaForCausalLM generates tokens: 'dula' is no row policy"):
        dcache.enable(model, "dula")
    with pytest.raises(DcacheError, match="no budget was given for snapkv"):
        dcache.enable(model, "SnapKV")
    assert enabled.find(model).method.name == "dual"


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        ("interval", {}, "interval caches features between noise levels, and tokens change"),
        (dcache.methods.newton(), {}, "newton caches features"),
        (dcache.methods.dkv(), {"refresh": 3}, r"options \(refresh\) go with a row policy's name"),
        ("dkv", {"compile": True}, r"options \(compile\) go with methods that cache features"),
        ("dkv", {"delay": 2}, "delay must be 0 or 1, got 2"),
        ("dkv", {"variant": "encode"}, "variant must be one of decode, greedy, prefill, pd"),
        ("elastic", {"when": "later"}, "when must be 'now' or 'next'"),
        ("window", {"window": 0}, "window must be a whole number of at least 1"),
        ({"dkv": 3}, {}, "is no row policy's name or method"),
        (diffusion_lm.RowPolicy, {}, "'RowPolicy' is no row policy's name or method.*diffusion_lm.preset"),
    ],
    ids=str,
)
def test_what_does_not_fit_is_refused(method, options, message):
    model = models.llama()
    with pytest.raises(DcacheError, match=message):
        dcache.enable(model, method, **options)
    with pytest.raises(DcacheError, match="caching is not enabled"):
        dcache.stats(model)


def test_a_causal_model_is_refused_and_left_as_it_was():
    model = models.llama(is_causal=True)
    before = dict(vars(model))
    with pytest.raises(DcacheError, match=r"LlamaForCausalLM is causal: .*snapkv"):
        dcache.enable(model, dcache.methods.dkv())
    assert dict(vars(model)) == before


def test_a_compiled_model_is_refused():
    in_place = models.llama()
    in_place.compile()
    for compiled in (torch.compile(models.llama()), in_place):
        with pytest.raises(DcacheError, match="LlamaForCausalLM is compiled as a whole"):
            dcache.enable(compiled, dcache.methods.dkv())


def test_a_denoiser_takes_no_row_method():
    class Denoiser(nn.Module):
        def forward(self, hidden_states, timestep):
            return hidden_states

    with pytest.raises(DcacheError, match="dkv computes rows of a masked-diffusion language model"):
        dcache.enable(Denoiser(), dcache.methods.dkv())


def test_a_models_end_frees_what_is_enabled():
    import gc
    import weakref

    model = dcache.enable(models.llama(), dcache.methods.dkv())
    with torch.no_grad():
        model(models.prompts())
    gone = weakref.ref(model)
    del model
    gc.collect()
    assert gone() is None
