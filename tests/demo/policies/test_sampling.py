"""Sampling: what a perfect denoiser gives, and noise by rows."""

import pytest
import torch

import dcache
from dcache.demo.policies.network import NetworkConfig, PolicyNetwork
from dcache.demo.policies.sampling import Sampler, noise_of, sample
from tests.demo.policies.toy_task import Constant

SAMPLERS = [Sampler("ddpm", 100), Sampler("ddpm", 10), Sampler("ddim", 10), Sampler("ddim", 1)]


@pytest.mark.parametrize("sampler", SAMPLERS, ids=str)
def test_a_denoiser_that_knows_the_chunk_gives_the_chunk(sampler: Sampler) -> None:
    network = Constant()
    chunk = sample(network, torch.zeros(2, 2, 1), (16, 1), noise_of([1, 2]), sampler.scheduler())
    torch.testing.assert_close(chunk, network.clean.expand(2, -1, -1))
    assert len(network.calls) == sampler.steps


def test_a_start_leaves_the_last_evaluations() -> None:
    network = Constant()
    start = torch.zeros(1, 16, 1)
    sample(network, torch.zeros(1, 2, 1), (16, 1), noise_of([1]), Sampler("ddim", 10).scheduler(), start, 3)
    assert network.calls == [20, 10, 0]


def test_a_row_does_not_depend_on_the_others() -> None:
    torch.manual_seed(0)
    network = PolicyNetwork(NetworkConfig(3, 2, hidden=16, encoder=16, layers=1)).eval()
    condition = torch.randn(3, 2, 3)
    every = sample(network, condition, (16, 2), noise_of([4, 5, 6]), Sampler("ddpm", 10).scheduler())
    alone = sample(network, condition[1:2], (16, 2), noise_of([5]), Sampler("ddpm", 10).scheduler())
    torch.testing.assert_close(every[1:2], alone)


@pytest.mark.parametrize(("kind", "steps"), [("heun", 10), ("ddim", 0), ("ddpm", 101)])
def test_a_sampler_that_does_not_exist(kind: str, steps: int) -> None:
    with pytest.raises(dcache.DcacheError, match=r"ddpm or ddim with 1 to 100 steps"):
        Sampler(kind, steps)
