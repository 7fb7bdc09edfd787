"""What cannot be right is refused, with the reason, before a token is decoded: each case by each way in."""

from types import SimpleNamespace

import pytest
import torch
from diffusers import BlockRefinementScheduler, LLaDA2Pipeline

import dcache
from dcache import DcacheError, diffusion_lm
from tests.diffusion_lm import masked_models as models

GREEDY = dcache.methods.dkv(variant="greedy")
PADS = torch.tensor([[0] + [1] * 7] * 4)


def generate(model, ids=None, method=None, **options):
    """`generate`, with a method or uncached."""
    ids = models.prompts() if ids is None else ids
    options = {"max_new_tokens": 8, **options}
    if method is None:
        return diffusion_lm.generate(model, ids, **options)
    with dcache.enabled(model, method):
        return diffusion_lm.generate(model, ids, **options)


def calls_of(model):
    """A list that grows with each call of the model."""
    calls = []
    model.register_forward_pre_hook(lambda *_: calls.append(1))
    return calls


def compiled():
    model = models.llama()
    model.compile()
    return model


@pytest.mark.parametrize("method", [None, dcache.methods.dual()], ids=["none", "dual"])
@pytest.mark.parametrize(
    ("build", "options", "message"),
    [
        (compiled, {}, "is compiled as a whole"),
        (lambda: models.llama(mask_token_id=None), {}, "no mask id was found"),
        (models.llama, {"mask_id": 60}, "has tokens 0 to 59, and the mask id is 60"),
        (models.llama, {"mask_id": 0, "attention_mask": PADS}, "pad_token_id and the mask id are both 0"),
        (lambda: models.llama(pad_token_id=models.MASK), {"attention_mask": PADS}, "are both 59"),
        (
            models.llama,
            {"max_new_tokens": 121},
            "have 129 tokens, .* has positions for 128",
        ),
        (models.llama, {"steps": 0}, "steps must be a whole number of at least 1, got 0"),
        (models.llama, {"steps": 1, "block": 4}, "steps=1 are fewer than the 2 blocks of 4 tokens"),
        (models.llama, {"attention_mask": [[1] * 8] * 3}, r"attention_mask must be \(4, 8\)"),
        (models.llama, {"attention_mask": [[1] * 8] * 3 + [[0] * 8]}, "and a token in each row"),
        (models.llama, {"attention_mask": "full"}, r"attention_mask must be \(4, 8\) .* got str"),
        (models.llama, {"mask_id": "[MASK]"}, "mask_id must be the id of the mask token"),
        (models.llama, {"ids": models.prompts() + 60}, "input_ids have ids from 6[0-9] to 11[0-9]"),
        (models.llama, {"seed": None}, "seed must be a whole number"),
        (models.llama, {"seed": 2**62}, "seed must be a whole number"),
        (models.llama, {"eos_id": [1, 2]}, r"eos_id must be one of the tokens 0 to 59 .*, got \[1, 2\]"),
        (models.llama, {"eos_id": models.MASK}, "not the mask's id 59"),
        (models.llama, {"temperature": float("inf")}, "temperature must be finite"),
        (models.llama, {"callback": 3}, "callback must be a function of step, ids and rows"),
        (models.llama, {"decoder": ["left"]}, r"decoder \['left'\] is unknown"),
        (models.llama, {"decoder": "guided", "guide": "gpt2"}, "needs guide=, .* got str"),
    ],
    ids=[
        "compiled",
        "no mask id",
        "no such id",
        "pads",
        "pads of the config",
        "long",
        "0",
        "1",
        "mask",
        "all pads",
        "no mask",
        "text for an id",
        "prompt",
        "no seed",
        "long seed",
        "two ends",
        "mask as end",
        "hot",
        "callback",
        "decoder",
        "guide",
    ],
)
def test_generate(build, options, message, method):
    model = build()
    calls = calls_of(model)
    with pytest.raises(DcacheError, match=message):
        generate(model, method=method, **options)
    # A method's self-check ran where one was enabled; nothing was decoded.
    assert not calls or method is not None


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"vocab_size": 40}, "the guide LlamaForCausalLM has 40 tokens, .* at least 59 are in use"),
        ({"max_position_embeddings": 15}, "have 16 tokens, .* has positions for 15"),
        ({}, "is in training mode"),
    ],
    ids=["tokens", "positions", "training"],
)
def test_a_guide_that_does_not_fit(change, message):
    model, guide = models.llama(), models.llama(is_causal=True, **change).train(not change)
    calls = calls_of(model)
    with pytest.raises(DcacheError, match=message):
        generate(model, decoder="guided", guide=guide)
    assert not calls


