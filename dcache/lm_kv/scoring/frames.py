"""Frames of a stream: calls that are frames alone, the question behind them, and frames by their mean key."""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch

from dcache.lm_kv.codecs.pages import page_means
from dcache.lm_kv.scoring.observers import Nothing, Observed, State
from dcache.lm_kv.scoring.questions import Question
from dcache.lm_kv.scoring.selectors import ByItself, Index


def only_frames(valid: torch.Tensor, marked: torch.Tensor | None) -> torch.Tensor:
    """Bool `[B]`: rows to which a call brings images alone, by `valid` and `marked`, bool `[B, S]`."""
    if marked is None:
        return torch.zeros_like(valid[:, 0])
    return (marked | ~valid).all(1) & valid.any(1)


@dataclass(frozen=True)
class LastQuestion(Nothing):
    """The question of the last call of several tokens that was no frame: what decoded tokens go on to ask.

    State: `asked` `[B, H, 1, d]`, before rotation, and `asks` bool `[B]`, whether there was such a call. A
    question that `crop` takes back stays.

    Args:
        question: makes one query of a call's.
    """

    question: Question
    needs_rotary: ClassVar[bool] = True
    reads_marks: ClassVar[bool] = True

    def observe(self, state: State, call: Observed) -> State:
        """Take a question in; a decoded token or a frame is none."""
        if call.query.shape[2] == 1:
            return state
        asks = call.valid.any(1) & ~only_frames(call.valid, call.marked)
        asked = self.question.of(call.unrotate(), call.valid)
        before = state.get("asked", torch.zeros_like(asked))
        asked = torch.where(asks[:, None, None, None], asked, before)
        return {"asked": asked, "asks": asks | state.get("asks", torch.zeros_like(asks))}


@dataclass(frozen=True)
class FrameMeans(ByItself):
    """ReKV: frames by the cosine of their mean key and the query, of all heads together, before rotation.

    All heads of a layer read the same frames.

    Args:
        page: tokens of a frame; at least 1.
    """

    page: int = 196
    reads_attention: ClassVar[bool] = False

    @property
    def distance(self) -> int:
        """Before rotation."""
        return 0

    def index(self, keys: torch.Tensor, valid: torch.Tensor, state: State) -> Index:
        """`means` `[B, h, frames, d]` in the keys' dtype."""
        means, _ = page_means(keys.flatten(0, 1), valid.flatten(0, 1), self.page)
        return {"means": means.to(keys.dtype).unflatten(0, keys.shape[:2])}

    def products(self, query: torch.Tensor, index: Index) -> torch.Tensor:
        """Cosines, the same for all heads; a KV head's mean key stands for each query head of its group."""
        means = index["means"].to(query.dtype)
        dots = (query.sum(2, keepdim=True) @ means.mT).sum((1, 2))
        lengths = (means.square().sum((1, 3)) * query.shape[2]).sqrt()
        cosines = dots / (lengths * query.square().sum((1, 2, 3)).sqrt()[:, None]).clamp_min(1e-12)
        return cosines[:, None, None].expand(-1, *query.shape[1:3], -1)
