"""What a text may go on with: tokens that a draft wrote, whose queries say what matters."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, TypeAlias

import torch

from dcache.errors import DcacheError

# Ids int64 `[T]` of one text without pads, and a number of tokens -> ids int64 `[n]` that may follow it.
Draft: TypeAlias = Callable[[torch.Tensor, int], torch.Tensor]


@dataclass(frozen=True)
class Lookahead:
    """Makes a probe read what a draft writes behind every row's text.

    Args:
        draft: writes it; None repeats what followed the last tokens when they came before.
        tokens: how many.
    """

    draft: Draft | None
    tokens: int

    def __call__(self, ids: torch.Tensor, valid: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """Ids int64 `[B, n]` and their validity, pads behind them; n is at most `tokens`.

        Raises:
            DcacheError: the draft wrote something other than ids.
        """
        write = self.draft or prompt_lookup
        rows = [write(row[mask], self.tokens)[: self.tokens] for row, mask in zip(ids, valid, strict=True)]
        if not all(row.ndim == 1 and row.dtype == ids.dtype for row in rows):
            raise DcacheError("a draft must return ids of one text, int64 [n]: (ids [T], n) -> ids [n]")
        longest = max(1, *(len(row) for row in rows))
        written, there = ids.new_zeros(len(rows), longest), valid.new_zeros(len(rows), longest)
        for index, row in enumerate(rows):
            written[index, : len(row)], there[index, : len(row)] = row, True
        return written, there


def prompt_lookup(ids: torch.Tensor, tokens: int) -> torch.Tensor:
    """What followed the latest earlier occurrence of the last tokens: of three, else two, else one.

    >>> prompt_lookup(torch.tensor([7, 1, 2, 3, 4, 9, 1, 2]), 3).tolist()
    [3, 4, 9]
    """
    for size in (3, 2, 1):
        if len(ids) <= size:
            continue
        places = (ids[:-1].unfold(0, size, 1) == ids[-size:]).all(1).nonzero()
        if len(places):
            start = int(places[-1]) + size
            return ids[start : start + tokens]
    return ids[-tokens:]


def greedy(model: Any) -> Draft:
    """A draft of a causal language model of transformers, which writes its likeliest tokens."""

    @torch.no_grad()
    def write(ids: torch.Tensor, tokens: int) -> torch.Tensor:
        given = ids[None].to(model.device)
        out: torch.Tensor = model.generate(given, max_new_tokens=tokens, do_sample=False)
        return out[0, len(ids) :].to(ids.device)

    return write
