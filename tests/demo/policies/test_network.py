"""The shape of the policy network."""

import torch

from dcache.demo.policies.network import NetworkConfig, PolicyNetwork, time_embedding

CONFIG = NetworkConfig(3, 2, horizon=4, hidden=8, encoder=8, layers=2, heads=2)


def network() -> PolicyNetwork:
    torch.manual_seed(0)
    return PolicyNetwork(CONFIG).eval()


def test_an_action_does_not_see_later_ones() -> None:
    model, condition = network(), torch.randn(1, 2, 3)
    noise = torch.randn(1, 4, 2)
    other = noise.clone()
    other[:, 2] += 1.0
    with torch.no_grad():
        a, b = (model(x, torch.tensor(50), condition) for x in (noise, other))
    assert torch.equal(a[:, :2], b[:, :2])
    assert not torch.equal(a[:, 2:], b[:, 2:])


def test_time_and_observations_matter() -> None:
    model, noise, condition = network(), torch.randn(2, 4, 2), torch.randn(2, 2, 3)
    with torch.no_grad():
        base = model(noise, torch.tensor(50), condition)
        assert not torch.equal(base, model(noise, torch.tensor(51), condition))
        assert not torch.equal(base, model(noise, torch.tensor(50), condition + 1))
        # A level for every row is the same as one for all.
        assert torch.equal(base, model(noise, torch.tensor([50, 50]), condition))


def test_layers_start_with_weights_of_their_own() -> None:
    first, second = network().decoder.layers
    assert not torch.equal(first.linear1.weight, second.linear1.weight)


def test_time_features_are_sines_and_cosines_of_geometric_frequencies() -> None:
    # Two frequencies, 1 and 1 / 10000.
    expected = torch.tensor([[2.0, 2e-4, 2.0, 2e-4]])
    expected = torch.cat([expected[:, :2].sin(), expected[:, 2:].cos()], 1)
    torch.testing.assert_close(time_embedding(torch.tensor([2]), 4), expected)
