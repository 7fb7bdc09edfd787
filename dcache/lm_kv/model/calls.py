"""One forward of a decoder, as all its layers see it: which of its tokens are pads, and where they stand."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import torch

from dcache.errors import DcacheError
from dcache.lm_kv.model.attention import Fresh
from dcache.lm_kv.storage.parts import DensePart


@dataclass(frozen=True)
class Call:
    """This call's tokens, as its mask describes them.

    Attributes:
        valid: bool `[B, S]`, False at pads.
        fresh: the same for attention, without masks that mask nothing.
        rope: int64 `[B, S]`, the positions by which the model rotates.
    """

    valid: torch.Tensor
    fresh: Fresh
    rope: torch.Tensor
    _placed: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = field(default_factory=list)
    _offsets: list[tuple[torch.Tensor, torch.Tensor, torch.Tensor]] = field(default_factory=list)

    @cached_property
    def count(self) -> torch.Tensor:
        """int64 `[B]`, true tokens of each row."""
        return self.valid.sum(1)

    @cached_property
    def rank(self) -> torch.Tensor:
        """int64 `[B, S]`, each token's index among its row's true tokens of this call."""
        return (self.valid.long().cumsum(1) - 1).clamp_min(0)

    def part(self, key: torch.Tensor, value: torch.Tensor) -> DensePart:
        """This call's keys `[B, h, S, d]` and values, with its pads, for rows that read other rows."""
        return DensePart(key, value, None if self.fresh.valid is None else self.fresh.valid[:, None])

    def placed(self, seen: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Where this call's tokens stand behind those seen before; computed once for layers that share them.

        Args:
            seen: int64 `[B]`, true tokens of each row before this call; never written to.

        Returns:
            int64 `[B, S]`, each token's index among its row's true tokens, and `seen` behind this call.
        """
        for before, positions, after in self._placed:
            if before is seen:
                return positions, after
        placed = (seen, seen[:, None] + self.rank, seen + self.count)
        self._placed.append(placed)
        return placed[1:]

    def offset(self, seen: torch.Tensor, before: torch.Tensor) -> torch.Tensor:
        """The model's position of each row's tokens minus their index among its true ones.

        Args:
            seen: as in `placed`; layers that share it and have equal offsets share what is returned.
            before: int64 `[B]`, what it was for earlier calls.

        Returns:
            int64 `[B]`.

        Raises:
            DcacheError: positions jump between two tokens of a row.
        """
        for known, earlier, after in self._offsets:
            if known is seen and (earlier is before or torch.equal(earlier, before)):
                return after
        first = self.valid.int().argmax(1, keepdim=True)
        ahead = self.rope - self.rank - seen[:, None]
        current = torch.where(seen > 0, before, ahead.gather(1, first)[:, 0])
        if bool((self.valid & (ahead != current[:, None])).any()):
            raise DcacheError(
                "positions must go on without gaps where keys are turned: pads lie between a row's tokens, "
                "or one call counted columns and another one true tokens. Pass position_ids that count true "
                "tokens in every call, as model.generate does."
            )
        after = torch.where(self.valid.any(1), current, before)
        self._offsets.append((seen, before, after))
        return after


def read_call(mask: Any, rope: torch.Tensor | None, rows: int, queries: int, start: int, device: Any) -> Call:
    """A call from its attention mask.

    Args:
        mask: None; bool or int `[B, columns so far + S]`; a 4-D mask `[B, 1, S, columns so far + S]`, bool or
            added to logits, of which only the last S columns are read: pads among stored tokens are in the
            store.
        rope: `[B or 1, S]` positions; `[4, B or 1, S]`, those of text in front of three axes', or `[3, ...]`
            without them; None for columns counted from `start`, as where axes alone are given and differ.
        rows: B.
        queries: S.
        start: columns before this call.
        device: of the tensors made here.
    """
    visible = None
    if mask is None or mask.ndim != 4:
        valid = torch.ones(rows, queries, dtype=torch.bool, device=device)
        if mask is not None:
            valid = mask[:, -queries:].bool().expand(rows, -1)
    else:
        last = mask[:, 0, :, -queries:]
        visible = last if last.dtype == torch.bool else last > torch.finfo(last.dtype).min / 2
        visible = visible.expand(rows, -1, -1)
        valid = visible.diagonal(dim1=1, dim2=2)
        # One query: all that it may see of this call is itself.
        visible = visible if queries > 1 else None
    if rope is not None and rope.ndim == 3:
        text = len(rope) == 4 or bool((rope[1:] == rope[:1]).all())
        rope = rope[0] if text else None
    if rope is None or rope.ndim != 2:
        rope = torch.arange(start, start + queries, device=device)[None]
    padded = mask is not None and not bool(valid.all())
    return Call(valid, Fresh(valid if padded else None, visible), rope.expand(rows, -1))


def mask_of(call: Mapping[str, Any]) -> torch.Tensor | None:
    """The mask of full attention among a decoder's arguments."""
    mask = call.get("attention_mask")
    if isinstance(mask, Mapping):
        mask = mask.get("full_attention")
    return mask if isinstance(mask, torch.Tensor) else None
