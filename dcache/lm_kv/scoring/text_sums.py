"""Running sums of attention beside what is text, what is an image, and where a prompt ended."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from dcache.lm_kv.scoring.by_position import flags_by_position, layer_mean
from dcache.lm_kv.scoring.observers import ColumnSums, Observed, QueryWindow, State
from dcache.lm_kv.scoring.scorers import Context, ReceivedMean, ReceivedSum
from dcache.lm_kv.scoring.window_columns import window_columns
from dcache.lm_kv.storage.stored import Stored


def prompt_end(state: State, call: Observed) -> torch.Tensor:
    """int64 `[B]`: true tokens of each row at the end of its last call with several."""
    if "prompt" in state and call.query.shape[2] == 1:
        return state["prompt"]
    end = ((call.positions + 1) * call.valid).amax(1)
    return torch.maximum(end, state["prompt"]) if "prompt" in state else end


@dataclass(frozen=True)
class PromptSums(ColumnSums):
    """Running sums, and where the last prompt ended.

    State: `prompt` int64 `[B]`.
    """

    def observe(self, state: State, call: Observed) -> State:
        """Note the end of a call with several tokens."""
        return {"prompt": prompt_end(state, call)} if call.query.shape[2] > 1 or not state else state

    def crop(self, state: State, end: torch.Tensor) -> State:
        """Tokens at or behind `end` are no longer the prompt's."""
        return {**state, "prompt": torch.minimum(state["prompt"], end)} if state else state


@dataclass(frozen=True)
class MarkedSums(PromptSums):
    """Running sums, where the last prompt ended, and which tokens were marked as images.

    State: as `PromptSums`; `marked` bool `[B, T]` by position, T at least the columns, where anything was
    marked.
    """

    reads_marks: ClassVar[bool] = True

    def observe(self, state: State, call: Observed) -> State:
        """Note the marks of this call."""
        new = {**state, **super().observe(state, call)}
        if call.marked is None:
            return new if call.query.shape[2] > 1 or not state else state
        flags = call.marked & call.valid
        known = state.get("marked")
        return {**new, "marked": flags_by_position(known, call.positions, flags, call.columns)}

    def crop(self, state: State, end: torch.Tensor) -> State:
        """Tokens at or behind `end` are no longer the prompt's, nor marked."""
        new = super().crop(state, end)
        if "marked" in state:
            places = torch.arange(state["marked"].shape[1], device=end.device)
            new["marked"] = state["marked"] & (places < end[:, None])
        return new


def is_marked(stored: Stored, state: State) -> torch.Tensor:
    """Bool `[B, h, M]`: tokens that were marked as images; none where nothing was."""
    marked = state.get("marked")
    if marked is None or not marked.shape[1]:
        return torch.zeros_like(stored.valid)
    known = stored.positions < marked.shape[1]
    index = stored.positions.clamp_max(marked.shape[1] - 1)
    return marked[:, None].expand(-1, stored.valid.shape[1], -1).gather(-1, index) & known & stored.valid


@dataclass(frozen=True)
class TextFirst:
    """LOOK-M: tokens of the text before those of images, both by the attention that they received."""

    probes: ClassVar[bool] = False

    def score(self, stored: Stored, context: Context) -> torch.Tensor:
        """The sum, and for text the largest sum of the head beside; float64."""
        # Beside the largest sum, near the number of queries, float32 would lose small differences.
        received = ReceivedSum().score(stored, context).double()
        most = received.masked_fill(~stored.valid, 0.0).amax(-1, keepdim=True) if received.shape[-1] else 0.0
        return torch.where(is_marked(stored, context.state), received, received + most)


@dataclass(frozen=True)
class AnchorsOfThePrompt:
    """Elastic Cache: tokens of the prompt by the attention they received, then the oldest decoded ones."""

    probes: ClassVar[bool] = False

    def score(self, stored: Stored, context: Context) -> torch.Tensor:
        """1 + the sum, the mean over heads that hold it, of the prompt; below 1 and falling for the rest."""
        received = layer_mean(ReceivedSum().score(stored, context), stored)
        age = 1.0 - stored.positions / (context.seen[:, None, None] + 1)
        decoded = stored.positions >= context.state["prompt"][:, None, None]
        return torch.where(decoded, age, 1.0 + received)


@dataclass(frozen=True)
class SumsAndWindow(QueryWindow):
    """Running sums of all queries' attention, and the last queries."""

    statistic: ClassVar[str | None] = "sum"
    beside: ClassVar[tuple[int, ...] | None] = ()


@dataclass(frozen=True)
class GlobalAndLocal:
    """EMS: what matters to all queries so far or to the last ones; neither early nor late tokens win by it.

    Its policy's observer must be `SumsAndWindow`.
    """

    probes: ClassVar[bool] = False

    def score(self, stored: Stored, context: Context) -> torch.Tensor:
        """max(g / sum g, l / sum l); g, the mean of all queries that see a token, l, the sum of the last."""
        sums, _, _ = window_columns(stored, context.state, context.logits)
        parts = [part * stored.valid for part in (ReceivedMean().score(stored, context), sums)]
        shares = [part / part.sum(-1, keepdim=True).clamp_min(1e-12) for part in parts]
        return torch.maximum(*shares)
