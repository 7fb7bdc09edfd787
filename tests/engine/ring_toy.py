"""A small transformer of diffusers' kind whose attention gathers keys and values of all processes.

diffusers' ring attention needs log-sum-exps, which torch's attention on a CPU does not return. Splitting and
gathering are the same for ring and ulysses; only what happens inside an attention differs.
"""

from __future__ import annotations

from typing import Any, ClassVar

import torch
from diffusers.configuration_utils import ConfigMixin, register_to_config
from diffusers.models._modeling_parallel import ContextParallelInput, ContextParallelOutput
from diffusers.models.modeling_utils import ModelMixin
from torch import nn
from torch.distributed import _functional_collectives as collectives


class RingAttention(nn.Module):
    """Self-attention; with a mesh, over the keys and values of all its processes."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.qkv = nn.Linear(width, 3 * width)
        self.model: list[Any] = []

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        q, k, v = self.qkv(hidden_states).chunk(3, -1)
        config = self.model[0]._parallel_config
        if config is not None:
            group = config.context_parallel_config._ring_mesh.get_group()
            k, v = (collectives.all_gather_tensor(t.contiguous(), 1, group) for t in (k, v))
        return torch.softmax(q @ k.transpose(1, 2) / q.shape[-1] ** 0.5, -1) @ v


class RingBlock(nn.Module):
    """x -> x + attention(x) + mlp(x)."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.attn, self.ff = RingAttention(width), nn.Linear(width, width)

    def forward(self, hidden_states: torch.Tensor) -> torch.Tensor:
        hidden_states = hidden_states + self.attn(hidden_states)
        return hidden_states + 0.3 * torch.tanh(self.ff(hidden_states))


class RingToy(ModelMixin, ConfigMixin):
    """Four blocks; the first one's hook splits the tokens, as Wan's does."""

    _cp_plan: ClassVar[dict[str, Any]] = {
        "blocks.0": {"hidden_states": ContextParallelInput(split_dim=1, expected_dims=3, split_output=False)},
        "proj_out": ContextParallelOutput(gather_dim=1, expected_dims=3),
    }

    @register_to_config
    def __init__(self, width: int = 4) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(RingBlock(width) for _ in range(4))
        self.proj_out = nn.Linear(width, width)
        for block in self.blocks:
            block.attn.model.append(self)

    @classmethod
    def make(cls) -> RingToy:
        """The same weights in every process."""
        torch.manual_seed(0)
        return cls().eval()

    def forward(self, hidden_states: torch.Tensor, timestep: torch.Tensor) -> torch.Tensor:
        x = hidden_states + timestep
        for block in self.blocks:
            x = block(x)
        return self.proj_out(x)
