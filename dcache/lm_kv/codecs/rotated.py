"""Keys and values turned by a Hadamard matrix before they are stored in few bits."""

from __future__ import annotations

from dataclasses import dataclass, replace
from functools import cache
from typing import ClassVar

import torch

from dcache.kernels.lowbit import LowBit, pack, unpack
from dcache.lm_kv.codecs.low_bit import LowBitCodec


@dataclass(frozen=True)
class RotatedCodec(LowBitCodec):
    """Groups of channels of a turned token; the fields are those of `LowBitCodec`."""

    name: ClassVar[str] = "rotatekv"

    @property
    def block(self) -> int:
        """Tokens that are encoded together; they have steps of their own, so fewer would cost more."""
        return 32

    def encode_keys(self, keys: torch.Tensor, lengths: torch.Tensor, positions: torch.Tensor) -> LowBit:
        """Codes of the turned keys."""
        return self._encode(keys)

    def encode_values(self, values: torch.Tensor, lengths: torch.Tensor) -> LowBit:
        """Codes of the turned values."""
        return self._encode(values)

    def decode(self, encoded: LowBit) -> torch.Tensor:
        """Levels, turned back."""
        return turned(unpack(replace(encoded, dtype=torch.float32))).to(encoded.dtype)

    def turned(self, tokens: torch.Tensor) -> torch.Tensor:
        """The matrix leaves dot products as they are, and is its own inverse."""
        wide = tokens.to(torch.promote_types(tokens.dtype, torch.float32))
        return turned(wide.flatten(0, -2)).view(tokens.shape)

    def _encode(self, tokens: torch.Tensor) -> LowBit:
        # Turned and packed in float32: one rounding less for narrow dtypes.
        return replace(pack(turned(tokens.float()), self.bits, self.group), dtype=tokens.dtype)


def turned(tokens: torch.Tensor) -> torch.Tensor:
    """`[N, d]` times an orthonormal Hadamard matrix, which is its own inverse.

    Where d is no power of two, pieces of the largest power of two that divides it are turned.
    """
    channels = tokens.shape[1]
    size = channels & -channels
    pieces = tokens.view(len(tokens), channels // size, size)
    return (pieces @ hadamard(size).to(tokens)).flatten(1)


@cache
def hadamard(size: int) -> torch.Tensor:
    """The orthonormal Sylvester matrix `[size, size]` of a power of two, float32.

    >>> (2 * hadamard(4)).int().tolist()
    [[1, 1, 1, 1], [1, -1, 1, -1], [1, 1, -1, -1], [1, -1, -1, 1]]
    """
    matrix = torch.ones(1, 1, dtype=torch.float32, device="cpu")
    while len(matrix) < size:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return matrix * size**-0.5
