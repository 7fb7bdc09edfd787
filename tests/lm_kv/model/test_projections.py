import pytest
import torch

from dcache import DcacheError
from dcache.lm_kv.model.projections import latents_of
from dcache.lm_kv.model.rotary import find_rotary
from tests.lm_kv.language_models import family, llama


def latents(model, layers=(0, 1, 2)):
    return latents_of(model.model, layers, find_rotary(model.model, list(layers)))


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


def test_they_are_found_once_for_a_model():
    model = llama(1)
    assert latents(model, (0,)) is latents(model, (0,))


@pytest.mark.parametrize("name", ["qwen3", "olmo2", "phi3"])
def test_layers_that_norm_keys_or_have_no_projection_of_them_are_refused(name):
    with pytest.raises(DcacheError, match=r"layer 0 does not make its keys.*use lm_kv.kivi"):
        latents(family(name))


def test_a_head_for_each_query_head_is_refused():
    with pytest.raises(DcacheError, match="KV head for each query head"):
        latents(family("llama_mha"))
