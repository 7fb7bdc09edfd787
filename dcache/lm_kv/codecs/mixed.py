"""Keys in 2 bits and in signs of a Fourier transform, channel by channel; values of three levels."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any, ClassVar

import torch

from dcache.errors import DcacheError
from dcache.kernels.lowbit import TERNARY, LowBit, pack, unpack
from dcache.kernels.lowbit import join as join_codes
from dcache.lm_kv.codecs.codec import DeviceCodec
from dcache.util.checks import check_whole, is_number


@dataclass(frozen=True, eq=False)
class MixedKeys:
    """Keys `[N, d]`, channel by channel in 2 bits or 1.

    Attributes:
        wide: of 2 bits `[N, k]`, the channels with the largest range; None where there are none.
        narrow: of 1 bit `[N, d - k]`, Fourier coefficients of the others; None where there are none.
        channels: uint8 or int16 `[groups, d]`, the wide ones first, both in ascending order; a group is a
            run's tokens of one encoding.
        index: uint8, int16 or int32 `[N]`, each token's group.
        dtype: the model's.
    """

    wide: LowBit | None
    narrow: LowBit | None
    channels: torch.Tensor
    index: torch.Tensor
    dtype: torch.dtype

    def tensors(self) -> dict[str, torch.Tensor]:
        """Every tensor that is held, by name."""
        parts = {"wide": self.wide, "narrow": self.narrow}
        codes = {
            f"{part}.{name}": t
            for part, codes in parts.items()
            if codes
            for name, t in codes.tensors().items()
        }
        return {**codes, "channels": self.channels, "index": self.index}

    def take(self, rows: torch.Tensor, lengths: torch.Tensor) -> MixedKeys:
        """Tokens by index, in this order, which make runs of these lengths; groups without a token go."""
        groups, index = self.index[rows].unique(return_inverse=True)
        wide, narrow = (None if p is None else p.take(rows, lengths) for p in (self.wide, self.narrow))
        return MixedKeys(wide, narrow, self.channels[groups.long()], _small(index), self.dtype)


@dataclass(frozen=True)
class MixedCodec(DeviceCodec):
    """VidKV: see `lm_kv.vidkv`.

    Attributes:
        key_bits: of a number of keys, from 1 to 2: `key_bits - 1` of the channels have 2 bits.
        value_bits: of a number of values: 1.58, which is stored as 1.6, or 2.
        group: tokens that share a step in a channel.
        residual: newest tokens of a row that stay as they came, at least.

    Raises:
        DcacheError: a field is outside its range.
    """

    key_bits: float
    value_bits: float
    group: int
    residual: int
    name: ClassVar[str] = "vidkv"

    def __post_init__(self) -> None:
        """Check every field's range."""
        if not is_number(self.key_bits) or not 1 <= self.key_bits <= 2:
            raise DcacheError(f"key_bits must be a number from 1 to 2, got {self.key_bits!r}")
        if self.value_bits not in (1.58, 2):
            raise DcacheError(f"value_bits must be 1.58 or 2, got {self.value_bits!r}")
        check_whole("group", self.group, 1)
        check_whole("residual", self.residual, 0)

    @property
    def block(self) -> int:
        """Tokens that are encoded together: whole groups, so that none is encoded again."""
        return self.group

    def encode_keys(self, keys: torch.Tensor, lengths: torch.Tensor, positions: torch.Tensor) -> MixedKeys:
        """Each run's widest channels in 2 bits, the signs of the others' coefficients."""
        lengths, size = lengths.flatten(), keys.shape[1]
        run = torch.arange(len(lengths), device=keys.device).repeat_interleave(lengths)
        count = self._wide(size)
        order = _ranges(keys, run, len(lengths)).argsort(dim=1, descending=True, stable=True)
        channels = torch.cat([order[:, :count].sort(1).values, order[:, count:].sort(1).values], 1)
        ordered = keys.to(torch.promote_types(keys.dtype, torch.float32)).gather(1, channels[run])
        wide = pack(ordered[:, :count].float(), 2, self.group, lengths) if count else None
        narrow = None
        if count < size:
            coefficients = ordered[:, count:] @ fourier(size - count).to(ordered).T
            narrow = pack(coefficients.float(), 1, self.group, lengths)
        small = torch.uint8 if size <= 2**8 else torch.int16
        return MixedKeys(wide, narrow, channels.to(small), _small(run), keys.dtype)

    def encode_values(self, values: torch.Tensor, lengths: torch.Tensor) -> LowBit:
        """Groups of tokens of a run, per channel."""
        return pack(values, TERNARY if self.value_bits == 1.58 else 2, self.group, lengths.flatten())

    def decode(self, encoded: Any) -> torch.Tensor:
        """Keys with every channel at its place, or values."""
        if isinstance(encoded, LowBit):
            return unpack(encoded)
        parts = [] if encoded.wide is None else [unpack(encoded.wide)]
        if encoded.narrow is not None:
            coefficients = unpack(encoded.narrow)
            parts.append(coefficients @ fourier(coefficients.shape[1]).to(coefficients))
        ordered = torch.cat(parts, 1)
        places = encoded.channels[encoded.index.long()].long()
        return torch.empty_like(ordered).scatter_(1, places, ordered).to(encoded.dtype)

    def take(self, encoded: Any, rows: torch.Tensor, lengths: torch.Tensor) -> Any:
        """These keys or values as they are encoded."""
        return encoded.take(rows, lengths.flatten())

    def join(self, parts: Sequence[Any], order: torch.Tensor, lengths: torch.Tensor) -> Any:
        """All keys or values as they are encoded."""
        lengths = lengths.flatten()
        if isinstance(parts[0], LowBit):
            return join_codes(parts, order, lengths)
        starts = [0]
        for part in parts[:-1]:
            starts.append(starts[-1] + len(part.channels))
        index = torch.cat([part.index.int() + start for part, start in zip(parts, starts, strict=True)])[
            order
        ]
        channels = torch.cat([part.channels for part in parts])
        wide, narrow = (
            None if codes[0] is None else join_codes(codes, order, lengths)
            for codes in ([part.wide for part in parts], [part.narrow for part in parts])
        )
        # Groups of which no token is left go.
        groups, inverse = index.unique(return_inverse=True)
        return replace(
            parts[0], wide=wide, narrow=narrow, channels=channels[groups.long()], index=_small(inverse)
        )

    def tensors(self, encoded: Any) -> dict[str, torch.Tensor]:
        """Codes and steps; of keys of both precisions, and which channel is where."""
        return encoded.tensors()

    def restore(self, tensors: Mapping[str, torch.Tensor], like: torch.Tensor) -> Any:
        """Keys or values."""
        if "channels" not in tensors:
            bits = TERNARY if self.value_bits == 1.58 else 2
            return _codes(tensors, "", bits, self.group, like.shape[-1], like.dtype)
        size = tensors["channels"].shape[1]
        count = self._wide(size)
        wide = _codes(tensors, "wide.", 2, self.group, count, torch.float32) if count else None
        rest = size - count
        narrow = _codes(tensors, "narrow.", 1, self.group, rest, torch.float32) if rest else None
        return MixedKeys(wide, narrow, tensors["channels"], tensors["index"], like.dtype)

    def _wide(self, size: int) -> int:
        """How many of so many channels have 2 bits."""
        # 10 * 0.1 may be 0.99999999.
        return int(size * (self.key_bits - 1) + 1e-9)


