"""The runs of an observation: passes over the same batches, each with the sites that fit together."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from functools import partial
from itertools import groupby
from typing import Any

import torch
from torch import nn

import dcache
from dcache.engine.call import Call
from dcache.engine.session import Session, session_of
from dcache.errors import DcacheError, DcacheWarning
from dcache.eval.subject import Subject
from dcache.profile import Profile, Tables
from dcache.search.changes import Changes
from dcache.search.held import Held, Key, not_finite, sketch_error
from dcache.search.passes import MODEL, Pass
from dcache.search.watching import Leaves, watching

Batch = tuple[list[str], list[int]]
Tell = Callable[[str], None]


@dataclass
class Seen:
    """What the runs of one pass gave.

    Attributes:
        total: sums over pictures.
        pictures: how many.
        squares: sum over runs of their squared number of pictures.
        numbers: that a sketch keeps, None where all was kept whole.
        changes: of the trunk, where it is one of the sites.
    """

    changes: Changes | None

    total: dict[Key, Tables] = field(default_factory=dict)
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

    def add(self, key: Key, tables: Tables) -> None:
        """Add the tables of a run."""
        self.total[key] = self.total[key] + tables if key in self.total else tables


@dataclass
class Observer:
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
        seen: list[Seen] = []
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

    def _pass(self, one: Pass, name: str) -> Seen:
        seen = Seen(changes=Changes(self.module) if "trunk" in one.names else None)
        everything = dcache.methods.interval(interval=1, sites=one.names or [MODEL])
        with warnings.catch_warnings():
            # The engine warns where it falls back to other sites than were asked for.
            warnings.simplefilter("error", DcacheWarning)
            with dcache.enabled(self.subject.pipe, everything):
                session = session_of(self.module)
                if session is None:
                    raise DcacheError(f"nothing could be enabled on {type(self.module).__name__}")
                for _, some in groupby(self.batches, lambda batch: len(batch[0])):
                    self._runs(session, one, list(some), seen, name)
        return seen

    def _runs(self, session: Session, one: Pass, batches: list[Batch], seen: Seen, name: str) -> None:
        """Batches of one size: a run to see how much there is to hold, then all of them."""
        model = one.model or not one.sites
        self.tell(f"{name}: how much there is")
        sizes = self._sizes(session, batches[0], model, seen)
        held = Held(sizes, seen.steps, self.cap, device_of(self.module))
        kept = [numbers for numbers in (seen.numbers, held.numbers) if numbers is not None]
        seen.numbers = min(kept, default=None)
        for i, (prompts, seeds) in enumerate(batches):
            self.tell(f"{name}: run {i + 1} of {len(batches)}")
            held.begin(seeds[0])
            with ExitStack() as stack:
                stack.enter_context(watching(session, partial(_see, held, seen.changes), model))
                if seen.changes is not None:
                    stack.enter_context(seen.changes.watching(session))
                self.subject(prompts, seeds)
            for key in sizes:
                seen.add(key, held.tables(key).scaled(float(len(prompts))))
            seen.pictures += len(prompts)
            seen.squares += len(prompts) ** 2

    def _sizes(self, session: Session, batch: Batch, model: bool, seen: Seen) -> dict[Key, int]:
        """Numbers of every feature; and how long the run is, with which sampler and how large a picture."""
        sizes: dict[Key, dict[int, int]] = {}

        def look(site: str, call: Call, value: Leaves, delta: Leaves | None) -> None:
            seen.sigmas = _sigmas(session) or seen.sigmas
            for key, leaves in _keyed(site, call, value, delta):
                if call.observing and not all(bool(leaf.isfinite().all()) for leaf in leaves):
                    # Else the engine's check of itself would be what fails.
                    raise not_finite(key, call.index)
                at = sizes.setdefault(key, {})
                at[call.index] = at.get(call.index, 0) + sum(leaf.numel() for leaf in leaves)

        with watching(session, look, model):
            pictures = self.subject(*batch)
        seen.steps = dcache.stats(self.subject.pipe).steps
        seen.sampler, seen.resolution = session.sampler, tuple(pictures.shape[1:-1])
        if seen.steps < 2:
            raise DcacheError(f"the run has {seen.steps} evaluation: there is nothing to predict")
        if not sizes:
            raise DcacheError(f"{type(self.module).__name__} was not called in the run")
        # Until the first call was checked nobody knows which streams are read by nobody: take the last.
        return {key: at[max(at)] for key, at in sizes.items()}


def _see(
    held: Held, changes: Changes | None, site: str, call: Call, value: Leaves, delta: Leaves | None
) -> None:
    for key, leaves in _keyed(site, call, value, delta):
        held.put(key, call.index, leaves)
    if changes is not None and site == "trunk" and delta:
        changes.see_delta(call, delta[0])


def _keyed(site: str, call: Call, value: Leaves, delta: Leaves | None) -> list[tuple[Key, Leaves]]:
    found = [(Key(site, call.branch.name, "value"), value)]
    return found if delta is None else [*found, (Key(site, call.branch.name, "delta"), delta)]


def _profile(seen: Sequence[Seen], left_out: dict[str, str]) -> Profile:
    first = seen[0]
    changes = next((one.changes for one in seen if one.changes is not None), None)
    sites: dict[str, dict[str, dict[str, Tables]]] = {}
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
        changes=None if changes is None else changes.pairs(),
        sampler=first.sampler,
        sigmas=first.sigmas,
        resolution=first.resolution,
        made=made | ({"left_out": left_out} if left_out else {}),
    )


def _sigmas(session: Session) -> tuple[float, ...]:
    run = session.run
    if run is None or run.count is None or len(run.sigmas) < run.start + run.count:
        return ()
    return tuple(float(s) for s in run.sigmas[run.start : run.start + run.count + 1])


def device_of(module: nn.Module) -> torch.device:
    """Where its parameters are."""
    return next((p.device for p in module.parameters()), torch.device("cpu"))
