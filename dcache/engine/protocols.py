"""Protocols by which the parts of the engine use each other, so that none imports a part above it."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Mapping, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import nn

from dcache.cache.history import History
from dcache.engine.call import Call
from dcache.engine.observe import Observer
from dcache.engine.run_state import RunState
from dcache.identity.callers import CallMark
from dcache.identity.run import Run
from dcache.identity.tracker import RunTracker
from dcache.method import Method
from dcache.predictors import Predictor
from dcache.sites.site import Site
from dcache.sites.streams import StreamTracer


class Lowered(Protocol):
    """A site of one model with its intercepts.

    Attributes:
        site: the site.
        key: the key of its history in a branch.
        history: the history of the call under way, None before it is decided.
    """

    site: Site
    key: str
    history: History | None

    @property
    def has_history(self) -> bool:
        """True if there is an anchor to predict from."""
        ...

    def decide(self, call: Call) -> bool:
        """True if the site is predicted in this call. The first call of this method decides."""

    def release(self) -> None:
        """Drop all tensors at the end of a run."""
        ...


class Memory(Protocol):
    """The memory limit of a denoiser's histories."""

    @property
    def short(self) -> bool:
        """True if an anchor was refused since the limit was last checked."""
        ...

    def admits(
        self,
        call: Call,
        history: History,
        opened: Sequence[torch.Tensor | None],
        leaves: Sequence[torch.Tensor | None],
        store: torch.dtype | None,
    ) -> bool:
        """Reserve the memory of an anchor; False if it may not be stored.

        Args:
            call: the call under way.
            history: the history of the anchor.
            opened: the result of `Codec.open` for each output.
            leaves: the outputs to store, None for those that are not stored.
            store: store dtype of floating-point outputs, None for their own.
        """
        ...

    def admits_probe(self, call: Call, x: torch.Tensor) -> bool:
        """True if the change indicator may keep a tensor of this size."""
        ...


class Batched(Protocol):
    """Predictions of many sites in one launch, as `engine.batched_sums.BatchedSums` computes them."""

    def leaves(self, region: Any, call: Call) -> list[torch.Tensor | None] | None:
        """The predicted outputs of a region; None if the region has to compute them itself."""
        ...


class Tuned(Protocol):
    """A session whose method follows from runs that were observed.

    Attributes:
        module: the denoiser.
        method: the method of the run under way, or of the last one.
        state: that run.
        owners: the pipelines that the denoiser is part of.
        tracker: knows the samplers of these.
        several_sites: True if more than one site is bound.
    """

    module: nn.Module
    method: Method
    state: RunState
    owners: list[Owner]
    tracker: RunTracker
    several_sites: bool

    @property
    def component(self) -> str:
        """The denoiser's name in its pipeline, "" for a bare module."""
        ...

    @property
    def guidance(self) -> float | None:
        """The guidance scale of the last call, None if unknown."""
        ...

    @property
    def observers(self) -> list[Observer]:
        """Observers of the denoiser."""
        ...

    @property
    def compiled(self) -> bool:
        """True if blocks of the denoiser are compiled."""
        ...

    def adopt(self, method: Method) -> None:
        """Use another method with the same sites from the next call on."""
        ...

    def warn(self, text: str) -> None:
        """Warn once per session and text."""
        ...


class Tuner(Protocol):
    """Chooses the method of each run from earlier runs like it, as `dcache.observation.tuning` does."""

    def attach(self, session: Tuned) -> None:
        """Caching was enabled on a pipeline's denoiser, and its session knows the pipeline."""
        ...

    def detach(self) -> None:
        """Caching was taken off the denoiser."""
        ...

    def begin(self, session: Tuned, run: Run, args: Sequence[Any], kwargs: Mapping[str, Any]) -> None:
        """A run opened: have the session adopt the method for it.

        Args:
            session: its session.
            run: the run.
            args: positional arguments of its first call.
            kwargs: keyword arguments of its first call.
        """
        ...

    def end(self, session: Tuned, run: Run, whole: bool) -> None:
        """A run is over: plan from it if it was observed.

        Args:
            session: its session.
            run: the run.
            whole: whether it came to its end.
        """
        ...


class Weights(Protocol):
    """A cache of weights, as `engine.weight_cache.WeightCache`."""

    def weights(
        self, predictor: Predictor, taus: Sequence[float], steps: Sequence[int], tau: float
    ) -> list[float]:
        """As `Predictor.weights`; the result must not be changed."""
        ...


class Engine(Protocol):
    """The session, as its regions and intercepts use it.

    Attributes:
        module: the denoiser.
        method: the method; a memory limit may degrade it.
        call: the denoiser's call under way, None outside of one.
        state: state of the run under way, or of the last one.
        tracer: traces of the blocks' calls.
        several_sites: True if more than one site is bound.
        depth: number of blocks of the denoiser's trunk.
        owners: the pipelines that the denoiser is part of.
    """

    module: nn.Module
    method: Method
    call: Call | None
    state: RunState
    tracer: StreamTracer
    several_sites: bool
    depth: int
    owners: list[Owner]

    @property
    def memory(self) -> Memory | None:
        """The memory limit of the histories, or None."""
        ...

    @property
    def observers(self) -> list[Observer]:
        """Observers of the denoiser; usually empty."""
        ...

    @property
    def batched(self) -> Batched:
        """Predictions of many sites in one launch."""
        ...

    @property
    def weight_cache(self) -> Weights:
        """The cache of the last weights."""
        ...

    @property
    def predicts(self) -> Callable[[Lowered, Call], bool]:
        """Decides whether a site is predicted in a call, and counts the decision."""
        ...

    @property
    def show(self) -> Callable[..., None]:
        """Passes the probe's tensor to the branch's change indicator: `show(call, x, own=False)`."""
        ...

    def resting(self) -> AbstractContextManager[None]:
        """Inside this block, intercepts pass calls through untouched."""
        ...

    def warn(self, text: str) -> None:
        """Warn once per session and text."""
        ...


class Owner(Protocol):
    """The intercept of a pipeline that contains a session's denoiser.

    Attributes:
        pipe: the pipeline.
    """

    pipe: weakref.ref[Any]

    @property
    def watch(self) -> Any:
        """The watch on the pipeline where it has no method that could hold one, else None."""
        ...

    @property
    def ends_itself(self) -> bool:
        """True if the end of the pipeline's call is intercepted."""
        ...

    @property
    def guidance(self) -> float | None:
        """The guidance scale of the pipeline's last call, None if unknown."""
        ...

    def call_frame(self) -> CallMark | None:
        """What tells its call under way from others, where that can be known; else None."""
        ...

    def follow(self, session: Any) -> None:
        """Move the session if its denoiser was replaced in the pipeline."""
        ...


class Shown(Protocol):
    """The runs of the threads."""

    def shown(self) -> RunState:
        """This thread's run, or the newest one of all where it has none."""
        ...


class Traced(Protocol):
    """A session, as a trace reads it."""

    module: nn.Module
    method: Method

    @property
    def lanes(self) -> Shown:
        """The runs of the threads."""
        ...

    @property
    def guidance(self) -> float | None:
        """The guidance scale of the last call, None if unknown."""
        ...
