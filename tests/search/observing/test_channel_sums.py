"""Sums for each channel: planted distortions come back, by least squares."""

import pytest
import torch

from dcache.search.observing.channel_sums import Sums


def noise(*shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def test_a_planted_distortion_is_found_to_ten_digits() -> None:
    p = noise(4, 50, 3)
    a, b = torch.tensor([2.0, -0.5, 1.0]), torch.tensor([1.0, 0.0, -7.0])
    sums = Sums.of(p[:1], a * p[:1] + b, 0) + Sums.of(p[1:], a * p[1:] + b, 0)
    found, (before, after, variance) = sums.solve(published=False)
    assert torch.allclose(found.scale.double(), a.double(), rtol=0, atol=1e-7)
    assert torch.allclose(found.shift.double(), b.double(), rtol=0, atol=1e-7)
    assert float(after / variance) < 1e-12
    y = a * p + b
    assert float(before) == pytest.approx(float(((y - p) ** 2).sum()))
    assert float(variance) == pytest.approx(float(((y - y.mean((0, 1))) ** 2).sum()))


def test_it_is_the_least_squares_line_and_the_published_slope_is_short_of_it_by_one_in_n() -> None:
    p, y = noise(1, 50, 2), noise(1, 50, 2, seed=1)
    sums = Sums.of(p, y, 0)
    found, (_, after, _) = sums.solve(published=False)
    total = 0.0
    for c in range(2):
        A = torch.stack([p[0, :, c], torch.ones(50, dtype=torch.float64)], dim=1)
        best = torch.linalg.lstsq(A, y[0, :, c])
        assert [float(found.scale[c]), float(found.shift[c])] == pytest.approx(
            best.solution.tolist(), abs=1e-6
        )
        total += float(((A @ best.solution - y[0, :, c]) ** 2).sum())
    assert float(after) == pytest.approx(total)
    biased, _ = sums.solve(published=True)
    assert torch.allclose(biased.scale, found.scale * 49 / 50)
    # The line still goes through the means.
    assert torch.allclose(biased.scale * p.mean((0, 1)) + biased.shift, y.mean((0, 1)), atol=1e-6)


def test_a_channel_that_does_not_vary_is_shifted_only() -> None:
    p = torch.full((1, 5, 1), 3.0)
    found, _ = Sums.of(p, p + noise(1, 5, 1), 0).solve(published=True)
    assert found.scale.tolist() == [1.0]
    assert float(found.shift) == pytest.approx(float(noise(1, 5, 1).mean()), abs=1e-6)


@pytest.mark.parametrize(("shape", "dim", "channels"), [((2, 7, 3), -1, 3), ((2, 3, 4, 5), 1, 3),
                                                       ((1, 2, 3, 4, 5), 1, 2), ((6, 4), -1, 4)])  # fmt: skip
def test_channels_of_tokens_are_last_those_of_maps_behind_the_batch(
    shape: tuple[int, ...], dim: int, channels: int
) -> None:
    sums = Sums.of(noise(*shape), noise(*shape, seed=1), 0)
    assert (sums.dim, sums.moments.shape[1]) == (dim, channels)
