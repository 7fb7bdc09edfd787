"""Regions of a model that can be cached: sites, and the modules and skips that discovery finds for them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

from torch import nn

from dcache.sites.names import RUN_KINDS


@dataclass(frozen=True)
class Site:
    """One region of a model.

    Attributes:
        name: as in `dcache.sites.structure`.
        kind: "model", "guidance", "frames", "trunk", "run", "block", "bracket", or a kind of sublayer.
        first: depth of the first block; of a bracket, its skip's level; of frames, their block's number.
        last: depth of the last block, included.
    """

    name: str
    kind: str
    first: int = 0
    last: int = 0

    @property
    def is_run(self) -> bool:
        """True if it covers whole blocks of the trunk."""
        return self.kind in RUN_KINDS


@dataclass(frozen=True, eq=False)
class Sublayer:
    """A sublayer of a block.

    Attributes:
        name: the site's name.
        kind: "attn", "cross_attn", "mlp" or "fused".
        depth: depth of its block.
        module: the module whose output is cached.
        feeders: modules that only feed `module`, and do not run when its output is predicted.
        block: the block that it is found in by structure; None where a row declares it.
        method: the method of `module` whose result is cached, "" where it is the module's own output.
    """

    name: str
    kind: str
    depth: int
    module: nn.Module
    feeders: tuple[nn.Module, ...] = ()
    block: nn.Module | None = None
    method: str = ""


@dataclass(frozen=True, eq=False)
class Skip:
    """One skip connection of a UNet, and the region strictly between its source and its sink.

    Attributes:
        sink: the module whose first argument is the channel concatenation (inner, skip).
        channels: channels of the skip at the end of that argument.
        inside: outermost modules of the region, in execution order.
    """

    sink: nn.Module
    channels: int
    inside: tuple[nn.Module, ...]


class LongSkip(NamedTuple):
    """A long skip: the block at depth `sink` also reads the output of the block at depth `source`."""

    source: int
    sink: int
