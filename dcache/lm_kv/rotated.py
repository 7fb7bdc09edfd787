"""Keys and values turned by a Hadamard matrix before they are stored in few bits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import ClassVar

import torch

from dcache.kernels.lowbit import LowBit, pack, unpack
from dcache.lm_kv.low_bit import LowBitCodec


@dataclass(frozen=True)
class RotatedCodec:
    """Groups of channels of a turned token.

    Attributes:
        bits: of a number: 2, 3, 4 or 8.
        group: channels that share a step.
        residual: newest tokens of a row that stay as they came, at least.

    Raises:
        DcacheError: a field is outside its range.
    """

    bits: int
    group: int
    residual: int
    name: ClassVar[str] = "rotatekv"
    # Tokens have steps of their own: fewer at a time would cost more, not keep more.
    block: ClassVar[int] = 32

    def __post_init__(self) -> None:
        """Check every field's range."""
        self._codes()

    def encode_keys(self, keys: torch.Tensor, lengths: torch.Tensor) -> LowBit:
        """Codes of the turned keys."""
        return self._encode(keys)

    def encode_values(self, values: torch.Tensor, lengths: torch.Tensor) -> LowBit:
        """Codes of the turned values."""
        return self._encode(values)

    def decode(self, encoded: LowBit) -> torch.Tensor:
        """Levels, turned back."""
        return turned(unpack(replace(encoded, dtype=torch.float32))).to(encoded.dtype)

    def take(self, encoded: LowBit, rows: torch.Tensor, lengths: torch.Tensor) -> LowBit:
        """Codes of these tokens."""
        return self._codes().take(encoded, rows, lengths)

    def join(self, parts: Sequence[LowBit], order: torch.Tensor, lengths: torch.Tensor) -> LowBit:
        """Codes of all."""
        return self._codes().join(parts, order, lengths)

    def tensors(self, encoded: LowBit) -> dict[str, torch.Tensor]:
        """Codes, steps and lows."""
        return encoded.tensors()

    def restore(self, tensors: Mapping[str, torch.Tensor], like: torch.Tensor) -> LowBit:
        """Codes, steps and lows."""
        return self._codes().restore(tensors, like)

    def _codes(self) -> LowBitCodec:
        return LowBitCodec(self.bits, self.group, self.residual)

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
    matrix = torch.ones(1, 1)
    while len(matrix) < size:
        matrix = torch.cat([torch.cat([matrix, matrix], 1), torch.cat([matrix, -matrix], 1)])
    return matrix * size**-0.5
