"""Packed tokens of few bits, which attention reads as they are encoded."""

from __future__ import annotations

from dataclasses import dataclass

import torch

from dcache.kernels.lowbit import LowBit
from dcache.kernels.ragged_attention import ragged_attention
from dcache.lm_kv.codecs.low_bit import LowBitCodec
from dcache.lm_kv.storage.parts import RaggedPart, RunsPart


@dataclass(frozen=True)
class EncodedPart(RunsPart):
    """Runs of any lengths in few bits.

    Attributes:
        codec: what encoded them.
        keys: of all runs.
        values: likewise.
        lengths: int64 `[B, h]`.
        sizes: the same on the host.
        bias: float32 `[B, h, columns]` or None.
    """

    codec: LowBitCodec
    keys: LowBit
    values: LowBit
    lengths: torch.Tensor
    sizes: list[int]
    bias: torch.Tensor | None = None

    def products(self, query: torch.Tensor) -> torch.Tensor:
        """Dot products with decoded keys; 0 in unused columns."""
        return self._decoded(self.keys).products(query)

    def combine(self, weights: torch.Tensor) -> torch.Tensor:
        """Weighted sums of decoded values."""
        return self._decoded(self.values).combine(weights)

    def attend(
        self, query: torch.Tensor, scale: float, softcap: float | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Queries meet the codes; only pieces of a run are ever decoded."""
        out, lse = ragged_attention(
            self.codec.turned(query.flatten(0, 1)),
            self.keys,
            self.values,
            self.runs,
            scale,
            softcap=softcap,
            bias=self.flat_bias,
        )
        return self.codec.turned(out).view(*query.shape[:3], -1), lse.view(query.shape[:3])

    def _decoded(self, encoded: LowBit) -> RaggedPart:
        tokens = self.codec.decode(encoded)
        return RaggedPart(tokens, tokens, self.lengths, self.sizes, self.bias)
