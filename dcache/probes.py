"""Probes: the tensor that a dynamic rule looks at, and the change indicator that measures it.

| where       | the indicator's tensor                                         | source              |
|-------------|----------------------------------------------------------------|---------------------|
| `front`     | output minus input of the first `blocks` blocks                | FBCache, DBCache  |
| `modulated` | what the first block gives its attention (norm and modulation) | TeaCache          |
| `input`     | the denoiser's first tensor argument                           | EasyCache, SeaCache |

An indicator belongs to one guidance branch. It keeps tensors of its own and reads them, with one sync, only
when a rule asks for the change; the guards before that rule cost nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch

from dcache.errors import DcacheError
from dcache.kernels.changes import relative_change
from dcache.util.renamed import renamed

WHERE = ("front", "modulated", "input")
# Attaches a probe, given the binding, the engine and the probe: `dcache.engine.bind` has those of `WHERE`.
Attach = Callable[[Any, Any, Any], None]
_registered: dict[str, Attach] = {}


def register(where: str, attach: Attach) -> None:
    """Make another place of probes known by name, so that `Probe(where)` can be made and bound.

    Args:
        where: as in `Probe`.
        attach: called with binding, engine and probe when a method is bound to a model. It adds intercepts to
            `binding.intercepts` which hand what they see to `engine.show(engine.call, tensor)`.

    Raises:
        DcacheError: another place has this name.
    """
    if where in WHERE or _registered.get(where, attach) is not attach:
        raise DcacheError(f"a place of probes named {where!r} is registered already: choose another name")
    _registered[where] = attach


def attacher(where: str) -> Attach | None:
    """What attaches a probe at a registered place; None where there is none of this name."""
    return _registered.get(where)


class SinceCompute:
    """Relative L1 change, mean|now - then| / mean|then|, of what is seen since the last computed evaluation.

    Attributes:
        now: what is seen in the evaluation under way, or None.
        then: what it is compared with, or None.
        most: tensors like the one it sees that it holds at most, with that one.
    """

    max_tensors = 2

    def __init__(self) -> None:
        self.now: torch.Tensor | None = None
        self.then: torch.Tensor | None = None

    def update(self, x: torch.Tensor, logsnr: float | None) -> None:
        """Take what the probe sees now; the tensor is the indicator's to keep.

        Args:
            x: the probe's tensor.
            logsnr: log signal-to-noise ratio of the evaluation, where it is known.
        """
        self.now = x

    def change(self) -> float:
        """How much it has changed; infinite where there is nothing to compare with. One sync."""
        if self.now is None or self.then is None:
            return float("inf")
        return float(relative_change(self.now, self.then))

    def end_step(self, computed: bool, output: Any) -> None:
        """The evaluation is over.

        Args:
            computed: whether any site was computed in it.
            output: what the denoiser returned.
        """
        if computed:
            self.then = self.now
        self.now = None

    def tensors(self) -> Iterable[torch.Tensor]:
        """Every tensor held."""
        return [t for t in (self.now, self.then) if t is not None]

    def capacity(self) -> Iterable[torch.Tensor]:
        """After one evaluation: tensors like those that will be held, each as often as there will be."""
        return self.tensors()


class SinceStep(SinceCompute):
    """The same since the evaluation before, computed or not."""

    def end_step(self, computed: bool, output: Any) -> None:
        """See class."""
        self.then, self.now = self.now, None


@dataclass(frozen=True)
class Probe:
    """Where a dynamic rule looks.

    Attributes:
        where: one of `WHERE`, or a registered place.
        blocks: for "front", the number of leading blocks; they are always computed.
        indicator: makes the indicator of one branch.
    """

    where: str = "front"
    blocks: int = 1
    indicator: Callable[[], SinceCompute] = SinceCompute

    def __post_init__(self) -> None:
        """Check the fields."""
        known = (*WHERE, *_registered)
        if self.where not in known:
            raise DcacheError(f"a probe sits at one of {', '.join(known)}, got {self.where!r}")
        if not isinstance(self.blocks, int) or isinstance(self.blocks, bool) or self.blocks < 1:
            raise DcacheError(
                f"a probe looks at a whole number of at least 1 leading blocks, got {self.blocks!r}"
            )


class AttentionInputSeenError(Exception):
    """The first block was run as far as its attention, which is all that the probe wanted."""


if not TYPE_CHECKING:
    __getattr__ = renamed(__name__, {"Gauge": "SinceCompute", "StepGauge": "SinceStep"})
