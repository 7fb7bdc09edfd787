"""What the sites of one denoiser give in a run in which everything is computed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any, Protocol

import torch
from torch import nn

from dcache.engine.call import Call
from dcache.engine.region import Region
from dcache.engine.session import Session
from dcache.intercept.pytree import first_tensor, flatten

Leaves = Sequence[torch.Tensor]
MODEL = "model"


class See(Protocol):
    """Takes what a site gave in one call."""

    def __call__(self, site: str, call: Call, value: Leaves, delta: Leaves | None) -> None:
        """Its outputs that somebody reads, and their changes where the site's codec remembers these."""


@contextmanager
def watching(session: Session, see: See, model: bool = True) -> Iterator[None]:
    """Let `see` look at every site bound in a session, which does not remember anything meanwhile.

    Only the first call of a signature remembers, for the engine's check of itself. A module that is called
    several times in an evaluation is seen several times.

    Args:
        session: whose method computes everything; its regions are watched until they are bound anew.
        see: called with outputs that must not be changed.
        model: show the whole denoiser too; its change is that of its first argument, where the shapes agree.
    """
    watched: list[Region] = []
    for region in session.binding.regions:
        _watch(region, region.site.name, see, watched)
    hooks = _model_hooks(session, see) if model else []
    try:
        yield
    finally:
        for hook in hooks:
            hook.remove()
        for region in watched:
            del vars(region)["remember"], vars(region)["next_of"]


def _watch(region: Region, site: str, see: See, watched: list[Region]) -> None:
    remember, next_of = region.remember, region.next_of
    watched.append(region)

    def remembered(call: Call, opened: Sequence[torch.Tensor | None], leaves: Sequence[Any]) -> None:
        if not call.checking:
            see(site, call, *_frames(region, opened, leaves))
        if call.observing:
            remember(call, opened, leaves)

    def next_one(call: Call) -> Region:
        found = next_of(call)
        if found not in watched:
            _watch(found, site, see, watched)
        return found

    vars(region).update(remember=remembered, next_of=next_one)


def _frames(
    region: Region, opened: Sequence[torch.Tensor | None], leaves: Sequence[Any]
) -> tuple[Leaves, Leaves | None]:
    live = region.live or (True,) * len(leaves)
    chosen = [i for i, leaf in enumerate(leaves) if isinstance(leaf, torch.Tensor) and live[i]]
    value = [leaves[i] for i in chosen]
    if not region.codec.is_delta:
        return value, None
    # An output that continues no input is remembered as it is.
    entries = [opened[i] if i < len(opened) else None for i in chosen]
    return value, [
        leaf if entry is None else entry.float() + leaf.float()
        for leaf, entry in zip(value, entries, strict=True)
    ]


def _model_hooks(session: Session, see: See) -> list[Any]:
    entries: list[torch.Tensor | None] = []

    def before(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        entry = first_tensor(args, kwargs)
        entries[:] = [None if entry is None else entry.detach().clone()]

    def after(_: nn.Module, __: Any, output: Any) -> None:
        call = session.call
        if call is None or call.checking:
            return
        leaves = [leaf for leaf in flatten(output)[0] if isinstance(leaf, torch.Tensor)]
        entry = entries.pop() if entries else None
        alike = bool(leaves) and entry is not None and entry.shape == leaves[0].shape
        change = [leaves[0].float() - entry.float(), *leaves[1:]] if alike and entry is not None else None
        see(MODEL, call, leaves, change)

    module = session.module
    return [
        module.register_forward_pre_hook(before, with_kwargs=True),
        module.register_forward_hook(after),
    ]
