"""The self-check: after the first computed call of each signature, replay it with every site predicted.

From what was just stored the same output must come out. If it does not, something between the sites was not
understood, and the session falls back to the whole model, loudly.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any

import torch

from dcache.engine.lowering.blocks import RunRegion
from dcache.engine.tolerance import TOLERANCE
from dcache.intercept.pytree import copy_containers, flatten, gpus, same

if TYPE_CHECKING:
    from dcache.engine.call import Call
    from dcache.engine.session import Session


def self_check(session: Session, call: Call, inner: Callable[..., Any], kept: Any, output: Any) -> str | None:
    """Replay one call; return None if the outputs agree, else what was found.

    Args:
        session: the session, with `call` under way.
        call: the computed call that just ended.
        inner: the denoiser's own call.
        kept: (args, kwargs) as they were before the call.
        output: what the computed call returned.
    """
    if session.binding.whole is not None:
        return None
    problem = _replay(session, call, inner, kept, output)
    if problem is None:
        drop_dead_leaves(session, lambda: _replay(session, call, inner, kept, output) is None)
    return problem


def drop_dead_leaves(session: Session, agrees: Callable[[], bool]) -> None:
    """Stop storing what nobody reads behind the trunk: many models drop the text stream after the last block.

    A leaf is dead if the replay agrees with None in its place.
    """
    for region in session.binding.regions:
        if not isinstance(region, RunRegion) or region.site.last != len(session.binding.structure.blocks) - 1:
            continue
        if region.history is None or sum(d is not None for d in region.dtypes) < 2 or region.live is not None:
            continue
        live = [True] * len(region.dtypes)
        for i in range(len(live)):
            live[i] = region.dtypes[i] is None
            region.live = tuple(live)
            live[i] = live[i] or not agrees()
        region.live = tuple(live)
        newest = region.history.leaves[-1]
        region.history.leaves[-1] = tuple(
            leaf if keep else None for leaf, keep in zip(newest, live, strict=True)
        )
        like = region.history.like
        region.history.like = tuple(one if keep else None for one, keep in zip(like, live, strict=False))


def _replay(session: Session, call: Call, inner: Callable[..., Any], kept: Any, output: Any) -> str | None:
    replay = type(call)(call.branch, call.index, call.tau, checking=True)
    before = session.call
    session.call = replay
    try:
        with torch.random.fork_rng(gpus(*kept)):
            again = inner(*copy_containers(kept[0]), **copy_containers(kept[1]))
    except Exception as error:
        return f"a replay with every site predicted failed ({type(error).__name__}: {error})"
    finally:
        session.call = before
    if replay.entered:
        return "the last block of a run is not called"
    distance, alike = same(output, again)
    if alike and distance <= _tolerance(session, output):
        return None
    return (
        f"a replay with every site predicted from what was just stored differs from the computed output "
        f"(relative distance {distance:.2g})"
    )


def _tolerance(session: Session, output: Any) -> float:
    dtypes = [leaf.dtype for leaf in flatten(output)[0] if isinstance(leaf, torch.Tensor)]
    dtypes += [d for r in session.binding.regions if r.codec.store is not None for d in [r.codec.store]]
    dtypes += [d for r in session.binding.regions for d in r.dtypes if d is not None]
    return max((TOLERANCE.get(d, 1e-3) for d in dtypes), default=1e-3)
