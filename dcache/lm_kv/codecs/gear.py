"""Few bits, and what they miss: the largest and smallest numbers as they are, the rest by few directions."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch.nn import functional as F

from dcache.errors import DcacheError
from dcache.kernels.lowbit import LowBit, pack, unpack
from dcache.kernels.lowbit import join as join_codes
from dcache.kernels.lowbit.format import group_rows
from dcache.lm_kv.codecs import low_rank, outliers
from dcache.lm_kv.codecs.codec import DeviceCodec
from dcache.lm_kv.codecs.low_bit import LowBitCodec
from dcache.lm_kv.codecs.low_rank import LowRank
from dcache.lm_kv.codecs.outliers import Outliers
from dcache.util.checks import check_whole, is_number


@dataclass(frozen=True, eq=False)
class GearTokens:
    """Tokens `[N, D]`: levels, plus products of low rank; outliers instead of both where there are any."""

    codes: LowBit
    rest: LowRank
    outliers: Outliers

    def tensors(self) -> dict[str, torch.Tensor]:
        """Every tensor that is held, by name."""
        parts = {
            "codes": self.codes.tensors(),
            "rest": self.rest.tensors(),
            "outliers": self.outliers.tensors(),
        }
        return {f"{part}.{name}": t for part, tensors in parts.items() for name, t in tensors.items()}


@dataclass(frozen=True)
class GearCodec(DeviceCodec):
    """GEAR: X ~ Q(X - S) + L R, and S: few bits in KIVI's layout, low rank, sparse outliers.

    Attributes:
        bits: of a number: 2, 3, 4 or 8.
        group: tokens of keys, and channels of values, that share a step; tokens that share directions.
        residual: newest tokens of a row that stay as they came, at least.
        rank: directions of a group of tokens; 0 for none.
        outliers: share of a group's numbers that are stored as they are, half of them the largest, half the
            smallest, at least one of each; 0 for none.

    Raises:
        DcacheError: a field is outside its range.
    """

    bits: int
    group: int
    residual: int
    rank: int
    outliers: float
    name: ClassVar[str] = "gear"

    def __post_init__(self) -> None:
        """Check every field's range."""
        LowBitCodec(self.bits, self.group, self.residual)
        check_whole("rank", self.rank, 0)
        if not is_number(self.outliers) or not 0.0 <= self.outliers < 1.0:
            raise DcacheError(f"outliers must be a number from 0 to below 1, got {self.outliers!r}")

    @property
    def block(self) -> int:
        """Tokens that are encoded together: whole groups, so that none is encoded again."""
        return self.group

    def encode_keys(self, keys: torch.Tensor, lengths: torch.Tensor, positions: torch.Tensor) -> GearTokens:
        """Groups of tokens of a run, per channel."""
        lengths = lengths.flatten()
        first, count = group_rows(lengths, self.group)
        slots = torch.arange(self.group, device=keys.device)
        valid = slots < count[:, None]
        places = first[:, None] + slots.minimum(count[:, None] - 1)
        # [groups * D, group]
        vectors = keys[places].mT.flatten(0, 1)
        near, mask = self._clipped(vectors, count.repeat_interleave(keys.shape[1]))

        def back(part: torch.Tensor) -> torch.Tensor:
            tokens = part.new_empty(keys.shape)
            tokens[places[valid]] = part.unflatten(0, (len(count), keys.shape[1])).mT[valid]
            return tokens

        return self._encode(keys, back(near), back(mask), lengths, lengths)

    def encode_values(self, values: torch.Tensor, lengths: torch.Tensor) -> GearTokens:
        """Groups of channels of a token."""
        channels = values.shape[1]
        pieces = -(-channels // self.group)
        vectors = F.pad(values, (0, pieces * self.group - channels)).view(-1, self.group)
        sizes = (channels - torch.arange(pieces, device=values.device) * self.group).clamp_max(self.group)
        near, mask = (
            part.view(len(values), pieces * self.group)[:, :channels]
            for part in self._clipped(vectors, sizes.repeat(len(values)))
        )
        return self._encode(values, near, mask, lengths.flatten(), None)

    def decode(self, encoded: GearTokens) -> torch.Tensor:
        """Levels plus products, and outliers as they came."""
        levels = unpack(replace(encoded.codes, dtype=torch.float32))
        return encoded.outliers.put(encoded.rest.add_to(levels).to(encoded.codes.dtype))

    def take(self, encoded: GearTokens, rows: torch.Tensor, lengths: torch.Tensor) -> GearTokens:
        """All three parts of these tokens, as they were encoded."""
        lengths = lengths.flatten()
        return GearTokens(
            encoded.codes.take(rows, lengths), encoded.rest.take(rows, lengths), encoded.outliers.take(rows)
        )

    def join(self, parts: Sequence[GearTokens], order: torch.Tensor, lengths: torch.Tensor) -> GearTokens:
        """All three parts of all."""
        lengths = lengths.flatten()
        return GearTokens(
            join_codes([part.codes for part in parts], order, lengths),
            low_rank.join([part.rest for part in parts], order, lengths),
            outliers.join([part.outliers for part in parts]).take(order),
        )

    def tensors(self, encoded: GearTokens) -> dict[str, torch.Tensor]:
        """Codes, steps and lows; both factors of the products; outliers and where they are."""
        return encoded.tensors()

    def restore(self, tensors: Mapping[str, torch.Tensor], like: torch.Tensor) -> GearTokens:
        """All three parts."""
        parts: dict[str, dict[str, torch.Tensor]] = {"codes": {}, "rest": {}, "outliers": {}}
        for name, tensor in tensors.items():
            part, _, inner = name.partition(".")
            parts[part][inner] = tensor
        codes = LowBit(
            **parts["codes"], bits=self.bits, group=self.group, channels=like.shape[-1], dtype=like.dtype
        )
        factors = parts["rest"]
        rest = LowRank(
            factors["left"], factors["right"], factors["lengths"], self.group, factors.get("index")
        )
        return GearTokens(codes, rest, Outliers(**parts["outliers"]))

    def _clipped(self, vectors: torch.Tensor, sizes: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Vectors without their outliers, and where these are."""
        if not self.outliers:
            return vectors, torch.zeros_like(vectors, dtype=torch.bool)
        return outliers.clip(vectors, sizes, max(1, round(self.outliers * self.group / 2)))

    def _encode(
        self,
        tokens: torch.Tensor,
        near: torch.Tensor,
        mask: torch.Tensor,
        lengths: torch.Tensor,
        runs: torch.Tensor | None,
    ) -> GearTokens:
        """Round what is near, and project what that misses; `runs` as in `pack`."""
        codes = pack(near, self.bits, self.group, runs)
        precise = torch.promote_types(tokens.dtype, torch.float32)
        missed = (tokens.to(precise) - unpack(replace(codes, dtype=precise))).masked_fill_(mask, 0.0)
        rest = low_rank.low_rank(missed, self.rank, self.group, lengths)
        return GearTokens(replace(codes, dtype=tokens.dtype), rest, outliers.outliers_of(tokens, mask))
