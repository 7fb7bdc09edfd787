"""Keyformer: attention summed over queries after noise was added to its logits."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from dcache.errors import DcacheError
from dcache.lm_kv.model.attention import Logits
from dcache.lm_kv.scoring.observers import Nothing, Observed, QueryWindow, State
from dcache.lm_kv.scoring.scorers import Context, hashed, logits_of
from dcache.lm_kv.scoring.text_sums import prompt_end
from dcache.lm_kv.scoring.window_scorers import query_blocks
from dcache.lm_kv.storage.stored import Stored


@dataclass(frozen=True)
class NoisySums(Nothing):
    """Beside each token: the noisy attention that it received, and the queries up to which it was summed.

    At every eviction the last `history` queries are added that were not before. The temperature is 1 for the
    tokens of a call with several, and grows with every decoded token.

    Args:
        history: last queries that are kept; of more between two evictions the older ones do not count.
        growth: of the temperature at each decoded token; at least 0.
        seed: of the noise, which depends on the head and the positions of query and token beside it.
    """

    history: int
    growth: float
    seed: int
    beside: ClassVar[tuple[int, ...] | None] = (2,)

    def observe(self, state: State, call: Observed) -> State:
        """Keep the last queries, and where each row's last prompt ended."""
        new = QueryWindow(self.history).observe({n: t for n, t in state.items() if n != "prompt"}, call)
        return {**new, "prompt": prompt_end(state, call)}

    def crop(self, state: State, end: torch.Tensor) -> State:
        """Queries at or behind `end` no longer count; a prompt ends there at the latest."""
        if not state:
            return state
        prompt = torch.minimum(state["prompt"], end)
        return {**QueryWindow(self.history).crop(state, end), "prompt": prompt}

    def settle(self, state: State, stored: Stored, logits: Logits) -> torch.Tensor | None:
        """Add the queries behind those that were summed; each counts once."""
        if stored.score is None or not state:
            return None
        sums, until = stored.score.unbind(-1)
        for block in query_blocks(state):
            position = block["position"]
            noisy = logits_of(block, stored, logits) + self._noise(stored, block["query"], position)
            step = (position + 1 - state["prompt"][:, None]).clamp_min(0)
            weights = logits.softmax(noisy / (1.0 + self.growth * step)[:, None, None, :, None])
            new = block["valid"][:, None, :, None] & (position[:, None, :, None] >= until[:, :, None])
            sums = sums + (weights.nan_to_num(0.0).mean(2) * new).sum(2)
        last = ((state["position"] + 1) * state["valid"]).amax(1)[:, None, None]
        return torch.stack([sums, torch.maximum(until, last.float())], -1)

    def _noise(self, stored: Stored, query: torch.Tensor, position: torch.Tensor) -> torch.Tensor:
        """Standard Gumbel noise `[B, h, G, W, M]`."""
        heads = torch.arange(query.shape[1], device=query.device).view(1, stored.keys.shape[1], -1, 1, 1)
        tokens = (stored.positions + 1)[:, :, None, None] * 0x9E3779B1
        queries = (position + 1)[:, None, None, :, None] * 0xC2B2AE35
        uniform = hashed(tokens + queries + (heads + self.seed * 1_000_003) * 0x85EBCA77)
        return -torch.log(-torch.log(uniform.clamp(2.0**-24, 1 - 2.0**-24)))


@dataclass(frozen=True)
class NoisyReceived:
    """Keyformer: the noisy attention that each token received."""

    probes: ClassVar[bool] = False

    def score(self, stored: Stored, context: Context) -> torch.Tensor:
        """Sum over queries of softmax((x + g) / tau), the mean over the group's heads."""
        if stored.score is None or stored.score.ndim != 4:
            raise DcacheError("NoisyReceived reads noisy sums: give its policy the observer NoisySums(...)")
        return stored.score[..., 0]
