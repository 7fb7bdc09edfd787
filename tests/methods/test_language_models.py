"""The front door on a language model: every wrong pair is refused with the line to type."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch
import transformers

import dcache
from dcache import DcacheError, lm_kv
from dcache.methods import language_models
from tests.engine.tiny_models import Toy
from tests.lm_kv.language_models import llama

TYPED = r"dcache\.enable\(model, 'snapkv', budget=0\.25\)"


@pytest.mark.parametrize(
    ("method", "options", "expected"),
    [
        (lm_kv.keydiff(budget=0.5), {}, lm_kv.keydiff(budget=0.5)),
        ("keydiff", {"budget": 0.5}, lm_kv.keydiff(budget=0.5)),
        ("KeyDiff", {"budget": 7, "sinks": 2}, lm_kv.keydiff(budget=7, sinks=2)),
        ("keydiff:budget=0.5,sinks=2", {}, lm_kv.keydiff(budget=0.5, sinks=2)),
        (lm_kv.keydiff, {"budget": 0.5}, lm_kv.keydiff(budget=0.5)),
    ],
)
def test_a_policy_is_given_by_itself_its_name_or_its_function(method, options, expected):
    policy = language_models.policy_of(None, method, options)
    assert policy == expected
    assert policy.parameters == expected.parameters


def test_the_options_of_every_policy_go_with_any_name():
    policy = language_models.policy_of(
        None, "random", {"budget": 0.5, "allocation": "heads", "floor": 0.5, "dense_layers": (0,), "seed": 3}
    )
    assert (policy.allocation, policy.floor, policy.dense_layers) == ("heads", 0.5, (0,))
    assert policy.parameters["seed"] == 3


@pytest.mark.parametrize(
    ("method", "options", "message"),
    [
        (None, {}, f"LlamaForCausalLM takes token ids and no timestep.*{TYPED}: there are .*snapkv"),
        (None, {"budget": 0.5}, TYPED),
        ("interval", {"interval": 3}, f"'interval' is a method for diffusion models.*{TYPED}"),
        ("FORA", {}, f"'FORA' is a method for diffusion models.*{TYPED}"),
        (dcache.methods.interval(interval=3), {}, f"interval is a method for diffusion models.*{TYPED}"),
        (dcache.methods.interval, {"interval": 3}, f"interval is a method for diffusion models.*{TYPED}"),
        ("my.schedule.json", {}, f"'my.schedule.json' is a method for diffusion models.*{TYPED}"),
        ("hub:someone/flux-fast", {}, f"'hub:someone/flux-fast' is a method for diffusion models.*{TYPED}"),
        (Path("my.schedule.json"), {}, f"is a method for diffusion models.*{TYPED}"),
        ("snapvk", {"budget": 0.5}, "policy 'snapvk' is unknown: expected one of .* Did you mean 'snapkv'"),
        (
            "snapkv",
            {},
            r"no budget was given for snapkv: write dcache\.enable\(model, 'snapkv', budget=0\.25\)",
        ),
        (lm_kv.h2o(), {}, "no budget was given for h2o"),
        ("snapkv", {"budget": 0.5, "windw": 3}, "snapkv has no option 'windw': it takes budget, window"),
        ("snapkv", {"budget": 1.5}, "budget must be a float in"),
        (lm_kv.keydiff(budget=0.5), {"window": 3}, r"options \(window\) go with a policy's name"),
        (3, {}, f"expected a policy, its name or its function, got int: write {TYPED}"),
        (
            "snapkv",
            {"budget": 0.5, "compile": True},
            f"options \\(compile\\) go with diffusion models.*{TYPED}",
        ),
        ("snapkv", {"budget": 0.5, "max_cache_bytes": "1GB"}, "options .max_cache_bytes. go with diffusion"),
        ("snapkv", {"budget": 0.5, "max_cache_bytes": 0}, "options .max_cache_bytes. go with diffusion"),
    ],
)
def test_what_does_not_fit_is_refused_with_the_line_to_type(method, options, message):
    model = llama(1)
    with pytest.raises(DcacheError, match=message):
        dcache.enable(model, method, **options)
    assert not model.model._forward_pre_hooks


@pytest.mark.parametrize("method", ["snapkv", lm_kv.snapkv, lm_kv.snapkv(budget=0.25)])
def test_a_policy_on_a_diffusion_model_is_refused_with_the_line_to_type(method):
    toy = Toy()
    with pytest.raises(
        DcacheError, match=r"snapkv is a policy for the KV cache .*\(pipe, 'interval', interval=3\)"
    ):
        dcache.enable(toy, method)
    with pytest.raises(DcacheError, match="caching is not enabled"):
        dcache.stats(toy)


def test_a_language_model_has_no_schedule():
    with pytest.raises(DcacheError, match="LlamaForCausalLM is a language model, which has no schedule"):
        dcache.trace(llama(1))
    with pytest.raises(DcacheError, match=r"dcache\.step needs a module with caching enabled"):
        dcache.step(llama(1), 0)


def test_without_transformers_the_line_that_installs_it_is_named():
    script = """
import sys, torch, dcache
class Causal(torch.nn.Module):
    def forward(self, input_ids): return input_ids
sys.modules["transformers"] = None
dcache.disable(Causal())
try:
    dcache.enable(Causal(), "snapkv", budget=0.25)
except dcache.DcacheError as error:
    print(error)
"""
    run = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True, check=False)
    assert "lm_kv needs a newer transformers" in run.stdout
    assert "pip install 'dcache-torch[lm_kv]'" in run.stdout


def test_a_module_of_tokens_that_is_no_language_model_is_refused():
    class Tokens(torch.nn.Module):
        def forward(self, input_ids):
            return input_ids

    with pytest.raises(
        DcacheError, match="needs a causal language model of transformers with one decoder, got Tokens"
    ):
        dcache.enable(Tokens(), "snapkv", budget=0.25)


def test_a_text_encoder_is_sent_to_its_pipeline():
    sizes = {"hidden_size": 32, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    clip = transformers.CLIPTextModel(transformers.CLIPTextConfig(**sizes, vocab_size=49408))
    tiny = {"d_model": 32, "d_kv": 16, "d_ff": 32, "num_layers": 1, "num_heads": 2, "vocab_size": 97}
    t5 = transformers.T5EncoderModel(transformers.T5Config(**tiny))
    for encoder in (clip, t5):
        for method in (None, "newton"):
            with pytest.raises(DcacheError, match=r"it is an encoder, .* dcache\.enable\(pipe\)\.") as caught:
                dcache.enable(encoder, method)
            assert "snapkv" not in str(caught.value)
