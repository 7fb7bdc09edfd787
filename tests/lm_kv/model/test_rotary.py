import pytest
import torch
from transformers import LlamaConfig

from dcache import DcacheError, lm_kv
from dcache.lm_kv.model import adapter, families
from dcache.lm_kv.model.rotary import find_rotary
from tests.lm_kv.language_models import FAST, YARN, family, language_model, llama, rope

NOPE = {"llama4": {3: "nope"}, "llama": {0: "rope", 1: "rope", 2: "rope"}, "gpt_oss": {1: "rope"}}
ROTATING = {
    **NOPE,
    "phi": {0: "rope", 1: "rope", 2: "rope"},
    "qwen3_next": {3: "rope"},
    "gemma2": {1: "rope"},
}


def found(model):
    decoder = families.decoder_of(model)
    _, full = families.layers_for(decoder, lambda index: adapter.FullLayer())
    return find_rotary(decoder, full)


@pytest.mark.parametrize("name", sorted(ROTATING))
def test_rotating_layers_and_nope_layers_are_told_apart_by_trying(name):
    turns = found(family(name)).turns
    assert {layer: "nope" if turn is None else "rope" for layer, turn in turns.items()} == ROTATING[name]


@pytest.mark.slow
@pytest.mark.parametrize(
    "name", ["gemma3", "gemma4", "cohere2", "smollm3", "stablelm", "gpt_neox", "glm4", "phi3"]
)
def test_rotations_of_more_families(name):
    kinds = ["nope" if turn is None else "rope" for turn in found(family(name)).turns.values()]
    assert kinds == {"cohere2": ["nope"], "smollm3": ["rope"] * 3 + ["nope"]}.get(name, ["rope"] * len(kinds))


@pytest.mark.parametrize("model", [llama, lambda: language_model(LlamaConfig(**YARN))])
def test_turning_back_undoes_the_models_rotation_and_shifts_add_up(model):
    rotary = found(model())
    states, at = torch.randn(2, 3, 4, 16), torch.tensor([[3, 9, 40, 900], [0, 1, 2, 5]])
    turned = rotary.turn(0, states, at, "forward")
    torch.testing.assert_close(rotary.turn(0, turned, at, "back"), states, atol=1e-5, rtol=1e-5)
    shifted = rotary.turn(0, turned, torch.full_like(at, 7), "shift")
    torch.testing.assert_close(shifted, rotary.turn(0, states, at + 7, "forward"), atol=1e-4, rtol=1e-4)


def test_the_mean_rotation_is_the_mean_of_rotated_vectors():
    rotary = found(llama())
    state = torch.randn(1, 1, 1, 16)
    at = torch.arange(20, 25)[None]
    mean = rotary.turn(0, state.expand(1, 1, 5, 16), at, "forward").mean(2).flatten()
    torch.testing.assert_close(rotary.mean(0, 16, 20, 5, state) @ state.flatten(), mean, atol=1e-5, rtol=1e-5)
    assert torch.equal(found(family("llama4")).mean(3, 16, 20, 5, state), torch.eye(16))


@pytest.mark.parametrize("policy", ["streaming_llm", "expected_attention"])
def test_learned_positions_cannot_be_turned(policy):
    with pytest.raises(DcacheError, match="places its tokens by something other than a rotation"):
        lm_kv.KVCache(family("gpt2"), policy, budget=0.5)


def test_frequencies_that_change_with_the_length_cannot_be_turned():
    model = language_model(LlamaConfig(**rope("dynamic", factor=2.0)))
    with pytest.raises(DcacheError, match="frequencies are fixed; this model's type is 'dynamic'"):
        lm_kv.KVCache(model, "streaming_llm", budget=0.5)


def test_the_fast_families_are_those_of_this_file():
    assert set(ROTATING) <= set(FAST)
