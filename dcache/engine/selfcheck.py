"""The self-check: after the first computed call of each signature, replay it with every site predicted.

From what was just stored the same output must come out. If it does not, something between the sites was not
understood, and the session falls back to the whole model, loudly.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import nn

from dcache.engine.call import Call
from dcache.engine.lowering.blocks import RunRegion
from dcache.engine.protocols import Engine
from dcache.engine.region import Region
from dcache.engine.tolerance import TOLERANCE
from dcache.errors import DcacheError
from dcache.intercept.pytree import flatten, same


def self_check(
    engine: Engine,
    regions: Sequence[Region],
    call: Call,
    inner: Callable[..., Any],
    arguments: Any,
    output: Any,
) -> str | None:
    """Replay one call; return None if the outputs agree, else what differs.

    Args:
        engine: the session, with `call` under way.
        regions: everything that remembers inside the denoiser.
        call: the computed call that just ended.
        inner: the denoiser's own call.
        arguments: (args, kwargs) as they were before the call.
        output: what the computed call returned.

    Raises:
        Exception: whatever the replay raises that is not for its predictions (a hook that cancels the call):
            it does not come again, or the call itself raises it too.
    """
    tolerance = _tolerance(regions, output)

    def replayed() -> str | None:
        return _replay(engine, call, inner, arguments, output, tolerance)

    def agrees() -> bool:
        try:
            return replayed() is None
        except Exception as error:
            # A request to cancel may be gone once it was raised.
            if not _fails(replayed, type(error)):
                raise
            # The model reads what was left out.
            return False

    def computed() -> None:
        with engine.resting(), call.again(arguments) as (args, kwargs, _):
            inner(*args, **kwargs)

    try:
        problem = replayed()
    except Exception as error:
        # One that fails where nothing is predicted was cancelled by the user, or memory ran out.
        if not _fails(replayed, type(error)) or _fails(computed, type(error)):
            raise
        return f"a replay with every site predicted failed ({type(error).__name__}: {error})"
    if problem is None:
        drop_dead_leaves(_at_the_end(regions, engine.depth), agrees)
    return problem


def drop_dead_leaves(regions: Iterable[RunRegion], agrees: Callable[[], bool]) -> None:
    """Stop storing what is not read behind the trunk: many models drop the text stream after the last block.

    A leaf is dead if the replay agrees with None in its place.

    Args:
        regions: those whose last block is the trunk's.
        agrees: whether a replay gives the computed output.
    """
    # The output is compared as a whole, so one leaf is left out at a time: a model may read any of them.
    for region in regions:
        if region.history is None or sum(d is not None for d in region.dtypes) < 2 or region.live is not None:
            continue
        live = [True] * len(region.dtypes)
        try:
            for i in range(len(live)):
                live[i] = region.dtypes[i] is None
                region.live = tuple(live)
                live[i] = live[i] or not agrees()
        except BaseException:
            # Ctrl-C: nothing is known of the leaf that was left out.
            region.live = None
            raise
        region.live = tuple(live)
        newest = region.history.leaves[-1]
        region.history.leaves[-1] = tuple(
            leaf if keep else None for leaf, keep in zip(newest, live, strict=True)
        )
        like = region.history.like
        region.history.like = tuple(shape if keep else None for shape, keep in zip(like, live, strict=False))


def _at_the_end(regions: Iterable[Region], depth: int) -> list[RunRegion]:
    return [r for r in regions if isinstance(r, RunRegion) and r.leader is None and r.site.last == depth - 1]


def _replay(
    engine: Engine, call: Call, inner: Callable[..., Any], arguments: Any, output: Any, tolerance: float
) -> str | None:
    # It predicts from the anchors that were just stored, and counts nothing.
    replay = Call(call.branch, call.index, call.tau, checking=True, run=call.run)
    before = engine.call
    engine.call = replay
    try:
        with call.again(arguments) as (args, kwargs, written):
            again = inner(*args, **kwargs)
            writes = written()
    finally:
        engine.call = before
    if writes:
        # The computed call did not: parts that it skips now decide what is written.
        return "a replay with every site predicted writes into the call's arguments"
    if replay.entered:
        return "the last block of a run is not called"
    distance, alike = same(output, again)
    if alike and distance <= tolerance:
        return None
    return (
        f"a replay with every site predicted from what was just stored differs from the computed output "
        f"(relative distance {distance:.2g})"
    )


def _fails(called: Callable[[], object], kind: type[Exception]) -> bool:
    """Whether a call raises an error of a kind."""
    try:
        called()
    except Exception as error:
        return isinstance(error, kind)
    return False


def _tolerance(regions: Iterable[Region], output: Any) -> float:
    dtypes = [leaf.dtype for leaf in flatten(output)[0] if isinstance(leaf, torch.Tensor)]
    for region in regions:
        dtypes += [d for d in (region.codec.store, *region.dtypes) if d is not None]
    return max((TOLERANCE.get(d, 1e-3) for d in dtypes), default=1e-3)


def never_left(module: nn.Module, entered: int) -> DcacheError:
    """The error for runs of blocks that were not entered and left once each.

    Args:
        module: the denoiser.
        entered: runs that were entered and not left; negative where more were left than entered.
    """
    what = (
        "a run of blocks was entered and its last block never called (skip-layer guidance?), so the "
        "prediction had nowhere to go. Choose a run that ends before the blocks that are skipped"
        if entered > 0
        else "the last block of a run was called more often than its first (skip-layer guidance, or a block "
        "that is called twice?), so where the run ends is not known. Choose a run without these blocks"
    )
    return DcacheError(f"{type(module).__name__}: {what}, or sites='model'.")
