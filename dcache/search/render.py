"""Rendering of schedules on fixed prompts and seeds, and PSNR to the uncached pictures."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

import dcache
from dcache.errors import DcacheError
from dcache.eval.fidelity import broken, decibels, squared_errors
from dcache.eval.subject import Subject
from dcache.method import Method
from dcache.schedule import Schedule

Pictures = NDArray[np.float64]


@dataclass
class Renderer:
    """One pipeline with fixed prompts and seeds, and its uncached pictures.

    Attributes:
        subject: the pipeline.
        prompts: one picture or clip each.
        seed: picture i has seed + i.
        batch_size: pictures in a call.
        progress: called after every call of the pipeline.
        rendered: number of calls of `pictures` so far.
        reference: the uncached pictures, (N, H, W, 3) or (N, F, H, W, 3), float64 in [0, 1].
    """

    subject: Subject
    prompts: Sequence[str]
    seed: int = 0
    batch_size: int = 8
    progress: Callable[[], None] = lambda: None
    rendered: int = 0
    reference: Pictures = field(init=False)

    def __post_init__(self) -> None:
        """Make the uncached pictures.

        Raises:
            DcacheError: there are no prompts, or the uncached pictures are broken.
        """
        if not self.prompts:
            raise DcacheError("expected at least one prompt to render, got none")
        self.reference = self._rendered()
        if problem := broken(self.reference.astype(np.float32)):
            raise DcacheError(
                f"without caching {problem}, so there is nothing to compare with. Try more sampling steps."
            )

    def pictures(self, method: Method | Schedule) -> Pictures:
        """Pictures under a method, (N, H, W, 3) or (N, F, H, W, 3), float64 in [0, 1]; NaN stays NaN."""
        self.rendered += 1
        with dcache.enabled(self.subject.pipe, method):
            return self._rendered()

    def psnr(self, pictures: Pictures) -> list[float]:
        """PSNR of each picture to the uncached one, in dB, on unrounded pixels; -inf for a broken picture."""
        errors = squared_errors(pictures, self.reference).tolist()
        return [decibels(error) if math.isfinite(error) else -math.inf for error in errors]

    def quality(self, method: Method | Schedule) -> float:
        """Mean PSNR under a method, in dB."""
        return float(np.mean(self.psnr(self.pictures(method))))

    def _rendered(self) -> Pictures:
        parts = []
        for start in range(0, len(self.prompts), self.batch_size):
            prompts = self.prompts[start : start + self.batch_size]
            parts.append(self.subject(prompts, [self.seed + start + i for i in range(len(prompts))]))
            self.progress()
        return np.concatenate(parts).astype(np.float64)
