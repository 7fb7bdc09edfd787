"""The runs of an observation: several passes over the same batches, each with sites that do not overlap."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from typing import Any

import numpy as np
import torch
from torch import nn

import dcache
from dcache.errors import DcacheError, DcacheWarning
from dcache.eval.progress import StageProgress
from dcache.eval.subject import Subject
from dcache.observation.changes import Changes
from dcache.observation.features import FeatureBuffer, Key, sketch_error
from dcache.observation.run import observe_run, shape_of_run
from dcache.profile import FeatureTables, Profile
from dcache.profile.tables import Floats
from dcache.search.observing.passes import MODEL, Pass
from dcache.search.rendering.results import Results

Batch = tuple[list[str], list[int]]


@dataclass
class RunTotals:
    """Totals over the runs of one pass.

    Attributes:
        changes: changes of the trunk, if it is one of the sites.
        total: tables of every feature, summed over pictures.
        pictures: number of pictures.
        squares: sum over runs of the squared number of pictures.
        numbers: size of the sketches; None if all features were kept whole.
        steps, sampler, sigmas, resolution: as in `Profile`.
    """

    changes: Changes | None

    total: dict[Key, FeatureTables] = field(default_factory=dict)
    pictures: int = 0
    squares: int = 0
    numbers: int | None = None
    steps: int = 0
    sampler: str = ""
    sigmas: tuple[float, ...] = ()
    resolution: tuple[int, ...] = ()

    @property
    def error(self) -> float:
        """Standard error of the mean sketched inner product; each run has an independent sketch."""
        return 0.0 if self.numbers is None else sketch_error(self.numbers) * self.squares**0.5 / self.pictures

    def add(self, key: Key, tables: FeatureTables) -> None:
        """Add the tables of a run."""
        self.total[key] = self.total[key] + tables if key in self.total else tables


@dataclass
class ObservationRuns:
    """Runs passes over the same batches.

    Attributes:
        subject: the pipeline.
        module: the denoiser.
        batches: prompts and seeds of every call.
        cap: bytes of host memory for the features of one run.
        progress: called with a description of each stage.
        results: the runs that were made before a kill.
    """

    subject: Subject
    module: nn.Module
    batches: Sequence[Batch]
    cap: int
    progress: StageProgress
    results: Results = field(default_factory=Results)

    def profile(self, passes: Sequence[Pass], lenient: bool) -> Profile:
        """Run all passes; returns the profile of the features.

        Args:
            passes: the sites to observe.
            lenient: leave out sites that cannot be observed, with a warning, instead of raising.

        Raises:
            DcacheError: a site cannot be observed and `lenient` is False, or a run has NaN or infinity.
        """
        seen: list[RunTotals] = []
        left_out: dict[str, str] = {}
        for i, planned in enumerate(passes):
            name, wanted = f"pass {i + 1} of {len(passes)}", planned
            while wanted.sites or wanted.model:
                try:
                    seen.append(self._pass(wanted, name))
                    break
                except DcacheWarning as warning:
                    dropped, wanted = wanted.without_runs()
                    text = f"{', '.join(dropped) or MODEL} cannot be observed: {warning}"
                    if not (lenient and dropped):
                        raise DcacheError(text) from None
                    left_out |= dict.fromkeys(dropped, str(warning))
                    warnings.warn(f"{text}. Left out of the profile", DcacheWarning, stacklevel=4)
        sketches = [totals.numbers for totals in seen if totals.numbers is not None]
        if sketches:
            text = (
                f"the features of a run do not fit into {self.cap} bytes: long ones are kept as sketches of "
                f"{min(sketches)} numbers, with a standard error of {max(t.error for t in seen):.2g} of "
                "their length squared (docs/profile.md)"
            )
            self.progress(text)
            warnings.warn(text, DcacheWarning, stacklevel=4)
        return _profile(seen, left_out)

    def _pass(self, wanted: Pass, name: str) -> RunTotals:
        totals = RunTotals(changes=Changes(self.module) if "trunk" in wanted.names else None)
        everything = dcache.methods.interval(interval=1, sites=wanted.names or [MODEL])
        with warnings.catch_warnings():
            # The engine warns when it replaces a site by another one, which must not go unnoticed here.
            warnings.simplefilter("error", DcacheWarning)
            with dcache.enabled(self.subject.pipe, everything):
                for _, batches in groupby(self.batches, lambda batch: len(batch[0])):
                    self._runs(wanted, list(batches), totals, name)
        return totals

    def _runs(self, wanted: Pass, batches: list[Batch], totals: RunTotals, name: str) -> None:
        """Run batches of one size: one run to measure the size of the features, then all of them."""
        model = wanted.model or not wanted.sites
        label = f"{','.join(wanted.names)}:{model}"
        names = [f"{label}:run {seeds[0]}" for _, seeds in batches]
        shape = f"{label}:shape {batches[0][1][0]}"
        # The first run of a process also settles which streams the engine reads. It can be left out only if
        # no other run is missing.
        if self.results.has(shape) and all(map(self.results.has_arrays, names)):
            shaped = self.results.number(shape, dict)
        else:
            self.progress(f"{name}: size of the features")
            shaped = self._shape(batches[0], model)
            self.results.number(shape, lambda: shaped)
        sizes = {Key(*key): count for key, count in shaped["sizes"]}
        totals.steps, totals.sampler = shaped["steps"], shaped["sampler"]
        totals.sigmas = tuple(shaped["sigmas"]) or totals.sigmas
        totals.resolution = tuple(shaped["resolution"])
        features = FeatureBuffer(sizes, totals.steps, self.cap, device_of(self.module))
        sketches = [numbers for numbers in (totals.numbers, features.numbers) if numbers is not None]
        totals.numbers = min(sketches, default=None)
        for i, batch in enumerate(batches):
            self.progress(f"{name}: run {i + 1} of {len(batches)}")
            run = partial(self._run, batch, features, totals.changes, model)
            self._add(totals, list(sizes), self.results.arrays(names[i], run), len(batch[0]))

    def _run(
        self, batch: Batch, features: FeatureBuffer, changes: Changes | None, model: bool
    ) -> dict[str, Floats]:
        """One run: its tables, (keys, 2 T + 1, T), and all changes of the trunk up to it."""
        features.begin(batch[1][0])
        observe_run(self.module, partial(self.subject, *batch), features, changes, model)
        tables = [features.tables(key) for key in features.sizes]
        stacked = np.stack([np.concatenate([t.gram, t.distance, t.size[None]]) for t in tables])
        return {"tables": stacked} | ({} if changes is None else changes.content())

    def _add(self, totals: RunTotals, keys: Sequence[Key], run: Mapping[str, Floats], pictures: int) -> None:
        """Add the result of a run."""
        steps = totals.steps
        for key, rows in zip(keys, run["tables"], strict=True):
            tables = FeatureTables(rows[:steps], rows[steps : 2 * steps], rows[2 * steps])
            totals.add(key, tables.scaled(float(pictures)))
        if totals.changes is not None:
            totals.changes.restore(run)
        totals.pictures += pictures
        totals.squares += pictures**2

    def _shape(self, batch: Batch, model: bool) -> dict[str, Any]:
        """Sizes of all features, steps, sampler, sigmas and resolution, as JSON values."""
        shapes: list[tuple[int, ...]] = []
        shape = shape_of_run(self.module, lambda: shapes.append(self.subject(*batch).shape[1:-1]), model)
        return {
            "sizes": [[list(key), count] for key, count in shape.sizes.items()],
            "steps": shape.steps,
            "sampler": shape.sampler,
            "sigmas": list(shape.sigmas),
            "resolution": list(shapes[0]),
        }


def _profile(seen: Sequence[RunTotals], left_out: dict[str, str]) -> Profile:
    first = seen[0]
    changes = next((totals.changes for totals in seen if totals.changes is not None), None)
    sites: dict[str, dict[str, dict[str, FeatureTables]]] = {}
    for totals in seen:
        for key, tables in totals.total.items():
            frames = sites.setdefault(key.site, {}).setdefault(key.branch, {})
            frames[key.frame] = tables.scaled(1.0 / totals.pictures)
    ratios, spread = (None, 0.0) if changes is None else changes.ratios(first.steps)
    record: dict[str, Any] = {"ratios_deviation": round(spread, 6)}
    return Profile(
        steps=first.steps,
        sites=sites,
        prompts=first.pictures,
        sketch=max(totals.error for totals in seen),
        ratios=ratios,
        input_output_changes=None if changes is None else changes.pairs(),
        sampler=first.sampler,
        sigmas=first.sigmas,
        resolution=first.resolution,
        made=record | ({"left_out": left_out} if left_out else {}),
    )


def device_of(module: nn.Module) -> torch.device:
    """Device of a module's parameters; the CPU if it has none."""
    return next((p.device for p in module.parameters()), torch.device("cpu"))
