"""The judge of a search: renders a schedule on fixed prompts and seeds, and says how good the pictures are.

Prompts come in rungs: every candidate is rendered on those of the first, those that look worth it on the next
ones too.
"""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np

from dcache.errors import DcacheError
from dcache.eval.fidelity import broken, to_uint8
from dcache.eval.metrics import chosen
from dcache.eval.metrics.base import Batch, Metric, Reader, Sample
from dcache.eval.metrics.options import MetricOptions
from dcache.eval.subject import Subject
from dcache.schedule import Schedule
from dcache.search.calibrate import STEPS
from dcache.search.closed_loop import beginning, fit, told_of
from dcache.search.latency_model import paired
from dcache.search.render import Renderer


@dataclass
class QualityEvaluator:
    """Pictures of one pipeline under a schedule, and their metrics.

    Attributes:
        subject: the pipeline.
        rungs: prompts of each rung; picture i, counted over all rungs, has seed + i.
        metrics: names, as in `dcache eval`; `psnr` is that of unrounded pixels.
        seed: of the first picture.
        batch_size: pictures in a call.
        options: of the metrics.
        held: held-out prompts, the rung behind the last.
        renderers: rung -> what renders it, made when it is first asked for.
        chosen: the metrics.
    """

    subject: Subject
    rungs: Sequence[Sequence[str]]
    metrics: Sequence[str] = ("psnr",)
    seed: int = 0
    batch_size: int = 8
    options: MetricOptions = field(default_factory=MetricOptions)
    held_out: Sequence[str] = ()
    renderers: dict[int, Renderer] = field(default_factory=dict, init=False)
    _uncached: dict[tuple[str, int], Any] = field(default_factory=dict, init=False)
    _readers: dict[str, Reader] = field(default_factory=dict, init=False)

    def __post_init__(self) -> None:
        """Check that there is something to judge by.

        Raises:
            DcacheError: no prompts, or a metric that cannot be had.
        """
        if not self.rungs or not all(self.rungs):
            raise DcacheError("a search needs one prompt or more in every rung")
        self.chosen: list[Metric] = chosen(self.metrics)
        kind = self.subject.kind
        wrong = [metric.name for metric in self.chosen if kind not in metric.kinds]
        if wrong:
            raise DcacheError(f"{', '.join(wrong)} is not defined for {kind}s: ask for another metric")

    def evaluate(self, schedule: Schedule, rung: int) -> dict[str, Any]:
        """What a schedule's pictures of one rung are worth.

        Returns:
            `values`: metric -> value, NaN as None; `each`: metric -> value of each picture, where it has one;
            `seconds`: wall clock of the rendering.
        """
        renderer = self._renderer(rung)
        began = time.perf_counter()
        pictures = renderer.pictures(schedule)
        seconds = time.perf_counter() - began
        values: dict[str, float | None] = {}
        each: dict[str, list[float]] = {}
        if broken(pictures.astype(np.float32), renderer.reference.astype(np.float32)):
            return {"values": dict.fromkeys(self.metrics), "each": {}, "seconds": seconds}
        for metric in self.chosen:
            value, own = self._value(metric, pictures, renderer, rung)
            values[metric.name] = value if value is not None and np.isfinite(value) else None
            if own is not None:
                each[metric.name] = own
            elif len(self.rungs) > 1 and value is not None:
                raise DcacheError(
                    f"{metric.name} is of all pictures together, and has no mean over rungs of prompts: "
                    f"render every schedule on all of them (--first {sum(map(len, self.rungs))})"
                )
        return {"values": values, "each": each, "seconds": seconds}

    def fit(self, schedule: Schedule) -> dict[str, Any]:
        """Fit a schedule's weights on the pictures of all rungs but the first, and check them on the first.

        Of one rung the first third is checked on.

        Returns:
            `fitted`: the slopes, as `closed_loop.told_of` has them; `before` and `after`: mean PSNR in dB
            where it was checked; `rendered`: how many renderings it took.

        Raises:
            DcacheError: there is one prompt alone, and none to check on.
        """
        fitting, checking = self.parts
        mean, apart = beginning(schedule, self.paired)
        found = fit(schedule, fitting, checking, mean, STEPS, apart)
        told = {"before": found.before, "after": found.after, "rendered": found.rendered}
        return {"fitted": told_of(found), **told}

    @cached_property
    def parts(self) -> tuple[Renderer, Renderer]:
        """Renderers to fit weights on, and to check them on."""
        if len(self.rungs) > 1:
            return self._renderer(1), self._renderer(0)
        prompts = list(self.rungs[0])
        if len(prompts) < 2:
            raise DcacheError("weights are fitted on some prompts and checked on others: give two or more")
        cut = max(1, len(prompts) // 3)
        return (
            Renderer(self.subject, prompts[cut:], self.seed + cut, self.batch_size),
            Renderer(self.subject, prompts[:cut], self.seed, self.batch_size),
        )

    @cached_property
    def paired(self) -> bool:
        """Whether guidance makes one batch of both branches; looked at once, in a call of the pipeline."""
        return paired(self.subject, self.rungs[0][0], self.seed)

    def direction(self, name: str) -> int:
        """1 where higher values of a metric are better, else -1."""
        return next(1 if metric.better == "higher" else -1 for metric in self.chosen if metric.name == name)

    def _value(
        self, metric: Metric, pictures: Any, renderer: Renderer, rung: int
    ) -> tuple[float | None, list[float] | None]:
        if metric.name == "psnr":
            own = renderer.psnr(pictures)
            return float(np.mean(own)), own
        reader = self._readers.get(metric.source.name)
        if reader is None:
            reader = self._readers[metric.source.name] = metric.source.load(self.options)
        prompts = list(renderer.prompts)
        shown, uncached = (to_uint8(p.astype(np.float32)) for p in (pictures, renderer.reference))
        rows = reader.read(Batch(shown, uncached if metric.source.paired else None, prompts))
        against = None
        if metric.against == "pictures":
            key = metric.source.name, rung
            if key not in self._uncached:
                self._uncached[key] = reader.read(Batch(uncached, None, prompts))
            against = self._uncached[key]
        score = metric.summary(Sample(rows, against, np.arange(len(prompts))))
        return score.value, score.each

    def _renderer(self, rung: int) -> Renderer:
        found = self.renderers.get(rung)
        if found is None:
            before = sum(len(prompts) for prompts in self.rungs[:rung])
            prompts = self.rungs[rung] if rung < len(self.rungs) else self.held_out
            found = Renderer(self.subject, prompts, self.seed + before, self.batch_size)
            self.renderers[rung] = found
        return found
