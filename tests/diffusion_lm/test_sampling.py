"""Noise: uniform, independent of what else is drawn, and the Gumbel-max trick samples the softmax."""

import torch

from dcache.diffusion_lm.sampling import keys_of, sample, uniform

STEPS = torch.tensor([3, 5])


def test_noise_is_of_seed_step_row_position_and_token_alone():
    keys = keys_of(1, STEPS, torch.tensor([[4, 7], [7, 4]]))
    noise = uniform(keys, 6)
    again = uniform(keys_of(1, STEPS, torch.tensor([[7], [2]])), 4)
    assert torch.equal(noise[0, 1, :4], again[0, 0])
    others = [keys_of(2, STEPS, torch.tensor([[4], [7]])), keys_of(1, STEPS + 1, torch.tensor([[4], [7]]))]
    for other in others:
        assert not torch.equal(noise[:, :1], uniform(other, 6))
    # All of 2 rows x 2 positions x 6 tokens differ.
    assert len(set(noise.flatten().tolist())) == 24


def test_noise_is_uniform():
    noise = uniform(keys_of(0, torch.zeros(50, dtype=torch.long), torch.arange(40).expand(50, 40)), 50)
    assert 0 < noise.min() < 1e-4
    assert 1 - 1e-4 < noise.max() < 1
    counts = torch.histc(noise, 10, 0, 1)
    # 100,000 draws: 10,000 a bin, standard deviation 95.
    assert (counts - 10_000).abs().max() < 500


def test_samples_follow_the_tempered_softmax():
    logits = torch.tensor([0.0, 1.0, 2.0]).expand(1, 40_000, 3)
    keys = keys_of(7, torch.zeros(1, dtype=torch.long), torch.arange(40_000)[None])
    for temperature in (1.0, 0.5):
        tokens = sample(logits, temperature, keys)
        shares = torch.bincount(tokens[0], minlength=3) / 40_000
        assert (shares - (logits[0, 0] / temperature).softmax(-1)).abs().max() < 0.015
    assert bool((sample(logits, 0, keys) == 2).all())
