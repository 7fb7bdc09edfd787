"""Quality of a schedule: its pictures of fixed prompts and seeds, and their metrics.

Prompts come in rungs: every candidate is rendered on those of the first, the better ones on the next rungs
too.
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
from dcache.search.fitting.closed_loop import beginning, fit, slopes_to_json
from dcache.search.fitting.latency_model import paired
from dcache.search.fitting.places import STEPS
from dcache.search.rendering.render import Renderer


@dataclass
class QualityEvaluator:
    """Pictures of one pipeline under a schedule, and their metrics.

    Attributes:
        subject: the pipeline.
        rungs: prompts of each rung; picture i, counted over all rungs, has seed + i.
        metrics: names, as in `dcache eval`; `psnr` is computed on unrounded pixels.
        seed: seed of the first picture.
        batch_size: pictures in a call.
        options: options of the metrics.
        held_out: held-out prompts; their rung number follows the last rung's.
        renderers: rung -> its renderer, made on first use.
        chosen: the metric objects.
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
        """Load the metrics.

        Raises:
            DcacheError: a rung has no prompts, or a metric is unknown or not defined for this kind of output.
        """
        if not self.rungs or not all(self.rungs):
            raise DcacheError("a search needs one prompt or more in every rung")
        self.chosen: list[Metric] = chosen(self.metrics)
        kind = self.subject.kind
        wrong = [metric.name for metric in self.chosen if kind not in metric.kinds]
        if wrong:
            raise DcacheError(f"{', '.join(wrong)} is not defined for {kind}s: ask for another metric")

    def evaluate(self, schedule: Schedule, rung: int) -> dict[str, Any]:
        """Render a schedule on one rung and compute the metrics.

        Returns:
            A dict, ready for JSON. `values`: metric -> value, NaN as None; all None if the pictures are
            broken. `each`: metric -> values of the single pictures, for metrics that have them. `seconds`:
            wall clock of the rendering.
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
            value, by_picture = self._value(metric, pictures, renderer, rung)
            values[metric.name] = value if value is not None and np.isfinite(value) else None
            if by_picture is not None:
                each[metric.name] = by_picture
            elif len(self.rungs) > 1 and value is not None:
                raise DcacheError(
                    f"{metric.name} is one value of all pictures together, so it cannot be averaged over "
                    "rungs of prompts. Render every schedule on all prompts (--first "
                    f"{sum(map(len, self.rungs))})"
                )
        return {"values": values, "each": each, "seconds": seconds}

    def fit(self, schedule: Schedule) -> dict[str, Any]:
        """Fit a schedule's weights on the pictures of the second rung, and check them on the first.

        If there is one rung, its first third is for checking and the rest for fitting.

        Returns:
            A dict, ready for JSON. `fitted`: the slopes, from `closed_loop.slopes_to_json`; `before` and
            `after`: mean PSNR in dB on the checking prompts; `rendered`: number of renderings.

        Raises:
            DcacheError: there is only one prompt, so none is left for checking.
        """
        fitting, checking = self.parts
        mean, apart = beginning(schedule, self.paired)
        result = fit(schedule, fitting, checking, mean, STEPS, apart)
        figures = {"before": result.before, "after": result.after, "rendered": result.rendered}
        return {"fitted": slopes_to_json(result), **figures}

    @cached_property
    def parts(self) -> tuple[Renderer, Renderer]:
        """The renderers for fitting and for checking weights."""
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
        """Whether guidance makes one batch of both branches; observed once, in a call of the pipeline."""
        return paired(self.subject, self.rungs[0][0], self.seed)

    def direction(self, name: str) -> int:
        """1 where higher values of a metric are better, else -1."""
        return next(1 if metric.better == "higher" else -1 for metric in self.chosen if metric.name == name)

    def _value(
        self, metric: Metric, pictures: Any, renderer: Renderer, rung: int
    ) -> tuple[float | None, list[float] | None]:
        if metric.name == "psnr":
            by_picture = renderer.psnr(pictures)
            return float(np.mean(by_picture)), by_picture
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
        renderer = self.renderers.get(rung)
        if renderer is None:
            before = sum(len(prompts) for prompts in self.rungs[:rung])
            prompts = self.rungs[rung] if rung < len(self.rungs) else self.held_out
            renderer = Renderer(self.subject, prompts, self.seed + before, self.batch_size)
            self.renderers[rung] = renderer
        return renderer
