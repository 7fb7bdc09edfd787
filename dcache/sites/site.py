"""The parts of a model that can be remembered: sites, and what discovery finds behind them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import nn

from dcache.sites.names import RUN_KINDS


@dataclass(frozen=True)
class Site:
    """One region. `first` and `last` are block depths (skip level for brackets), both included."""

    name: str
    kind: str
    first: int = 0
    last: int = 0

    @property
    def is_run(self) -> bool:
        """Whether it covers whole blocks of the trunk."""
        return self.kind in RUN_KINDS


@dataclass(frozen=True, eq=False)
class Sublayer:
    """A sublayer module found inside a block; `hollow` modules need not run when it is predicted."""

    name: str
    kind: str
    depth: int
    module: nn.Module
    hollow: tuple[nn.Module, ...] = ()


@dataclass(frozen=True, eq=False)
class Skip:
    """One skip connection of a UNet: what runs strictly between its source and its sink.

    Attributes:
        sink: the module whose first argument is the channel concatenation (inner, skip).
        channels: channels of the skip at the end of that argument.
        inside: outermost modules of the region, in execution order.
    """

    sink: nn.Module
    channels: int
    inside: tuple[nn.Module, ...]


class LongSkip(NamedTuple):
    """A long skip between two blocks of the trunk: the sink is also given what the source returned."""

    source: int
    sink: int
