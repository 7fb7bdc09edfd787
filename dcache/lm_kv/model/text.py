"""The text that a cache has seen, for policies that read it again."""

from __future__ import annotations

import torch

from dcache.errors import DcacheError


class Text:
    """Ids and validity of all columns so far.

    Attributes:
        ids: int64 `[B, columns]`; None before the first call, and where a call came without ids (embeddings).
        valid: bool `[B, columns]`; None before the first call.
        complete: whether every call came with ids.
    """

    def __init__(self) -> None:
        self.ids: torch.Tensor | None = None
        self.valid: torch.Tensor | None = None
        self.complete = True

    def append(self, ids: torch.Tensor | None, valid: torch.Tensor) -> None:
        """One more call: its ids `[B, S]`, or None, and bool `[B, S]`."""
        self.complete = self.complete and ids is not None
        new = torch.zeros(valid.shape, dtype=torch.long, device=valid.device) if ids is None else ids
        self.ids = new if self.ids is None else torch.cat([self.ids, new], 1)
        self.valid = valid if self.valid is None else torch.cat([self.valid, valid], 1)

    def to_read(
        self, context: torch.Tensor | None, reader: str
    ) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
        """The text to read again: ids `[B, T]`, their validity, and the validity of all columns so far.

        Args:
            context: ids `[B, T]` that stand for the text, None for the text itself.
            reader: the policy's name, for messages.

        Raises:
            DcacheError: ids are not known, or `context` is of another batch.
        """
        if self.ids is None or self.valid is None:
            raise DcacheError("this cache holds nothing yet: run the model with it first")
        if context is not None:
            rows = len(self.valid)
            if not isinstance(context, torch.Tensor) or context.dtype not in (torch.int64, torch.int32):
                what = getattr(context, "dtype", type(context).__name__)
                raise DcacheError(f"context must be ids of dtype int64, got {what}")
            if context.ndim != 2 or len(context) != rows or context.shape[1] == 0:
                raise DcacheError(f"context must be ids of shape [{rows}, T], got {tuple(context.shape)}")
            context = context.to(self.ids.device)
            return context, torch.ones_like(context, dtype=torch.bool), self.valid
        if not self.complete:
            raise DcacheError(
                f"{reader} reads the text again, but a call came as embeddings. Evict by hand: cache.hold() "
                "around the model's calls, and cache.compress(context=ids) after them."
            )
        return self.ids, self.valid, self.valid

    def crop(self, count: int) -> None:
        """Forget the newest columns."""
        if self.ids is not None and self.valid is not None and count:
            self.ids, self.valid = self.ids[:, :-count], self.valid[:, :-count]

    def select_rows(self, rows: torch.Tensor) -> None:
        """Keep these rows, in this order."""
        if self.ids is not None and self.valid is not None:
            rows = rows.to(self.ids.device)
            self.ids, self.valid = self.ids[rows], self.valid[rows]

    def repeat_rows(self, repeats: int) -> None:
        """Repeat each row."""
        if self.ids is not None and self.valid is not None:
            self.ids = self.ids.repeat_interleave(repeats, 0)
            self.valid = self.valid.repeat_interleave(repeats, 0)

    def fork(self) -> Text:
        """A copy; tensors are shared, for they are replaced and never written to."""
        other = Text()
        other.ids, other.valid, other.complete = self.ids, self.valid, self.complete
        return other
