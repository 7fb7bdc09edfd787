"""What all rows of a batch read beside what each holds itself: texts that are stored once."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Protocol

import torch

from dcache.lm_kv.storage.parts import DensePart, Part
from dcache.lm_kv.storage.segment import Segment
from dcache.lm_kv.storage.tail import Tail


class Front(Protocol):
    """Texts in front of what the rows hold; they are never evicted and never written to."""

    def parts(self, tail: Tail, fresh: DensePart | None) -> list[Part]:
        """The texts for attention.

        Args:
            tail: the rows' newest columns.
            fresh: this call's own tokens, where they are not in the tail yet.
        """

    def kept(self) -> torch.Tensor:
        """int64 `[1, h]`, tokens that each KV head reads of them."""

    def storages(self) -> list[torch.Tensor]:
        """Every tensor that is held, for counting bytes."""


@dataclass(frozen=True)
class SharedPart:
    """A part of one row that all rows read: their queries meet its keys in one product.

    Attributes:
        part: of one row.
        temperature: its logits are divided by it.
        scale: factor of its log-sum-exp beside the temperature. Its tokens share a mass of exp(scale *
            temperature * LSE), LSE that of the divided logits; 1 and 1 leave attention as it is.
        turn: the rows' queries `[B, h, R, d]` -> what they are for this part; None for themselves.
        readers: bool `[B]`, False for rows that do not read it; None where all do.
    """

    part: Part
    temperature: float = 1.0
    scale: float = 1.0
    turn: Callable[[torch.Tensor], torch.Tensor] | None = None
    readers: torch.Tensor | None = None

    @property
    def columns(self) -> int:
        """Number of columns."""
        return self.part.columns

    def products(self, query: torch.Tensor) -> torch.Tensor:
        """Dot products of all rows' queries with all keys."""
        turned = query if self.turn is None else self.turn(query)
        return _unfolded(self.part.products(_folded(turned)), len(query))

    def mask(self, logits: torch.Tensor) -> torch.Tensor:
        """Bias added, -inf where nothing is read, and the share of mass that temperature and scale say."""
        logits = self.part.mask(logits)
        if self.readers is not None:
            logits = logits.masked_fill(~self.readers[:, None, None, None], float("-inf"))
        if self._plain:
            return logits
        logits = logits / self.temperature
        mass = logits.logsumexp(-1, keepdim=True)
        return logits + (self.scale * self.temperature - 1) * mass.masked_fill(mass.isinf(), 0.0)

    def combine(self, weights: torch.Tensor) -> torch.Tensor:
        """Weighted sums of values."""
        return _unfolded(self.part.combine(_folded(weights)), len(weights))

    def attend(
        self, query: torch.Tensor, scale: float, softcap: float | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """All rows' queries at once."""
        if not self._plain and softcap is not None:
            return self._attend_capped(query, scale, softcap)
        turned = query if self.turn is None else self.turn(query)
        out, lse = self.part.attend(_folded(turned), scale / self.temperature, softcap)
        out, lse = _unfolded(out, len(query)), _unfolded(lse, len(query))
        if not self._plain:
            lse = lse * (self.scale * self.temperature)
        if self.readers is not None:
            lse = lse.masked_fill(~self.readers[:, None, None], float("-inf"))
        return out, lse

    @property
    def _plain(self) -> bool:
        return self.temperature == 1.0 == self.scale

    def _attend_capped(
        self, query: torch.Tensor, scale: float, softcap: float
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Logits are capped before they are divided, so they must be there."""
        wide = query.float() if query.dtype.itemsize < 4 else query
        logits = self.mask(softcap * torch.tanh(self.products(wide * scale) / softcap))
        lse = logits.logsumexp(-1)
        return self.combine(logits.softmax(-1).nan_to_num(0.0)).to(query.dtype), lse


@dataclass(frozen=True)
class Block:
    """A text of one row.

    Attributes:
        segment: its keys and values.
        temperature: as in `SharedPart`.
        scale: as in `SharedPart`.
    """

    segment: Segment
    temperature: float = 1.0
    scale: float = 1.0

    def part(self) -> SharedPart:
        """All of it for attention."""
        return SharedPart(self.segment.part(), self.temperature, self.scale)


@dataclass(frozen=True)
class Blocks:
    """Texts that all rows read alike."""

    blocks: tuple[Block, ...]

    def parts(self, tail: Tail, fresh: DensePart | None) -> list[Part]:
        """A part for each that has tokens."""
        return [block.part() for block in self.blocks if block.segment.width]

    def kept(self) -> torch.Tensor:
        """int64 `[1, h]`."""
        return torch.stack([block.segment.lengths for block in self.blocks]).sum(0)

    def storages(self) -> list[torch.Tensor]:
        """Every tensor that is held."""
        return [tensor for block in self.blocks for tensor in block.segment.storages()]


def _folded(states: torch.Tensor) -> torch.Tensor:
    """`[B, h, R, n]` as `[1, h, B * R, n]`."""
    rows, heads, queries, size = states.shape
    return states.transpose(0, 1).reshape(1, heads, rows * queries, size)


def _unfolded(states: torch.Tensor, rows: int) -> torch.Tensor:
    """The inverse: `[1, h, B * R, ...]` as `[B, h, R, ...]`."""
    return states[0].unflatten(1, (rows, -1)).transpose(0, 1).contiguous()
