import pytest
import torch

from dcache.lm_kv.calibrating.key_statistics import basis_of, key_statistics
from dcache.lm_kv.model.rotary import find_rotary
from tests.lm_kv.language_models import batch, family, llama


@torch.no_grad()
def test_moments_are_those_of_the_projections_before_rotation():
    model, text = llama(1), batch()["input_ids"][1:]
    statistics = key_statistics(model, text)
    layer = model.model.layers[0]
    hidden = layer.input_layernorm(model.model.embed_tokens(text))
    keys = layer.self_attn.k_proj(hidden)[0].unflatten(1, (2, 16)).transpose(0, 1).double()
    torch.testing.assert_close(statistics.moments[0], keys.mT @ keys / 40, atol=1e-4, rtol=1e-4)
    # Sizes are those of keys and queries as attention has them.
    rotary, places = find_rotary(model.model, [0]), torch.arange(40)[None]
    turned = rotary.turn(0, keys[None].float(), places, "forward").abs().mean(2)[0]
    queries = layer.self_attn.q_proj(hidden)[0].unflatten(1, (4, 16)).transpose(0, 1)
    sizes = rotary.turn(0, queries[None], places, "forward").abs().mean(2)[0]
    expected = turned * sizes.view(2, 2, 16).mean(1)
    torch.testing.assert_close(statistics.importance[0].float(), expected, atol=1e-4, rtol=1e-4)
    assert statistics.left_out == ""


def test_directions_are_in_order_and_give_the_moments_back():
    keys = torch.randn(2, 50, 6).double() * torch.tensor([1.0, 5.0, 0.1, 2.0, 3.0, 0.5])
    moments = keys.mT @ keys / 50
    directions, variance = basis_of(moments)
    assert bool((variance.diff(dim=1) <= 0).all())
    torch.testing.assert_close(directions @ directions.mT, torch.eye(6).double().expand(2, 6, 6))
    torch.testing.assert_close(directions.mT @ (variance[..., None] * directions), moments)


def test_models_without_a_known_rotation_have_no_moments():
    statistics = key_statistics(family("gpt2"), batch()["input_ids"][1:])
    assert statistics.moments == {}
    assert "places its tokens by something other than a rotation" in statistics.left_out
    assert sorted(statistics.importance) == [0, 1, 2]


@pytest.mark.parametrize("name", ["gemma2"])
def test_layers_of_the_librarys_are_left_out(name):
    assert sorted(key_statistics(family(name), batch()["input_ids"][1:]).moments) == [1]
