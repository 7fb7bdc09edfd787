"""Keys and values of few bits: keys grouped per channel, values per token."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import ClassVar

import torch

from dcache.errors import DcacheError
from dcache.kernels.lowbit import BITS, LowBit, join, pack, unpack
from dcache.lm_kv.codecs.codec import DeviceCodec
from dcache.util.checks import check_whole, is_whole


@dataclass(frozen=True)
class LowBitCodec(DeviceCodec):
    """KIVI's layout: a channel of keys has its own range, which its groups of tokens share.

    Attributes:
        bits: of a number: 2, 3, 4 or 8.
        group: tokens of keys, and channels of values, that share a step.
        residual: newest tokens of a row that stay as they came, at least.

    Raises:
        DcacheError: a field is outside its range.
    """

    bits: int
    group: int
    residual: int
    name: ClassVar[str] = "kivi"

    def __post_init__(self) -> None:
        """Check every field's range."""
        if not is_whole(self.bits) or self.bits not in BITS:
            raise DcacheError(f"bits must be one of {', '.join(map(str, BITS))}, got {self.bits!r}")
        check_whole("group", self.group, 1)
        check_whole("residual", self.residual, 0)

    @property
    def block(self) -> int:
        """Tokens that are encoded together: whole groups of keys, so that none is encoded again."""
        return self.group

    def encode_keys(self, keys: torch.Tensor, lengths: torch.Tensor, positions: torch.Tensor) -> LowBit:
        """Groups of tokens of a run, per channel."""
        return pack(keys, self.bits, self.group, lengths)

    def encode_values(self, values: torch.Tensor, lengths: torch.Tensor) -> LowBit:
        """Groups of channels of a token."""
        return pack(values, self.bits, self.group)

    def decode(self, encoded: LowBit) -> torch.Tensor:
        """Levels, each within half a step of the number that was encoded."""
        return unpack(encoded)

    def turned(self, tokens: torch.Tensor) -> torch.Tensor:
        """Queries `[..., d]` as they meet encoded keys, or sums of encoded values as they are decoded."""
        return tokens

    def take(self, encoded: LowBit, rows: torch.Tensor, lengths: torch.Tensor) -> LowBit:
        """Codes of these tokens, with the steps of the groups that they were encoded in."""
        return encoded.take(rows, lengths.flatten())

    def join(self, parts: Sequence[LowBit], order: torch.Tensor, lengths: torch.Tensor) -> LowBit:
        """Codes and steps of all."""
        return join(parts, order, lengths.flatten())

    def tensors(self, encoded: LowBit) -> dict[str, torch.Tensor]:
        """Codes, steps, lows, and what says which group a token is of."""
        return encoded.tensors()

    def restore(self, tensors: Mapping[str, torch.Tensor], like: torch.Tensor) -> LowBit:
        """Codes and steps."""
        return LowBit(**tensors, bits=self.bits, group=self.group, channels=like.shape[-1], dtype=like.dtype)
