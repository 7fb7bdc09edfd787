"""What a chunk is to the engine: one run, with all of its evaluations."""

import pytest
import torch

import dcache
from dcache.demo.policies.network import NetworkConfig, PolicyNetwork
from dcache.demo.policies.policy import ChunkPolicy
from dcache.demo.policies.sampling import Sampler
from tests.demo.policies.toy_task import Sum

STATES = torch.arange(4.0).view(2, 2, 1)


def policy() -> ChunkPolicy:
    torch.manual_seed(0)
    network = PolicyNetwork(NetworkConfig(1, 1, hidden=16, encoder=16, layers=2)).eval()
    for weight in network.parameters():
        weight.requires_grad_(False)
    return ChunkPolicy(network, Sum({}))


# DDPM's first step of this schedule replaces nearly all of the noise.
@pytest.mark.parametrize("sampler", [Sampler("ddpm", 20), Sampler("ddim", 10)], ids=str)
def test_a_chunk_is_one_run(sampler: Sampler) -> None:
    chosen = policy()
    plain = chosen.chunks(STATES, [4, 5], sampler)
    with dcache.enabled(chosen, "interval", interval=1, sites="sublayers"):
        assert torch.equal(chosen.chunks(STATES, [4, 5], sampler), plain)
    with dcache.enabled(chosen, "interval", interval=2, sites="trunk"):
        for _ in range(2):
            assert not torch.equal(chosen.chunks(STATES, [4, 5], sampler), plain)
            figures = dcache.stats(chosen)
            assert (figures.steps, figures.computed) == (sampler.steps, sampler.steps // 2)


def test_a_warm_start_is_a_run_of_what_is_left() -> None:
    chosen, sampler = policy(), Sampler("ddim", 10)
    with dcache.enabled(chosen, "interval", interval=2, sites="trunk"):
        first = chosen.chunks(STATES, [4, 5], sampler)
        cached = chosen.chunks(STATES + 1, [6, 7], sampler, first, 4)
        figures = dcache.stats(chosen)
    assert figures.computed == 2
    fresh = policy()
    with dcache.enabled(fresh, "interval", interval=2, sites="trunk"):
        assert torch.equal(fresh.chunks(STATES + 1, [6, 7], sampler, first, 4), cached)
