"""The runs of an observation: passes over the same batches, each with the sites that fit together."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from typing import Any

import torch
from torch import nn

import dcache
from dcache.errors import DcacheError, DcacheWarning
from dcache.eval.subject import Subject
from dcache.observation.changes import Changes
from dcache.observation.features import FeatureBuffer, Key, sketch_error
from dcache.observation.run import observe_run, shape_of_run
from dcache.profile import FeatureTables, Profile
from dcache.search.passes import MODEL, Pass

Batch = tuple[list[str], list[int]]
Tell = Callable[[str], None]


@dataclass
class RunTotals:
    """What the runs of one pass gave.

    Attributes:
        total: sums over pictures.
        pictures: how many.
        squares: sum over runs of their squared number of pictures.
        numbers: that a sketch keeps, None where all was kept whole.
        changes: of the trunk, where it is one of the sites.
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
        """Standard error of the mean of sketched inner products: every run has a sketch of its own."""
        return 0.0 if self.numbers is None else sketch_error(self.numbers) * self.squares**0.5 / self.pictures

    def add(self, key: Key, tables: FeatureTables) -> None:
        """Add the tables of a run."""
        self.total[key] = self.total[key] + tables if key in self.total else tables


@dataclass
class ObservationRuns:
    """Runs passes over the same batches."""

    subject: Subject
    module: nn.Module
    batches: Sequence[Batch]
    cap: int
    tell: Tell

    def profile(self, passes: Sequence[Pass], lenient: bool) -> Profile:
        """All passes.

        Args:
            passes: what to look at.
            lenient: sites that the engine does not understand are left out with a warning.

        Raises:
            DcacheError: one was not understood and cannot be left out, or a run is broken.
        """
        seen: list[RunTotals] = []
        left_out: dict[str, str] = {}
        for i, one in enumerate(passes):
            name, wanted = f"pass {i + 1} of {len(passes)}", one
            while wanted.sites or wanted.model:
                try:
                    seen.append(self._pass(wanted, name))
                    break
                except DcacheWarning as warning:
                    dropped, wanted = wanted.without_runs()
                    text = f"{', '.join(dropped)} cannot be observed: {warning}"
                    if not lenient:
                        raise DcacheError(text) from None
                    left_out |= dict.fromkeys(dropped, str(warning))
                    warnings.warn(f"{text}. Left out of the profile", DcacheWarning, stacklevel=4)
        if any(one.numbers is not None for one in seen):
            kept = min(one.numbers for one in seen if one.numbers is not None)
            text = (
                f"the features of a run do not fit into {self.cap} bytes: long ones are kept as sketches of "
                f"{kept} numbers, with a standard error of {max(one.error for one in seen):.2g} of their "
                "length squared (docs/profile.md)"
            )
            self.tell(text)
            warnings.warn(text, DcacheWarning, stacklevel=4)
        return _profile(seen, left_out)

    def _pass(self, one: Pass, name: str) -> RunTotals:
        seen = RunTotals(changes=Changes(self.module) if "trunk" in one.names else None)
        everything = dcache.methods.interval(interval=1, sites=one.names or [MODEL])
        with warnings.catch_warnings():
            # The engine warns where it falls back to other sites than were asked for.
            warnings.simplefilter("error", DcacheWarning)
            with dcache.enabled(self.subject.pipe, everything):
                for _, some in groupby(self.batches, lambda batch: len(batch[0])):
                    self._runs(one, list(some), seen, name)
        return seen

    def _runs(self, one: Pass, batches: list[Batch], seen: RunTotals, name: str) -> None:
        """Batches of one size: a run to see how much there is to hold, then all of them."""
        model = one.model or not one.sites
        self.tell(f"{name}: how much there is")
        sizes = self._sizes(batches[0], model, seen)
        held = FeatureBuffer(sizes, seen.steps, self.cap, device_of(self.module))
        kept = [numbers for numbers in (seen.numbers, held.numbers) if numbers is not None]
        seen.numbers = min(kept, default=None)
        for i, batch in enumerate(batches):
            self.tell(f"{name}: run {i + 1} of {len(batches)}")
            prompts, seeds = batch
            held.begin(seeds[0])
            observe_run(self.module, partial(self.subject, prompts, seeds), held, seen.changes, model)
            for key in sizes:
                seen.add(key, held.tables(key).scaled(float(len(prompts))))
            seen.pictures += len(prompts)
            seen.squares += len(prompts) ** 2

    def _sizes(self, batch: Batch, model: bool, seen: RunTotals) -> dict[Key, int]:
        """Numbers of every feature; and how long the run is, with which sampler and how large a picture."""

        def run() -> None:
            seen.resolution = tuple(self.subject(*batch).shape[1:-1])

        shape = shape_of_run(self.module, run, model)
        seen.steps, seen.sampler, seen.sigmas = shape.steps, shape.sampler, shape.sigmas or seen.sigmas
        return shape.sizes


def _profile(seen: Sequence[RunTotals], left_out: dict[str, str]) -> Profile:
    first = seen[0]
    changes = next((one.changes for one in seen if one.changes is not None), None)
    sites: dict[str, dict[str, dict[str, FeatureTables]]] = {}
    for one in seen:
        for key, tables in one.total.items():
            frames = sites.setdefault(key.site, {}).setdefault(key.branch, {})
            frames[key.frame] = tables.scaled(1.0 / one.pictures)
    ratios, spread = (None, 0.0) if changes is None else changes.ratios(first.steps)
    made: dict[str, Any] = {"ratios_deviation": round(spread, 6)}
    return Profile(
        steps=first.steps,
        sites=sites,
        prompts=first.pictures,
        sketch=max(one.error for one in seen),
        ratios=ratios,
        input_output_changes=None if changes is None else changes.pairs(),
        sampler=first.sampler,
        sigmas=first.sigmas,
        resolution=first.resolution,
        made=made | ({"left_out": left_out} if left_out else {}),
    )


def device_of(module: nn.Module) -> torch.device:
    """Where its parameters are."""
    return next((p.device for p in module.parameters()), torch.device("cpu"))
