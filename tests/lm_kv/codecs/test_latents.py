import torch

from dcache.lm_kv.codecs.latents import Linear, latent_of


def test_latents_are_inputs_on_the_left_singular_vectors_and_lead_back():
    torch.manual_seed(0)
    inputs = torch.randn(7, 12).double()
    for size in (6, 12, 20):
        linear = torch.nn.Linear(12, size).double()
        latent = latent_of(linear.weight, linear.bias, 2)
        left, sizes, right = torch.linalg.svd(linear.weight.T, full_matrices=False)
        states = linear(inputs)
        torch.testing.assert_close(latent.of(states), inputs @ left)
        torch.testing.assert_close(latent.states(inputs @ left), states)
        torch.testing.assert_close(inputs @ left * sizes @ right + linear.bias, states)


def test_directions_that_a_projection_never_gives_are_left_out():
    weight = torch.tensor([[1.0, 0, 0], [2.0, 0, 0], [0, 3.0, 0]])
    latent = latent_of(weight, None, 1)
    assert latent.sizes.tolist() == [3.0, torch.tensor(5.0).sqrt().item()]
    states = torch.tensor([[1.0, 2.0, 3.0]])
    torch.testing.assert_close(latent.states(latent.of(states)), states)


def test_narrow_weights_have_float16_directions():
    assert latent_of(torch.eye(3).bfloat16(), None, 1).vectors.dtype == torch.float16
    assert latent_of(torch.eye(3).double(), None, 1).vectors.dtype == torch.float64


def test_a_linear_makes_states_in_the_models_dtype():
    layer = torch.nn.Linear(12, 6).bfloat16().requires_grad_(False)
    linear = Linear(2, layer.weight, layer.bias)
    inputs = torch.randn(7, 12)
    assert linear.size == 12
    assert torch.equal(linear.states(inputs), layer(inputs.bfloat16()))
