"""Sublayers whose outputs are mixed with stored ones: out = (1 - w) old + w new (HarmoniCa's training).

With w = 1 everywhere that is the model, bit for bit; with w in {0, 1} it is the schedule that computes where
w = 1 and reuses elsewhere.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import nn

from dcache.engine.call import Call
from dcache.engine.observe import Observer
from dcache.intercept.module_call import ModuleIntercept
from dcache.intercept.pytree import copy_containers, flatten, rebuild
from dcache.sites.site import Sublayer

# The stored output is replaced where w is above it, as published.
THRESHOLD = 0.1


class Step(Protocol):
    """What is done with the denoiser in one call."""

    def __call__(self, index: int, compute: Callable[[torch.Tensor | None], torch.Tensor]) -> torch.Tensor:
        """The output that the sampler is given.

        Args:
            index: the evaluation.
            compute: the denoiser's first output with weights (S,), one for each site; None mixes nothing.
        """
        ...


class SoftSites(Observer):
    """Mixes the outputs of sublayers of one denoiser.

    Args:
        module: the denoiser, on which caching is enabled, so that its evaluations are numbered.
        sublayers: the sites.
        step: called in place of the denoiser.
        threshold: as `THRESHOLD`.
    """

    sees_outputs = False

    def __init__(
        self, module: nn.Module, sublayers: Sequence[Sublayer], step: Step, threshold: float = THRESHOLD
    ) -> None:
        self.module, self.step, self.threshold = module, step, threshold
        self.sublayers = list(sublayers)
        self.call: Call | None = None
        self.weights: torch.Tensor | None = None
        self.mixed: list[float] = []
        # Branch -> site -> stored leaves.
        self.stored: dict[str, dict[int, list[Any]]] = {}
        self.branch = ""

    @contextmanager
    def installed(self) -> Iterator[None]:
        """Inside this block the denoiser's calls go through `step`."""
        intercepts = [_SoftSublayer(s.module, self, i) for i, s in enumerate(self.sublayers)]
        around = _SteppedCall(self.module, self)
        # Behind the engine, which numbers the evaluations.
        around.install_behind()
        for intercept in intercepts:
            # The model itself may be the only site: what is mixed is its output.
            intercept.install_behind() if intercept.module is self.module else intercept.install()
        try:
            yield
        finally:
            for intercept in reversed(intercepts):
                intercept.remove()
            around.remove()
            self.stored = {}

    def on_call(self, call: Call, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """A call begins; a run begins without stored outputs."""
        self.call, self.branch = call, call.branch.name
        if call.index == 0:
            self.stored[self.branch] = {}

    def denoise(self, inner: Callable[..., Any], args: Any, kwargs: Any) -> Any:
        """The denoiser's call: its first output is what `step` returns."""
        call, self.call = self.call, None
        if call is None:
            # The engine's own call of a first evaluation, made once more.
            return inner(*args, **kwargs)
        last: dict[str, Any] = {}

        def compute(weights: torch.Tensor | None) -> torch.Tensor:
            self.weights = weights
            self.mixed = [] if weights is None else weights.detach().tolist()
            try:
                given, named = copy_containers(args), copy_containers(kwargs)
                leaves, last["recipe"] = flatten(inner(*given, **named))
            finally:
                self.weights = None
            last["rest"] = leaves[1:]
            first: torch.Tensor = leaves[0]
            return first

        output = self.step(call.index, compute)
        return rebuild([output, *last["rest"]], last["recipe"])

    def mix(self, site: int, output: Any) -> Any:
        """The output of a site, mixed with the stored one."""
        weights = self.weights
        if weights is None:
            return output
        leaves, recipe = flatten(output)
        stored = self.stored[self.branch].get(site)
        w = weights[site]
        results = [
            leaf if stored is None or not isinstance(leaf, torch.Tensor) else (1 - w) * old + w * leaf
            for leaf, old in zip(leaves, stored or leaves, strict=True)
        ]
        if stored is None or self.mixed[site] > self.threshold:
            kept = [x.detach().clone() if isinstance(x, torch.Tensor) else x for x in leaves]
            self.stored[self.branch][site] = kept
        return rebuild(results, recipe)


class _SteppedCall(ModuleIntercept):
    """In front of the denoiser."""

    name = "soft call"

    def __init__(self, module: nn.Module, sites: SoftSites) -> None:
        super().__init__(module)
        self.sites = sites

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Stand in for the denoiser's call."""
        return self.sites.denoise(self.inner, args, kwargs)


class _SoftSublayer(ModuleIntercept):
    """In front of one sublayer."""

    name = "soft"

    def __init__(self, module: nn.Module, sites: SoftSites, site: int) -> None:
        super().__init__(module)
        self.sites, self.site = sites, site

    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        """Call the sublayer, and mix its output."""
        return self.sites.mix(self.site, self.inner(*args, **kwargs))
