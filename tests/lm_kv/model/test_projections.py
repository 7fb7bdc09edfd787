import pytest
import torch
from torch.nn import functional as F

from dcache import DcacheError
from dcache.lm_kv.codecs.latents import Linear
from dcache.lm_kv.model.projections import latents_of, linears_of
from dcache.lm_kv.model.rotary import find_rotary
from tests.lm_kv.language_models import family, llama


def latents(model, layers=(0, 1, 2)):
    return latents_of(model.model, layers, find_rotary(model.model, list(layers)), "xquant")


def linears(model, layers=(0, 1, 2)):
    decoder = model.base_model
    return linears_of(decoder, layers, find_rotary(decoder, list(layers)), "xquant_cl")


@pytest.mark.parametrize("name", ["llama", "qwen2"])
def test_latents_are_those_of_the_layers_weights_and_biases(name):
    model = family(name)
    found = latents(model)
    attention = model.model.layers[1].self_attn
    inputs = torch.randn(5, 64)
    for part, linear in (("keys", attention.k_proj), ("values", attention.v_proj)):
        latent = found[1][part]
        assert latent.heads == 2
        assert (latent.bias is not None) == (name == "qwen2")
        left, sizes, _ = torch.linalg.svd(linear.weight.T, full_matrices=False)
        torch.testing.assert_close(latent.sizes, sizes)
        torch.testing.assert_close(latent.of(linear(inputs)), inputs @ left, atol=1e-3, rtol=0)


def test_a_vocabulary_may_be_smaller_than_what_is_tried():
    assert latents(llama(1, vocab_size=4), (0,))[0]["keys"].heads == 2


def test_they_are_found_once_for_a_model():
    model = llama(1)
    assert latents(model, (0,)) is latents(model, (0,))
    assert linears(model, (0,)) is linears(model, (0,))


def test_they_are_found_anew_where_weights_were_cast_or_written_to():
    model = llama(1)
    before = latents(model, (0,)), linears(model, (0,))
    weight = model.model.layers[0].self_attn.v_proj.weight
    with torch.no_grad():
        weight.mul_(2)
    after = latents(model, (0,))
    torch.testing.assert_close(after[0]["values"].sizes, 2 * before[0][0]["values"].sizes)
    model.double()
    assert linears(model, (0,))[0]["keys"].weight.dtype == torch.float64


@torch.no_grad()
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
def test_large_biases_of_keys_are_no_reason_to_refuse(dtype):
    """Qwen2.5's are in the hundreds in some channels."""
    model = family("qwen2")
    for layer in model.model.layers:
        layer.self_attn.k_proj.bias[3::8] = 400.0
    model.to(dtype)
    for found in (latents(model), linears(model)):
        assert torch.equal(found[1]["keys"].bias, model.model.layers[1].self_attn.k_proj.bias)
    # Other weights are still told from those that make the keys.
    attention = model.model.layers[2].self_attn
    key = attention.k_proj
    key.forward = lambda given: F.linear(given, key.weight.roll(1, 1), key.bias)
    with pytest.raises(DcacheError, match=r"layer 2 does not make its keys"):
        latents(model)


@pytest.mark.parametrize("name", ["qwen3", "olmo2"])
def test_layers_that_norm_keys_are_refused(name):
    with pytest.raises(DcacheError, match=r"layer 0 does not make its keys.*use lm_kv.kivi"):
        latents(family(name))


def test_quantised_layers_are_refused():
    class Rounded(torch.nn.Linear):
        """No plain linear layer."""

    model = llama(1)
    attention = model.model.layers[0].self_attn
    attention.k_proj.__class__ = Rounded
    with pytest.raises(DcacheError, match=r"xquant_cl cannot make them again"):
        linears(model, (0,))


def test_a_head_for_each_query_head_has_its_projections_themselves():
    model = llama(2, num_key_value_heads=4, attention_bias=True)
    found, attention = latents(model, (0, 1))[1], model.model.layers[1].self_attn
    for part, linear in (("keys", attention.k_proj), ("values", attention.v_proj)):
        assert isinstance(found[part], Linear)
        assert (found[part].heads, found[part].size, found[part].directions) == (4, 64, None)
        inputs = torch.randn(5, 64)
        assert torch.equal(found[part].states(inputs), linear(inputs))


def test_fused_projections_are_taken_apart():
    model, inputs = family("phi3"), torch.randn(5, 64)
    fused = model.model.layers[2].self_attn.qkv_proj(inputs)
    found = linears(model)[2]
    torch.testing.assert_close(found["keys"].states(inputs), fused[:, 64:96])
    torch.testing.assert_close(found["values"].states(inputs), fused[:, 96:])
    model = family("gpt_neox")
    # Head by head: query, key, value.
    fused = model.gpt_neox.layers[2].attention.query_key_value(inputs).view(5, 4, 3, 16)
    found = linears(model)[2]
    torch.testing.assert_close(found["keys"].states(inputs), fused[:, :, 1].flatten(1))
    torch.testing.assert_close(found["values"].states(inputs), fused[:, :, 2].flatten(1))


def test_directions_are_those_on_which_keys_and_values_depend():
    model = llama(1, num_key_value_heads=1)
    attention, found = model.model.layers[0].self_attn, linears(model, (0,))[0]
    directions = found["keys"].directions
    assert directions is found["values"].directions
    assert directions.shape == (64, 32)
    torch.testing.assert_close(directions.T @ directions, torch.eye(32), atol=1e-5, rtol=0)
    inputs = torch.randn(5, 64)
    kept = inputs @ directions @ directions.T
    for linear in (attention.k_proj, attention.v_proj):
        torch.testing.assert_close(linear(kept), linear(inputs), atol=1e-4, rtol=0)
    # As wide as the input, or wider: all of it is stored.
    assert linears(llama(1), (0,))[0]["keys"].directions is None
