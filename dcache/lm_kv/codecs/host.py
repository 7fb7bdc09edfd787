"""Keys and values in host memory, from which the tokens that are read are fetched."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any, ClassVar

import torch

from dcache.lm_kv.codecs.codec import DeviceCodec, compact


@dataclass(frozen=True, eq=False)
class HostTokens:
    """Keys or values `[N, d]` in host memory, for a model on `device`."""

    states: torch.Tensor
    device: torch.device

    def tiers(self) -> dict[str, list[torch.Tensor]]:
        """Tensors by tier."""
        return {"host": [self.states]}

    @classmethod
    def of(cls, states: torch.Tensor, device: torch.device) -> HostTokens:
        """States of any device; pinned, so that a GPU can fetch them while it computes."""
        host = compact(states.cpu())
        return cls(host.pin_memory() if device.type == "cuda" else host, device)

    def fetched(self) -> torch.Tensor:
        """All of them on the model's device."""
        return self.states.to(self.device, non_blocking=True)

    def take(self, rows: torch.Tensor) -> HostTokens:
        """Some of them, still in host memory."""
        return replace(self, states=self.states[rows.to(self.states.device)])

    @classmethod
    def join(cls, parts: Sequence[HostTokens], order: torch.Tensor) -> HostTokens:
        """All of several, one after the other and then in this order."""
        states = torch.cat([part.states for part in parts])
        return cls.of(states[order.to(states.device)], parts[0].device)


@dataclass(frozen=True)
class HostCodec(DeviceCodec):
    """Keys and values as they came, in host memory: what is read at a step is fetched then."""

    block: ClassVar[int] = 0
    residual: ClassVar[int] = 0

    def encode_keys(self, keys: torch.Tensor, lengths: torch.Tensor, positions: torch.Tensor) -> HostTokens:
        """The keys, moved."""
        return HostTokens.of(keys, keys.device)

    def encode_values(self, values: torch.Tensor, lengths: torch.Tensor) -> HostTokens:
        """The values, moved."""
        return HostTokens.of(values, values.device)

    def decode(self, encoded: HostTokens) -> torch.Tensor:
        """What was moved, back on the model's device."""
        return encoded.fetched()

    def take(self, encoded: HostTokens, rows: torch.Tensor, lengths: torch.Tensor) -> HostTokens:
        """Some of them."""
        return encoded.take(rows)

    def join(self, parts: Sequence[HostTokens], order: torch.Tensor, lengths: torch.Tensor) -> HostTokens:
        """All of them."""
        return HostTokens.join(parts, order)

    def tensors(self, encoded: HostTokens) -> dict[str, torch.Tensor]:
        """The tensor in host memory."""
        return {"": encoded.states}

    def restore(self, tensors: Mapping[str, torch.Tensor], like: torch.Tensor) -> Any:
        """The tensor, moved to host memory again."""
        return HostTokens.of(tensors[""], like.device)
