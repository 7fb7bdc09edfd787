"""When tokens are attended to again: LazyEviction's statistics and the score made of them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from dcache.errors import DcacheError
from dcache.lm_kv.model.attention import Logits
from dcache.lm_kv.scoring.observers import Nothing, Observed, QueryWindow, State
from dcache.lm_kv.scoring.scorers import Context, attention_of
from dcache.lm_kv.storage.stored import Stored


@dataclass(frozen=True)
class Recurrence(Nothing):
    """Beside each token: the position of the last query that attended to it, and the longest pause so far.

    A token is attended to where any head of its group gives it more than `threshold`. Only the last `window`
    queries before an eviction are looked at; more of them lie between evictions where `every` is larger.
    """

    window: int
    threshold: float
    beside: ClassVar[tuple[int, ...] | None] = (2,)

    def observe(self, state: State, call: Observed) -> State:
        """Keep the last queries."""
        return QueryWindow(self.window).observe(state, call)

    def crop(self, state: State, end: torch.Tensor) -> State:
        """Queries at or behind `end` no longer count."""
        return QueryWindow(self.window).crop(state, end)

    def settle(self, state: State, stored: Stored, logits: Logits) -> torch.Tensor | None:
        """Last use and longest pause after the kept queries; a query counts once."""
        if stored.score is None or not state:
            return None
        weights, counted = attention_of(state, stored, logits)
        active = (weights > self.threshold).any(2) & counted[:, None, :, None]
        last, longest = stored.score.unbind(-1)
        # A new token was used where it stands.
        last = torch.maximum(last, stored.positions.float())
        for query, position in enumerate(state["position"].float().unbind(1)):
            pause = position[:, None, None] - last
            again = active[:, :, query] & (pause > 0)
            longest = torch.where(again & (pause > longest), pause, longest)
            last = torch.where(again, position[:, None, None], last)
        return torch.stack([last, longest], -1)


@dataclass(frozen=True)
class NextUse:
    """LazyEviction: tokens whose next use is due by their longest pause so far, and tokens with long ones."""

    probes: ClassVar[bool] = False

    def score(self, stored: Stored, context: Context) -> torch.Tensor:
        """2 sigma(-(t - last) / longest) + 2 sigma(-1 / longest)."""
        if stored.score is None or stored.score.ndim != 4:
            raise DcacheError("NextUse reads uses and pauses: give its policy the observer Recurrence(...)")
        last, longest = stored.score.unbind(-1)
        # A token that was not used again has no pause; its score falls to 0 behind its own position.
        pause = longest.clamp_min(1e-6)
        age = (context.seen[:, None, None] - 1 - last).clamp_min(0.0)
        return 2 * torch.sigmoid(-age / pause) + 2 * torch.sigmoid(-1 / pause)
