"""What all rows of a batch read beside what each holds itself: texts that are stored once."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import torch

from dcache.lm_kv.storage.parts import DensePart, Part
from dcache.lm_kv.storage.segment import Segment
from dcache.lm_kv.storage.tail import Tail

# A program of the GPU's kernel holds all queries of a run; of more, products are formed.
QUERIES = 64


class Front(Protocol):
    """Texts in front of what the rows hold; they are never evicted and never written to."""

    def parts(self, tail: Tail, fresh: DensePart | None) -> Sequence[Part]:
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
        many = query.device.type != "cpu" and query.shape[0] * query.shape[2] > QUERIES
        if many or (not self._plain and softcap is not None):
            return self._by_products(query, scale, softcap)
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

    def _by_products(
        self, query: torch.Tensor, scale: float, softcap: float | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """With all logits there: two products for each KV head; logits are capped before they are divided."""
        wide = query.float() if query.dtype.itemsize < 4 else query
        products = self.products(wide * scale)
        logits = self.mask(products if softcap is None else softcap * torch.tanh(products / softcap))
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

    def parts(self, tail: Tail, fresh: DensePart | None) -> list[SharedPart]:
        """A part for each that has tokens."""
        return [block.part() for block in self.blocks if block.segment.width]

    def kept(self) -> torch.Tensor:
        """int64 `[1, h]`."""
        return torch.stack([block.segment.lengths for block in self.blocks]).sum(0)

    def storages(self) -> list[torch.Tensor]:
        """Every tensor that is held."""
        return [tensor for block in self.blocks for tensor in block.segment.storages()]


@dataclass(frozen=True)
class Workers:
    """Texts that the rows write for each other: each reads the prompt, then the others' texts, then its own.

    Keys stay where a row's own calls put them, as if its text stood right behind the prompt. Queries are
    turned instead, for every text by the distance between both places.

    Attributes:
        prompt: what all read first.
        turn: a layer's rotation: states `[B, h, n, d]`, by int64 `[B, n]` -> turned.
    """

    prompt: Blocks
    turn: Callable[[torch.Tensor, torch.Tensor], torch.Tensor]

    def parts(self, tail: Tail, fresh: DensePart | None) -> Sequence[Part]:
        """The prompt, and the text of each row for all others."""
        pieces = [piece for piece in (tail.part(), fresh) if piece is not None and piece.columns]
        prompt = self.prompt.parts(tail, fresh)
        rows = tail.keys.shape[0]
        if rows == 1:
            return prompt
        written = torch.stack([_tokens(piece) for piece in pieces]).sum(0)
        before = written.sum() - written
        others = torch.arange(rows, device=written.device)
        parts: list[Part] = [replace(part, turn=self._by(before)) for part in prompt]
        for row in range(rows):
            # What the others read in front of this text: all earlier ones but their own.
            start = written[:row].sum() - written * (others < row)
            readers, turn = others != row, self._by(before - start)
            parts += [SharedPart(_row(piece, row), turn=turn, readers=readers) for piece in pieces]
        return parts

    def kept(self) -> torch.Tensor:
        """int64 `[1, h]`, tokens of the prompt."""
        return self.prompt.kept()

    def storages(self) -> list[torch.Tensor]:
        """The prompt's tensors."""
        return self.prompt.storages()

    def _by(self, distance: torch.Tensor) -> Callable[[torch.Tensor], torch.Tensor]:
        """Turns queries by a distance for each row, int64 `[B]`."""
        return lambda states: self.turn(states, distance[:, None].expand(-1, states.shape[2]))


def _tokens(piece: DensePart) -> torch.Tensor:
    """int64 `[B]`, tokens of each row that are no pads."""
    if piece.valid is None:
        return torch.full(piece.keys.shape[:1], piece.columns, device=piece.keys.device)
    return piece.valid.sum((1, 2))


def _row(piece: DensePart, row: int) -> DensePart:
    """One row of a part."""
    valid = None if piece.valid is None else piece.valid[row : row + 1]
    return DensePart(piece.keys[row : row + 1], piece.values[row : row + 1], valid)


def _folded(states: torch.Tensor) -> torch.Tensor:
    """`[B, h, R, n]` as `[1, h, B * R, n]`."""
    rows, heads, queries, size = states.shape
    return states.transpose(0, 1).reshape(1, heads, rows * queries, size)


def _unfolded(states: torch.Tensor, rows: int) -> torch.Tensor:
    """The inverse: `[1, h, B * R, ...]` as `[B, h, R, ...]`."""
    return states[0].unflatten(1, (rows, -1)).transpose(0, 1).contiguous()
