"""Observation of one uncached run: collects the features of every site."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, field
from typing import Any, Protocol

import torch
from torch import nn

from dcache.cache.continued import cut
from dcache.engine.call import Call
from dcache.engine.observe import Observer, SiteOutput, observe
from dcache.errors import DcacheError
from dcache.identity.run import Run
from dcache.intercept.pytree import first_tensor, flatten
from dcache.observation.changes import Changes
from dcache.observation.features import FeatureBuffer, Key, not_finite

MODEL = "model"


class See(Protocol):
    """Callback for the output of a site in one call."""

    def __call__(self, site: str, call: Call, output: SiteOutput) -> None:
        """Receive the output; its tensors must not be changed."""


class SiteObserver(Observer):
    """Passes the output of every bound site to a callback; the engine caches nothing meanwhile.

    Args:
        see: called with every site's output in every call; several times for a module that is called several
            times in an evaluation.
        model: pass the output of the whole denoiser too. Its delta is output minus first argument, if that
            has all the channels and tokens of the output.
    """

    stores = False

    def __init__(self, see: See, model: bool = True) -> None:
        self.see = see
        self.model = model
        self.entry: torch.Tensor | None = None

    def on_call(self, call: Call, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """Copy the first argument, because the denoiser may overwrite it."""
        if self.model:
            entry = first_tensor(args, kwargs)
            self.entry = None if entry is None else entry.detach().clone()

    def on_compute(self, site: str, call: Call, output: SiteOutput) -> None:
        """Pass on the site's output."""
        self.see(site, call, output)

    def on_output(self, call: Call, output: Any) -> None:
        """Pass on the denoiser's output."""
        if not self.model:
            return
        leaves = [leaf for leaf in flatten(output)[0] if isinstance(leaf, torch.Tensor)]
        entry, self.entry = self.entry, None
        changes = None
        part = None if not leaves or entry is None else cut(entry, leaves[0])
        if part is not None and part.shape == leaves[0].shape:
            changes = [leaves[0].float() - part.float(), *leaves[1:]]
        self.see(MODEL, call, SiteOutput(leaves, changes, tuple(range(len(leaves)))))


@dataclass
class RunShape:
    """Number of evaluations, sampler and feature sizes of a run.

    Attributes:
        sizes: number of elements of every feature.
        steps: number of evaluations.
        sampler: class name of the sampler, "" for a hand-written loop.
        sigmas: noise levels of the evaluations and the final one, () if the sampler has none.
    """

    sizes: dict[Key, int] = field(default_factory=dict)
    steps: int = 0
    sampler: str = ""
    sigmas: tuple[float, ...] = ()


def shape_of_run(module: nn.Module, run: Callable[[], Any], model: bool = True) -> RunShape:
    """Make one run to measure the sizes of its features.

    Args:
        module: a denoiser with a method enabled that computes everything.
        run: makes the run.
        model: observe the whole denoiser too.

    Raises:
        DcacheError: a feature is not finite, the denoiser was not called, or the run has one evaluation.
    """
    shape = RunShape()
    sizes: dict[Key, dict[int, int]] = {}

    def look(site: str, call: Call, output: SiteOutput) -> None:
        shape.steps = max(shape.steps, call.index + 1)
        if call.run is not None:
            shape.sampler = call.run.sampler or shape.sampler
            shape.sigmas = _sigmas(call.run) or shape.sigmas
        for key, leaves in keyed(site, call, output):
            if call.observing and not all(bool(leaf.isfinite().all()) for leaf in leaves):
                # Raised here, because otherwise the engine's self-check would fail with a less clear error.
                raise not_finite(key, call.index)
            by_step = sizes.setdefault(key, {})
            by_step[call.index] = by_step.get(call.index, 0) + sum(leaf.numel() for leaf in leaves)

    with observe(module, SiteObserver(look, model)):
        run()
    if not sizes:
        raise DcacheError(f"{type(module).__name__} was not called in the run")
    if shape.steps < 2:
        raise DcacheError(f"the run has {shape.steps} evaluation: there is nothing to predict")
    # The first call counts all streams as read, before the engine knows which are: take the last call's size.
    shape.sizes = {key: by_step[max(by_step)] for key, by_step in sizes.items()}
    return shape


def observe_run(
    module: nn.Module,
    run: Callable[[], Any],
    features: FeatureBuffer,
    changes: Changes | None = None,
    model: bool = True,
) -> None:
    """Make one run and store its features.

    Args:
        module: a denoiser with a method enabled that computes everything.
        run: makes the run.
        features: stores the features.
        changes: collects changes of the trunk; None collects none.
        model: observe the whole denoiser too.

    Raises:
        DcacheError: a feature's size changes within the run.
    """

    def put(site: str, call: Call, output: SiteOutput) -> None:
        for key, leaves in keyed(site, call, output):
            features.put(key, call.index, leaves)

    with ExitStack() as stack:
        stack.enter_context(observe(module, SiteObserver(put, model)))
        if changes is not None:
            stack.enter_context(changes.watching(module))
        run()


def keyed(site: str, call: Call, output: SiteOutput) -> list[tuple[Key, Sequence[torch.Tensor]]]:
    """The features of one output with their keys: its value, and its delta if there is one."""
    value = (Key(site, call.branch.name, "value"), output.values)
    if output.changes is None:
        return [value]
    return [value, (Key(site, call.branch.name, "delta"), output.changes)]


def _sigmas(run: Run) -> tuple[float, ...]:
    if run.count is None or len(run.sigmas) < run.start + run.count:
        return ()
    return tuple(float(s) for s in run.sigmas[run.start : run.start + run.count + 1])
