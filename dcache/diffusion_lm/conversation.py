"""`Conversation`: one stream of a caller's loop, and which calls continue it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from dcache.diffusion_lm.run import Run
from dcache.util.bytes import bytes_of


class Conversation:
    """One stream of a caller's loop: a batch whose masked tokens are decoded from call to call.

    Attributes:
        run: its state.
        ids: those of the last call.
        mask: the last call's attention mask.
        more: the last call's other arguments, such as a condition.
        logits: `[B, W, V]`, each row as it was computed last.
        output: the model's last output, for its other fields.
    """

    def __init__(self, run: Run, mask: torch.Tensor | None, more: Mapping[str, Any]) -> None:
        self.run, self.mask, self.more = run, mask, more
        self.ids = torch.zeros_like(run.stream.positions[:, :0])
        self.logits: torch.Tensor | None = None
        self.output: Any = None

    def takes(self, more: Mapping[str, Any]) -> bool:
        """Whether a call's other arguments are those of this stream: guidance may be told by them alone."""
        if more.keys() != self.more.keys():
            return False
        return all(_alike(value, self.more[name]) for name, value in more.items())

    def continues(
        self, ids: torch.Tensor, mask: torch.Tensor | None, positions: torch.Tensor, mask_id: int
    ) -> bool:
        """Whether a call goes on with this batch.

        The batch is equal, the width has not shrunk, and ids changed only where they were masked or in the
        current block. A region that is masked all over again begins anew.
        """
        B, W = self.ids.shape
        if ids.shape[0] != B or ids.shape[1] < W:
            return False
        old = ids[:, :W]
        changed = old != self.ids
        columns = torch.arange(W, device=ids.device)
        block = (columns >= self.run.block.start) & (columns < self.run.block.end)
        free = (self.ids == mask_id) | (block & self.run.region[:, :W])
        if bool((changed & ~free).any()) or not _same(mask, self.mask, W):
            return False
        if not torch.equal(positions[:, :W], self.run.stream.positions):
            return False
        anew = bool((old == mask_id)[self.run.region].all()) and bool(changed.any())
        return not anew

    def grow(
        self, ids: torch.Tensor, mask: torch.Tensor | None, positions: torch.Tensor, mask_id: int
    ) -> None:
        """Take over a wider call: its new columns are the next block."""
        run, W = self.run, self.ids.shape[1]
        if ids.shape[1] == W:
            return
        run.region = torch.cat([run.region, ids[:, W:] == mask_id], 1)
        run.real = real_of(ids, mask)
        known = run.stream.grow(positions)
        if not known or (mask is not None and not bool((mask != 0).all()) and mask.ndim == 2):
            run.whole = "width"
        run.block.move(W, ids.shape[1])
        if self.logits is not None:
            more = self.logits.new_zeros(len(ids), ids.shape[1] - W, self.logits.shape[2])
            self.logits = torch.cat([self.logits, more], 1)

    @property
    def bytes_held(self) -> int:
        """Bytes of keys, values, masks and logits."""
        logits = [] if self.logits is None else [self.logits]
        return self.run.stream.bytes_held + bytes_of(logits)


def real_of(ids: torch.Tensor, mask: torch.Tensor | None) -> torch.Tensor:
    """Bool `[B, T]`: positions that a 2-D attention mask leaves."""
    if mask is None or mask.ndim != 2:
        return torch.ones_like(ids, dtype=torch.bool)
    return mask != 0


def _alike(new: Any, old: Any) -> bool:
    """Whether two arguments are the same; tensors of more columns are where the first ones are."""
    if new is old or not isinstance(new, torch.Tensor) or not isinstance(old, torch.Tensor):
        return new is old or (isinstance(new, bool | int | float | str) and bool(new == old))
    if new.shape != old.shape and new.ndim == old.ndim >= 2:
        new = new[:, : old.shape[1]]
    return torch.equal(new, old)


def _same(new: torch.Tensor | None, old: torch.Tensor | None, width: int) -> bool:
    """Whether two attention masks agree on the first columns."""
    if new is None or old is None:
        return new is old
    if new.ndim == 2:
        return old.ndim == 2 and torch.equal(new[:, :width], old[:, :width])
    return new.ndim == old.ndim and torch.equal(new[..., :width, :width], old[..., :width, :width])
