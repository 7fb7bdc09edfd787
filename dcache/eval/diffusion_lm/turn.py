"""One timed turn of a decoding loop, and which part of its steps lies outside the model."""

from __future__ import annotations

import time
from dataclasses import dataclass, field
from statistics import median
from typing import Any

import torch

import dcache
from dcache.diffusion_lm import RowMethod
from dcache.eval.diffusion_lm.random_model import prompts
from dcache.eval.diffusion_lm.runs import generated, now, scope
from dcache.eval.diffusion_lm.settings import RowSettings
from dcache.eval.diffusion_lm.subject import RowSubject


class _EnoughSteps(Exception):  # noqa: N818 - it ends a loop, and is no error
    """Ends a loop after the steps that are timed."""


@dataclass(frozen=True)
class Turn:
    """A loop's first steps.

    Attributes:
        seconds: of all of them.
        cpu: processor seconds of all of them, of all threads.
        forwards: steps.
        share: rows computed, of all.
        outside: share of a step's processor seconds outside the model's forward, the median over steps that
            compute some rows; None where there is none, or on a GPU.
    """

    seconds: float
    cpu: float
    forwards: int
    share: float
    outside: float | None


def turn(
    subject: RowSubject, method: RowMethod | None, block: int, batch: int, temperature: float, steps: int
) -> Turn:
    """Run a loop's first steps.

    Args:
        subject: the model.
        method: the policy; None for the model as it is.
        block: tokens of a block.
        batch: sequences.
        temperature: of sampling.
        steps: forwards, at most.
    """
    ids = prompts(subject, batch)
    settings = RowSettings(new=subject.new, block=block, temperature=temperature)
    with scope(subject, method):
        clock = _StepClock(subject.model, steps)
        began, cpu = now(ids), time.process_time()
        try:
            generated(subject, ids, block, settings, 0, clock)
        except _EnoughSteps:
            pass
        finally:
            clock.remove()
        seconds, cpu = now(ids) - began, time.process_time() - cpu
        stats: Any = None if method is None else dcache.stats(subject.model)
    share = 1.0 if stats is None else stats.share
    outside = None if ids.is_cuda or method is None else clock.outside()
    return Turn(seconds, cpu, len(clock.steps), share, outside)


@dataclass
class _StepClock:
    """The callback of a loop: processor seconds of each step, and those of the model's forward in it.

    Attributes:
        model: the model.
        most: steps after which the loop is ended.
        steps: (of all rows, seconds, seconds in the model) of each step.
    """

    model: Any
    most: int
    steps: list[tuple[bool, float, float]] = field(default_factory=list)
    inside: float = 0.0
    entered: float = 0.0

    def __post_init__(self) -> None:
        self.last = time.process_time()
        self.handles = [
            self.model.register_forward_pre_hook(lambda *_: self._enter()),
            self.model.register_forward_hook(lambda *_: self._leave()),
        ]

    def _enter(self) -> None:
        self.entered = time.process_time()

    def _leave(self) -> None:
        self.inside += time.process_time() - self.entered

    def __call__(self, step: int, ids: torch.Tensor, rows: torch.Tensor) -> None:
        every = bool(rows.all())
        here = time.process_time()
        self.steps.append((every, here - self.last, self.inside))
        if step + 1 == self.most:
            raise _EnoughSteps
        self.last, self.inside = time.process_time(), 0.0

    def outside(self) -> float | None:
        """Median share outside the model, over steps of some rows."""
        shares = [1 - inside / seconds for every, seconds, inside in self.steps if not every and seconds]
        return median(shares) if shares else None

    def remove(self) -> None:
        """Take the hooks off."""
        for handle in self.handles:
            handle.remove()