@cache
def fourier(size: int) -> torch.Tensor:
    """The orthonormal real Fourier matrix `[size, size]`, float32: a frequency's cosine and sine in turn.

    >>> (2**0.5 * fourier(2)).round().int().tolist()
    [[1, 1], [1, -1]]
    """
    places = torch.arange(size, dtype=torch.float64, device="cpu")
    rows = [torch.ones_like(places)]
    for frequency in range(1, size // 2 + 1):
        angle = 2 * torch.pi * frequency * places / size
        rows += [angle.cos()] if 2 * frequency == size else [angle.cos(), angle.sin()]
    matrix = torch.stack(rows)
    return (matrix / matrix.norm(dim=1, keepdim=True)).float()


def _ranges(keys: torch.Tensor, run: torch.Tensor, runs: int) -> torch.Tensor:
    """float32 `[runs, d]`, the largest number of each channel less the smallest; 0 without a token."""
    index, numbers = run[:, None].expand_as(keys), keys.float()
    zeros = numbers.new_zeros(runs, keys.shape[1])
    most = zeros.scatter_reduce(0, index, numbers, "amax", include_self=False)
    return most - zeros.scatter_reduce(0, index, numbers, "amin", include_self=False)


def _small(index: torch.Tensor) -> torch.Tensor:
    """Indices in as few bytes as they need."""
    most = int(index.max()) if len(index) else 0
    return index.to(torch.uint8 if most < 2**8 else torch.int16 if most < 2**15 else torch.int32)


def _codes(
    tensors: Mapping[str, torch.Tensor],
    prefix: str,
    bits: float,
    group: int,
    channels: int,
    dtype: torch.dtype,
) -> LowBit:
    named = {n.removeprefix(prefix): t for n, t in tensors.items() if n.startswith(prefix)}
    return LowBit(**{"low": None, **named}, bits=bits, group=group, channels=channels, dtype=dtype)  # type: ignore[arg-type]
