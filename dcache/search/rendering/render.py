"""Rendering of schedules on fixed prompts and seeds, and PSNR to the uncached pictures."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, field
from functools import partial

import numpy as np
from numpy.typing import NDArray

import dcache
from dcache.errors import DcacheError
from dcache.eval.fidelity import broken, decibels, squared_errors
from dcache.eval.subject import Subject
from dcache.method import Method
from dcache.schedule import Schedule
from dcache.search.rendering.results import Results

Pictures = NDArray[np.float64]
# Renders the call that begins with a picture.
Render = Callable[[int], NDArray[np.float32]]
PICTURES = "pictures"


@dataclass
class Renderer:
    """One pipeline with fixed prompts and seeds, and its uncached pictures.

    Attributes:
        subject: the pipeline.
        prompts: one picture or clip each.
        seed: picture i has seed + i.
        batch_size: pictures in a call.
        progress: called after every call of the pipeline.
        results: what earlier runs rendered of schedules, and what this one renders.
        part: name of these prompts in `results`.
        rendered: number of calls of `pictures` and `quality` so far.
        reference: the uncached pictures, (N, H, W, 3) or (N, F, H, W, 3), float64 in [0, 1].
    """

    subject: Subject
    prompts: Sequence[str]
    seed: int = 0
    batch_size: int = 8
    progress: Callable[[], None] = lambda: None
    results: Results = field(default_factory=Results)
    part: str = ""
    rendered: int = 0
    reference: Pictures = field(init=False)

    def __post_init__(self) -> None:
        """Make the uncached pictures.

        Raises:
            DcacheError: there are no prompts, or the uncached pictures are broken.
        """
        if not self.prompts:
            raise DcacheError("expected at least one prompt to render, got none")
        self.reference = np.concatenate(list(self._batches(None))).astype(np.float64)
        if problem := broken(self.reference.astype(np.float32)):
            raise DcacheError(
                f"without caching {problem}, so there is nothing to compare with. Try more sampling steps."
            )

    def pictures(self, method: Method | Schedule) -> Pictures:
        """Pictures under a method, (N, H, W, 3) or (N, F, H, W, 3), float64 in [0, 1]; NaN stays NaN."""
        self.rendered += 1
        return np.concatenate(list(self._batches(method))).astype(np.float64)

    def psnr(self, pictures: Pictures, start: int = 0) -> list[float]:
        """PSNR of pictures `start`, `start` + 1, ... to the uncached ones, in dB, on unrounded pixels.

        It is -inf for a broken picture.
        """
        errors = squared_errors(pictures, self.reference[start : start + len(pictures)]).tolist()
        return [decibels(error) if math.isfinite(error) else -math.inf for error in errors]

    def quality(self, method: Method | Schedule) -> float:
        """Mean PSNR under a method, in dB."""
        if self.results.journal is None:
            return float(np.mean(self.psnr(self.pictures(method))))
        self.rendered += 1
        each: list[float] = []
        with self._enabled(method, self.results.has) as render:
            for start in self._starts:
                name = self._name(method, start)
                values = (
                    self._measured(render, start)
                    if name is None
                    else self.results.number(name, partial(self._measured, render, start))
                )
                # JSON has no infinity.
                each += [-math.inf if value is None else value for value in values]
        return float(np.mean(each))

    def _measured(self, render: Render, start: int) -> list[float | None]:
        values = self.psnr(render(start).astype(np.float64), start)
        return [value if math.isfinite(value) else None for value in values]

    def _batches(self, method: Method | Schedule | None) -> Iterator[NDArray[np.float32]]:
        """The pictures of each call, float32."""
        with self._enabled(method, self.results.has_arrays) as render:
            for start in self._starts:
                name = self._name(method, start)
                if name is None:
                    yield render(start)
                else:
                    yield self.results.arrays(name, partial(_named, render, start))[PICTURES]

    @property
    def _starts(self) -> range:
        """Number of the first picture of each call."""
        return range(0, len(self.prompts), self.batch_size)

    def _name(self, method: Method | Schedule | None, start: int) -> str | None:
        """Name of a call's result; None for a method, which has no digest of all that it does."""
        if isinstance(method, Method):
            return None
        return f"{self.part}:{'uncached' if method is None else method.digest()}:{start}"

    @contextmanager
    def _enabled(self, method: Method | Schedule | None, known: Callable[[str], bool]) -> Iterator[Render]:
        """Enable a method, unless the results of all its calls are known."""
        names = [self._name(method, start) for start in self._starts]
        idle = all(name is not None and known(name) for name in names)
        with nullcontext() if method is None or idle else dcache.enabled(self.subject.pipe, method):
            yield self._call

    def _call(self, start: int) -> NDArray[np.float32]:
        prompts = self.prompts[start : start + self.batch_size]
        pictures = self.subject(prompts, [self.seed + start + i for i in range(len(prompts))])
        self.progress()
        return pictures


def _named(render: Render, start: int) -> dict[str, NDArray[np.float32]]:
    return {PICTURES: render(start)}
