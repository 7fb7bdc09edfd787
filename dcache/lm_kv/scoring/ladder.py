"""LaCache: which tokens a layer loses follows from its depth and their positions alone."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import ClassVar

import torch

from dcache.lm_kv.scoring.scorers import Context
from dcache.lm_kv.storage.stored import Stored

# Compactions of compacted tokens; a 2**-16 part of the text would be left.
ROUNDS = 16


@dataclass(frozen=True)
class Ladder:
    """LaCache: of each rung of neighbours a layer keeps a piece, which moves on with the layers.

    A rung has 1 + ceil((L - S) / (S - O)) tokens for L layers, of which ceil(S / (S - O)) are kept; the piece
    of layer l begins at its (l mod (lost + 1))-th token, so that every token is kept in about S layers. The
    oldest rungs lose their tokens first. When all have, what is left makes rungs again.

    Args:
        sinks: first tokens, which are in no rung.
        span: S, layers that keep a token; None for half of them.
        overlap: O, below the span.
    """

    sinks: int = 4
    span: int | None = None
    overlap: int = 0
    probes: ClassVar[bool] = False

    def score(self, stored: Stored, context: Context) -> torch.Tensor:
        """Tokens of the round in which they are lost, the oldest rung first."""
        before, after = self.rung(context.layers)
        place = (stored.positions - self.sinks).clamp_min(0)
        score = torch.zeros(place.shape, dtype=torch.float32, device=place.device)
        start = context.layer % (before - after + 1)
        left = torch.ones_like(stored.valid)
        for round_ in range(ROUNDS if before > after else 0):
            rung, offset = place // before, place % before - start
            lost = left & ((offset < 0) | (offset >= after))
            progress = rung / (context.seen[:, None, None] + 1)
            score = torch.where(lost, round_ + progress, score)
            left, place = left & ~lost, rung * after + offset.clamp(0, after - 1)
        # Of what no round loses, and where a rung keeps all, the oldest go first.
        recency = stored.positions / (context.seen[:, None, None] + 1)
        return torch.where(left, ROUNDS + recency, score)

    def rung(self, layers: int) -> tuple[int, int]:
        """Tokens of a rung, and how many of them a layer keeps."""
        span = max(1, layers // 2) if self.span is None else min(self.span, layers)
        step = max(1, span - self.overlap)
        before = 1 + ceil((layers - span) / step)
        return before, min(ceil(span / step), before)
