"""Probes: the tensor that a dynamic rule reads, and the change indicator that measures its change.

| where       | the probe's tensor                                                     | source              |
|-------------|------------------------------------------------------------------------|---------------------|
| `front`     | output minus input of the first `blocks` blocks                        | FBCache, DBCache    |
| `modulated` | input of the first block's attention, after norm and modulation        | TeaCache            |
| `input`     | channels and tokens of the denoiser's input that its output continues  | EasyCache, SeaCache |
| `frames`    | the change of the latents of the block of frames that is decided about | FlowCache           |

Each guidance branch has its indicator, which keeps copies of the probe's tensors. The change is computed,
with one device sync, only when a rule reads it; guards that come before that rule need no sync.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from dcache.errors import DcacheError
from dcache.kernels.changes import Sums, changes
from dcache.util.renamed import renamed

WHERE = ("front", "modulated", "input", "frames")
# Called with binding, engine and probe; `dcache.engine.bind` has the functions for `WHERE`.
Attach = Callable[[Any, Any, Any], None]
_registered: dict[str, Attach] = {}


def register(where: str, attach: Attach) -> None:
    """Register another place for probes, so that `Probe(where)` can be made and bound.

    Args:
        where: name of the place, as in `Probe`.
        attach: called with binding, engine and probe when a method is bound to a model. It adds intercepts to
            `binding.intercepts` that pass the probe's tensor to `engine.show(engine.call, tensor)`.

    Raises:
        DcacheError: another place is registered under this name.
    """
    if where in WHERE or _registered.get(where, attach) is not attach:
        raise DcacheError(f"a place of probes named {where!r} is registered already: choose another name")
    _registered[where] = attach


def attacher(where: str) -> Attach | None:
    """The function that attaches a probe at a registered place, or None if the name is not registered."""
    return _registered.get(where)


class SinceCompute:
    """Relative L1 change of the probe since the last computed evaluation: mean|now - then| / mean|then|.

    Attributes:
        now: the probe's tensor in the current evaluation, or None.
        then: the tensor it is compared with, or None.
        max_tensors: most tensors of the probe's size that the indicator keeps, `now` included.
        total: adds the sums of the other processes where each has a part of the tensor, None where one has
            all of it.
    """

    max_tensors = 2
    total: Callable[[Sums], Sums] | None = None

    def __init__(self) -> None:
        self.now: torch.Tensor | None = None
        self.then: torch.Tensor | None = None

    def update(self, x: torch.Tensor, logsnr: float | None) -> None:
        """Take the probe's tensor of the current evaluation.

        Args:
            x: the tensor; the indicator keeps it without a copy.
            logsnr: log signal-to-noise ratio of the evaluation, None if unknown.
        """
        self.now = x

    def change(self) -> float:
        """The relative change, infinite if there is nothing to compare with. One device sync."""
        if self.now is None or self.then is None:
            return float("inf")
        sums = changes(self.now, self.then, ("distance", "length"))
        return float((sums if self.total is None else self.total(sums)).relative())

    def end_step(self, computed: bool, output: Any) -> None:
        """End the current evaluation.

        Args:
            computed: whether any site was computed in it.
            output: the denoiser's output.
        """
        if computed:
            self.then = self.now
        self.now = None

    def tensors(self) -> Iterable[torch.Tensor]:
        """All tensors that the indicator keeps, for counting bytes."""
        return [t for t in (self.now, self.then) if t is not None]

    def capacity(self) -> Iterable[torch.Tensor]:
        """Tensors of the sizes and number that will be kept once all are there; read after one evaluation."""
        return self.tensors()


class SinceStep(SinceCompute):
    """The same change since the previous evaluation, computed or predicted."""

    def end_step(self, computed: bool, output: Any) -> None:
        """Keep this evaluation's tensor for the next comparison."""
        self.then, self.now = self.now, None


class FrameChange(SinceCompute):
    """The change of one block of frames, which the site `frames` measures and passes on."""

    max_tensors = 1

    def change(self) -> float:
        """The change that was passed on, infinite where there is none."""
        return float("inf") if self.now is None else float(self.now)

    def end_step(self, computed: bool, output: Any) -> None:
        """End the current evaluation; nothing is kept."""
        self.now = None


@dataclass(frozen=True)
class Probe:
    """The tensor that a dynamic rule reads, and how its change is measured.

    Attributes:
        where: one of `WHERE`, or a registered place.
        blocks: for "front", the number of leading blocks; they are always computed.
        indicator: makes the change indicator of a branch.
    """

    where: str = "front"
    blocks: int = 1
    indicator: Callable[[], SinceCompute] = SinceCompute

    def __post_init__(self) -> None:
        """Check the fields.

        Raises:
            DcacheError: the place is unknown, or `blocks` is no whole number above 0.
        """
        known = (*WHERE, *_registered)
        if self.where not in known:
            raise DcacheError(f"a probe's place must be one of {', '.join(known)}, got {self.where!r}")
        if not isinstance(self.blocks, int) or isinstance(self.blocks, bool) or self.blocks < 1:
            raise DcacheError(f"a probe's blocks must be a whole number of at least 1, got {self.blocks!r}")


class AttentionInputSeenError(Exception):
    """Ends a run of the first block once the input of its attention was read."""


if not TYPE_CHECKING:
    __getattr__ = renamed(__name__, {"Gauge": "SinceCompute", "StepGauge": "SinceStep"})
