"""Packed tokens of few bits, which attention reads as they are encoded."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import torch

from dcache.kernels.lowbit import LowBit
from dcache.kernels.ragged_attention import Runs, ragged_attention
from dcache.lm_kv.codecs.low_bit import LowBitCodec
from dcache.lm_kv.storage.parts import RaggedPart


@dataclass(frozen=True)
class EncodedPart:
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

    @cached_property
    def columns(self) -> int:
        """Tokens in the longest run."""
        return max(self.sizes)

    @cached_property
    def runs(self) -> Runs:
        """The lengths."""
        return Runs(self.lengths.flatten())

    def products(self, query: torch.Tensor) -> torch.Tensor:
        """Dot products with decoded keys; 0 in unused columns."""
        return self._decoded(self.keys).products(query)

    def mask(self, logits: torch.Tensor) -> torch.Tensor:
        """Bias added; -inf in unused columns."""
        # Neither keys nor values are read.
        return self._runs_of(self.keys.codes, self.values.codes).mask(logits)

    def combine(self, weights: torch.Tensor) -> torch.Tensor:
        """Weighted sums of decoded values."""
        return self._decoded(self.values).combine(weights)

    def attend(
        self, query: torch.Tensor, scale: float, softcap: float | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Queries meet the codes; only pieces of a run are ever decoded."""
        bias = None
        if self.bias is not None:
            columns = torch.arange(self.columns, device=query.device)
            bias = self.bias[columns < self.lengths[..., None]]
        out, lse = ragged_attention(
            self.codec.turned(query.flatten(0, 1)),
            self.keys,
            self.values,
            self.runs,
            scale,
            softcap=softcap,
            bias=bias,
        )
        return self.codec.turned(out).view(*query.shape[:3], -1), lse.view(query.shape[:3])

    def _decoded(self, encoded: LowBit) -> RaggedPart:
        tokens = self.codec.decode(encoded)
        return self._runs_of(tokens, tokens)

    def _runs_of(self, keys: torch.Tensor, values: torch.Tensor) -> RaggedPart:
        return RaggedPart(keys, values, self.lengths, self.sizes, self.bias)
