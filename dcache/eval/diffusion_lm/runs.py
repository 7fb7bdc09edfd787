"""One run of one policy: a batch of prompts decoded, scored and counted."""

from __future__ import annotations

import time
from contextlib import nullcontext
from dataclasses import asdict, dataclass, field, replace
from typing import Any

import torch

import dcache
from dcache import diffusion_lm
from dcache.diffusion_lm import RowMethod
from dcache.eval.diffusion_lm.settings import RowSettings
from dcache.eval.diffusion_lm.subject import Batch, RowSubject


@dataclass
class RowRun:
    """Figures of a run.

    Attributes:
        scores: quality of each prompt's text.
        tokens: decoded tokens of each prompt.
        forwards: calls of the model.
        rows: rows computed, as a mean over attention calls.
        possible: rows that the same forwards compute without a method.
        refreshes: reason -> forwards that computed all rows.
        bytes_held: most bytes of keys, values, masks and stored logits at once.
        seconds: of the whole loop.
    """

    scores: list[float] = field(default_factory=list)
    tokens: list[list[int]] = field(default_factory=list)
    forwards: int = 0
    rows: float = 0
    possible: int = 0
    refreshes: dict[str, int] = field(default_factory=dict)
    bytes_held: int = 0
    seconds: float = 0.0

    def plain(self) -> dict[str, Any]:
        """All of it as JSON values."""
        return asdict(self)


def run(
    subject: RowSubject, batch: Batch, method: RowMethod | None, block: int, settings: RowSettings, seed: int
) -> RowRun:
    """Decode a batch.

    Args:
        subject: the model.
        batch: its prompts.
        method: the policy; None for the model as it is.
        block: tokens of a block.
        settings: with the subject's choices in place of None.
        seed: of the noise.
    """
    done = RowRun()

    def count(step: int, ids: torch.Tensor, rows: torch.Tensor) -> None:
        done.forwards, done.rows = step + 1, done.rows + int(rows.sum())
        done.possible += rows.numel()

    with scope(subject, method):
        began = now(batch.ids)
        ids = generated(subject, batch.ids, block, settings, seed, count)
        done.seconds = now(ids) - began
        if method is not None:
            stats: Any = dcache.stats(subject.model)
            # A drift test adds rows in the middle of a forward, which the callback does not see.
            done.rows, done.possible, done.bytes_held = stats.rows, stats.possible, stats.bytes_held
            done.refreshes = dict(stats.refreshes)
    done.scores = batch.scores(ids)
    done.tokens = ids[:, batch.ids.shape[1] :].tolist()
    return done


def scope(subject: RowSubject, method: RowMethod | None) -> Any:
    """A context in which the method is enabled on the subject's model."""
    if method is None:
        return nullcontext()
    if method.mask_id is None:
        method = replace(method, mask_id=mask_of(subject))
    return dcache.enabled(subject.model, method)


def mask_of(subject: RowSubject) -> int | None:
    """The mask id to name: None where the model's config has it."""
    known = getattr(subject.model.config, "mask_token_id", None)
    return subject.mask_id if known is None else None


def generated(
    subject: RowSubject, ids: torch.Tensor, block: int, settings: RowSettings, seed: int, callback: Any
) -> torch.Tensor:
    """Ids `[B, P + new]`, decoded with the method that is enabled."""
    return diffusion_lm.generate(
        subject.model,
        ids,
        max_new_tokens=settings.new or subject.new,
        block=block,
        steps=settings.steps,
        decoder=settings.decoder,
        threshold=settings.threshold,
        temperature=subject.temperature if settings.temperature is None else settings.temperature,
        seed=seed,
        mask_id=mask_of(subject),
        callback=callback,
    )


def now(tensor: torch.Tensor) -> float:
    """Seconds of a clock, when all work of the tensor's device is done."""
    if tensor.is_cuda:
        torch.cuda.synchronize(tensor.device)
    return time.perf_counter()
