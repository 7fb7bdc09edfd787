"""A diffusion policy of the shape of TransformerForDiffusion, on torch's own `nn.TransformerDecoderLayer`."""

from __future__ import annotations

import math
from dataclasses import dataclass

import torch
from torch import nn


@dataclass(frozen=True)
class NetworkConfig:
    """Sizes of a `PolicyNetwork`.

    Attributes:
        observation: features of one observation.
        action: numbers of one action.
        horizon: actions of a chunk.
        observations: observations that a chunk is conditioned on.
        hidden: width of a token; the feed-forward layers are four times as wide.
        encoder: width of the network that encodes an observation.
        layers: decoder layers.
        heads: attention heads.
    """

    observation: int
    action: int
    horizon: int = 16
    observations: int = 2
    hidden: int = 96
    encoder: int = 384
    layers: int = 4
    heads: int = 4


class PolicyNetwork(nn.Module):
    """Denoiser of action chunks: causal decoder layers over actions, with time and observations as memory.

    Args:
        config: the sizes.
    """

    mask: torch.Tensor

    def __init__(self, config: NetworkConfig) -> None:
        super().__init__()
        self.config = config
        hidden = config.hidden
        self.action_in = nn.Linear(config.action, hidden)
        self.action_position = nn.Parameter(torch.randn(1, config.horizon, hidden) * 0.02)
        wide = config.encoder
        # Two tokens are observations, sixteen are actions: depth is cheapest in the former.
        self.observation_in = nn.Sequential(
            nn.Linear(config.observation, wide),
            nn.Mish(),
            nn.Linear(wide, wide),
            nn.Mish(),
            nn.Linear(wide, hidden),
        )
        self.memory_position = nn.Parameter(torch.randn(1, config.observations + 1, hidden) * 0.02)
        self.memory = nn.Sequential(nn.Linear(hidden, 4 * hidden), nn.Mish(), nn.Linear(4 * hidden, hidden))
        layer = nn.TransformerDecoderLayer(
            hidden,
            config.heads,
            4 * hidden,
            dropout=0.0,
            activation="gelu",
            batch_first=True,
            norm_first=True,
        )
        self.decoder = nn.TransformerDecoder(layer, config.layers)
        # `nn.TransformerDecoder` copies one layer: without this all layers would start with the same weights.
        for weight in self.decoder.parameters():
            if weight.dim() > 1:
                nn.init.normal_(weight, std=0.02)
        self.norm = nn.LayerNorm(hidden)
        self.action_out = nn.Linear(hidden, config.action)
        mask = nn.Transformer.generate_square_subsequent_mask(config.horizon)
        self.register_buffer("mask", mask, persistent=False)

    def forward(self, sample: torch.Tensor, timestep: torch.Tensor, condition: torch.Tensor) -> torch.Tensor:
        """The clean actions, same shape as `sample`.

        Args:
            sample: noisy actions `[rows, horizon, action]`.
            timestep: noise levels, a number or `[rows]`.
            condition: encoded observations `[rows, observations, observation]`.
        """
        times = time_embedding(timestep.reshape(-1).expand(len(sample)), self.config.hidden)
        memory = torch.cat([times[:, None], self.observation_in(condition)], 1) + self.memory_position
        actions = self.action_in(sample) + self.action_position
        hidden = self.decoder(actions, self.memory(memory), tgt_mask=self.mask, tgt_is_causal=True)
        return self.action_out(self.norm(hidden))


def time_embedding(timestep: torch.Tensor, width: int) -> torch.Tensor:
    """Sine and cosine features `[rows, width]` of the noise levels `[rows]`."""
    half = width // 2
    frequency = torch.exp(torch.arange(half, device=timestep.device) * -(math.log(10000) / (half - 1)))
    angle = timestep.float()[:, None] * frequency[None]
    return torch.cat([angle.sin(), angle.cos()], -1)