def test_a_guide_that_sees_what_comes_behind():
    model = dcache.enable(models.llama(), dcache.methods.dkv())
    for guide in (model, dcache.enable(models.llama(), dcache.methods.dkv())):
        with pytest.raises(DcacheError, match="guide must be a causal model, got a masked-diffusion one"):
            generate(model, decoder="guided", guide=guide)


class Other(torch.nn.Module):
    """Its ids go by another name, and it has no parameters."""

    config = SimpleNamespace(mask_token_id=5, vocab_size=10)

    def forward(self, x):
        return SimpleNamespace(logits=torch.zeros(*x.shape, 10))


class Uniform(Other):
    def forward(self, input_ids):
        return super().forward(input_ids)


def test_models_that_take_or_return_something_else():
    with pytest.raises(DcacheError, match="Other takes x: a masked-diffusion language model takes input_ids"):
        generate(Other().eval(), torch.ones(1, 4).long())
    with pytest.raises(DcacheError, match="Uniform is causal"):
        generate(Uniform().eval(), torch.ones(1, 4).long(), dcache.methods.dual())


def test_a_pipeline_is_no_model():
    pipe = LLaDA2Pipeline(model=models.llama(), scheduler=BlockRefinementScheduler(), tokenizer=None)
    with pytest.raises(DcacheError, match="got LLaDA2Pipeline: give a pipeline's model itself"):
        generate(pipe)
    with pytest.raises(DcacheError, match=r"write dcache.enable\(model, dcache.methods.dkv"):
        dcache.stats(pipe.model)


def test_the_order_of_confidence_is_not_known_before_the_forward():
    model = dcache.enable(models.llama(), GREEDY)
    calls = calls_of(model)
    for decoder in ("low_confidence", "threshold", "factor", "entropy_bound"):
        with pytest.raises(DcacheError, match=f"greedy.* needs the positions .* and {decoder} knows them"):
            diffusion_lm.generate(model, models.prompts(), max_new_tokens=8, decoder=decoder)
    assert not calls


@pytest.mark.parametrize("method", [None, "dkv", "dual", "elastic", "dllm_cache"])
def test_a_causal_model(method):
    model = models.llama(is_causal=True)
    with pytest.raises(DcacheError, match="LlamaForCausalLM is causal: a token does not see those behind it"):
        generate(model, method=None if method is None else diffusion_lm.make(method))


def test_a_model_that_was_compiled_behind_enable():
    model = dcache.enable(models.llama(), dcache.methods.dllm_cache())
    generate(model)
    model.compile()
    with pytest.raises(DcacheError, match="is compiled as a whole"):
        generate(model)
    dcache.disable(model)


@pytest.mark.parametrize(
    ("method", "call", "message"),
    [
        (
            dcache.methods.dual(),
            {"past_key_values": object()},
            "the call brings past_key_values",
        ),
        (dcache.methods.dual(), {"inputs_embeds": torch.zeros(1)}, "the call brings inputs_embeds"),
        (dcache.methods.elastic(), {}, "elastic needs a decode window, which a loop of one's own"),
        (dcache.methods.window(), {}, "window needs a decode window"),
        (GREEDY, {}, "dkv needs the positions to be decoded before each forward"),
        (dcache.methods.dual(mask_id=0), {"attention_mask": PADS}, "pad_token_id and the mask id are both 0"),
        (
            dcache.methods.dual(),
            {"input_ids": models.prompts(1, 129)},
            "have 129 tokens",
        ),
    ],
    ids=["past_key_values", "inputs_embeds", "elastic", "window", "greedy", "pads", "long"],
)
def test_calls_of_a_loop_of_ones_own(method, call, message):
    model = dcache.enable(models.llama(), method)
    calls = calls_of(model.model)
    with torch.no_grad(), pytest.raises(DcacheError, match=message):
        model(**{"input_ids": models.prompts(), **call})
    assert not calls


@pytest.mark.parametrize(
    ("build", "method", "message"),
    [
        (lambda: models.llama(is_causal=True), None, "LlamaForCausalLM is causal"),
        (lambda: models.llama(mask_token_id=None), None, "no mask id was found for LlamaForCausalLM"),
        (compiled, None, "is compiled as a whole"),
        (models.llama, GREEDY, "dkv needs the positions .* which LLaDA2Pipeline does not tell"),
        (models.llama, dcache.methods.elastic(), "elastic needs a decode window, which LLaDA2Pipeline"),
        (models.llama, "interval", "interval caches features between noise levels, and tokens change"),
    ],
    ids=["causal", "no mask id", "compiled", "greedy", "elastic", "features"],
)
def test_pipelines(build, method, message):
    pipe = LLaDA2Pipeline(model=build(), scheduler=BlockRefinementScheduler(), tokenizer=None)
    with pytest.raises(DcacheError, match=message):
        dcache.enable(pipe, method)
