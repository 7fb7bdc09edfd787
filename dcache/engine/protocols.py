"""What the parts of the engine know of each other: protocols, so that none imports a part above it."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from typing import Any, Protocol

import torch
from torch import nn

from dcache.cache.history import History
from dcache.engine.call import Call
from dcache.engine.observe import Observer
from dcache.engine.run_state import RunState
from dcache.method import Method
from dcache.predictors import Predictor
from dcache.sites.site import Site
from dcache.sites.streams import StreamTracer


class Lowered(Protocol):
    """A site as it was made skippable in one model."""

    site: Site
    key: str
    history: History | None

    @property
    def has_history(self) -> bool:
        """Whether there is anything to predict from."""
        ...

    def decide(self, call: Call) -> bool:
        """Whether the site is predicted in this call; settled when it is first asked."""
        ...

    def release(self) -> None:
        """The run is over: drop its tensors."""
        ...


class Memory(Protocol):
    """The memory that a denoiser's histories may take; None in its place where there is no limit."""

    @property
    def short(self) -> bool:
        """Whether something could not be remembered lately."""
        ...

    def admits(
        self,
        call: Call,
        history: History,
        opened: Sequence[torch.Tensor | None],
        leaves: Sequence[torch.Tensor | None],
        store: torch.dtype | None,
    ) -> bool:
        """Whether an anchor may be stored; noted as held if so.

        Args:
            call: the call under way.
            history: where it will be.
            opened: what the codec took of each leaf's input, or None.
            leaves: what is to be stored, None for leaves that are not.
            store: what floating-point leaves are kept in, None for their own dtype.
        """
        ...

    def admits_probe(self, call: Call, x: torch.Tensor) -> bool:
        """Whether the change indicator may keep a tensor like this one."""
        ...


class Batched(Protocol):
    """Sums of many sites, made together."""

    def leaves(self, region: Any, call: Call) -> list[torch.Tensor | None] | None:
        """The predicted leaves of a region, or None if it is to sum alone."""
        ...


class Weights(Protocol):
    """The weights that were computed last."""

    def weights(
        self, predictor: Predictor, taus: Sequence[float], steps: Sequence[int], tau: float
    ) -> list[float]:
        """As `Predictor.weights`; not to be written to."""
        ...


class Engine(Protocol):
    """What a region and its intercepts know of the session that they belong to.

    Attributes:
        module: the denoiser.
        method: the method; it may be lowered to stay within the memory.
        call: the call of the denoiser under way, None outside of one.
        state: the run under way, or the last one.
        memory: the limit of its histories, or None.
        tracer: what was seen of the blocks' calls.
        observers: who watches; mostly none.
        batched: the sums of many sites.
        weight_cache: the weights that were computed last.
        several: whether more than one site is bound.
        depth: number of blocks of the denoiser's trunk.
    """

    module: nn.Module
    method: Method
    call: Call | None
    state: RunState
    tracer: StreamTracer
    several_sites: bool
    depth: int

    @property
    def memory(self) -> Memory | None:
        """The limit of the histories, or None."""
        ...

    @property
    def observers(self) -> list[Observer]:
        """Who watches the denoiser."""
        ...

    @property
    def batched(self) -> Batched:
        """The sums of many sites."""
        ...

    @property
    def weight_cache(self) -> Weights:
        """The weights that were computed last."""
        ...

    @property
    def predicts(self) -> Callable[[Lowered, Call], bool]:
        """Decides whether a site is predicted, and counts the decision."""
        ...

    @property
    def show(self) -> Callable[..., None]:
        """Shows the branch's change indicator what the probe sees: `show(call, x, own=False)`."""
        ...

    def resting(self) -> AbstractContextManager[None]:
        """Inside this block, intercepts pass calls through untouched."""
        ...

    def warn(self, text: str) -> None:
        """Warn once per session and text."""
        ...


class Owner(Protocol):
    """A pipeline that a session's denoiser is part of.

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
        """Whether the pipeline says when its call is over."""
        ...

    @property
    def guidance(self) -> float | None:
        """The guidance scale of its last call, where it keeps it."""
        ...

    def call_frame(self) -> int | None:
        """Identity of the frame of its call under way, where it ends its calls itself; else None."""
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
    """What a trace is made of: a session."""

    module: nn.Module
    method: Method

    @property
    def lanes(self) -> Shown:
        """The runs of the threads."""
        ...

    @property
    def guidance(self) -> float | None:
        """The guidance scale of the last call, where it is known."""
        ...
