"""A small denoiser whose time-only parts are known by hand."""

from __future__ import annotations

from typing import Any

import torch
from torch import nn


class Modulated(nn.Module):
    """A block: `linear` sees the timestep alone, `out` the latents."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.silu, self.linear, self.out = nn.SiLU(), nn.Linear(width, width), nn.Linear(width, width)

    def forward(self, x: torch.Tensor, emb: torch.Tensor) -> torch.Tensor:
        return x + self.out(x) * self.linear(self.silu(emb))


class Net(nn.Module):
    """time_embed(t), class_embed(label), two blocks."""

    def __init__(self, width: int = 8) -> None:
        super().__init__()
        self.time_embed = nn.Sequential(nn.Linear(1, width), nn.Linear(width, width))
        self.text = nn.Linear(width, width)
        self.blocks = nn.ModuleList(Modulated(width) for _ in range(2))

    def forward(
        self,
        sample: torch.Tensor,
        timestep: torch.Tensor,
        pooled: torch.Tensor | None = None,
        encoder_hidden_states: torch.Tensor | None = None,
    ) -> torch.Tensor:
        emb = self.time_embed(timestep.reshape(-1, 1) / 1000)
        if pooled is not None:
            emb = emb + pooled
        if encoder_hidden_states is not None:
            sample = sample + self.text(encoder_hidden_states).mean(1)
        for block in self.blocks:
            sample = block(sample, emb)
        return sample


TIMED = ["time_embed", "blocks.0.linear", "blocks.1.linear"]


def net(seed: int = 0, width: int = 8) -> Net:
    torch.manual_seed(seed)
    return Net(width).eval().requires_grad_(False)


def draw(seed: int, *shape: int) -> torch.Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def walk(
    model: nn.Module, times: tuple[float, ...] = (900.0, 500.0, 100.0), seed: int = 1, **given: Any
) -> torch.Tensor:
    """A short loop; the sample depends on all that the model returned."""
    sample = draw(seed, 2, model.text.in_features if isinstance(model, Net) else 8)
    with torch.no_grad():
        for time in times:
            sample = sample - 0.1 * model(sample, torch.tensor([time]), **given)
    return sample
