"""Schedules rendered on fixed prompts and seeds, and compared with the uncached pictures."""

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
    """One pipeline, its prompts and seeds, and the uncached pictures of them.

    Attributes:
        subject: the pipeline.
        prompts: one picture or clip each.
        seed: picture i has seed + i.
        batch_size: pictures in a call.
        tell: called after every call of the pipeline.
        rendered: calls of `pictures` so far.
    """

    subject: Subject
    prompts: Sequence[str]
    seed: int = 0
    batch_size: int = 8
    tell: Callable[[], None] = lambda: None
    rendered: int = 0
    reference: Pictures = field(init=False)

    def __post_init__(self) -> None:
        """Make the uncached pictures.

        Raises:
            DcacheError: there are no prompts, or the pictures are broken.
        """
        if not self.prompts:
            raise DcacheError("no prompts: give at least one to compare pictures of")
        self.reference = self._made()
        if problem := broken(self.reference.astype(np.float32)):
            raise DcacheError(f"without caching {problem}: there is nothing to compare with. Try more steps.")

    def pictures(self, method: Method | Schedule) -> Pictures:
        """The pictures under a method, (N, H, W, 3) or (N, F, H, W, 3), in [0, 1]; NaN is kept."""
        self.rendered += 1
        with dcache.enabled(self.subject.pipe, method):
            return self._made()

    def psnr(self, pictures: Pictures) -> list[float]:
        """PSNR of each picture to the uncached one, in dB, on unrounded pixels; minus infinity if broken."""
        errors = squared_errors(pictures, self.reference).tolist()
        return [decibels(error) if math.isfinite(error) else -math.inf for error in errors]

    def quality(self, method: Method | Schedule) -> float:
        """Mean PSNR under a method."""
        return float(np.mean(self.psnr(self.pictures(method))))

    def _made(self) -> Pictures:
        parts = []
        for start in range(0, len(self.prompts), self.batch_size):
            prompts = self.prompts[start : start + self.batch_size]
            parts.append(self.subject(prompts, [self.seed + start + i for i in range(len(prompts))]))
            self.tell()
        return np.concatenate(parts).astype(np.float64)
