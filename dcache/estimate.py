"""`memory_estimate`: what a method's histories will hold, from one evaluation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from dcache.cache.history import tensors_of
from dcache.errors import DcacheError
from dcache.identity.denoisers import denoisers

if TYPE_CHECKING:
    from dcache.method import Method
    from dcache.schedule import Schedule


_GUIDANCE_LEARNED = 2


class _EnoughError(Exception):
    """One evaluation of every denoiser was seen."""


def estimate(target: Any, method: Method | Schedule, call_kwargs: dict[str, Any]) -> int:
    """Bytes of the histories once they are full (order + 1 anchors per site and branch)."""
    from dcache import api as wrap

    found = denoisers(target)
    if not found:
        raise DcacheError(
            f"only a run can tell which module of {type(target).__name__} is the denoiser: estimate on that "
            "module itself"
        )
    with wrap.enabled(target, method), torch.no_grad():
        sessions = list(wrap._sessions(target).values())
        if isinstance(target, nn.Module):
            wrap.step(target, index=0, sigma=1.0, timestep=1.0)
            target(**call_kwargs)
            return sum(_full(session) for session in sessions)
        taps = [found for session in sessions for found in session.identity.taps]
        if not taps:
            raise DcacheError(
                f"{type(target).__name__} has no sampler to stop after one evaluation: estimate on its "
                f"denoiser instead ({', '.join(found)})"
            )

        full: dict[int, int] = {}

        def stop(*step: Any) -> Any:
            # A pipeline's denoisers may take turns (Wan 2.2): go on until each was called.
            full.update({i: _full(s) for i, s in enumerate(sessions) if _ready(s) and i not in full})
            if len(full) == len(sessions):
                raise _EnoughError
            return around(*step)

        sampler = taps[0].sampler
        tapped = vars(sampler)["step"]
        around, tapped.around = tapped.around, stop
        try:
            target(**call_kwargs)
        except _EnoughError:
            pass
        finally:
            tapped.around = around
            end = getattr(target, "maybe_free_model_hooks", None)
            if end is not None:
                end()
    return sum(full.values())


def _ready(session: Any) -> bool:
    """Whether one of everything is remembered; guidance is learned first, if there is any."""
    guidance, run = session.binding.guidance, session.run
    if guidance is None or guidance.useless or run is None or run.index >= _GUIDANCE_LEARNED:
        return bool(session.branches)
    return any(branch.history(guidance.key).taus for branch in session.branches.values())


def _full(session: Any) -> int:
    branches = session.branches.values()
    more = session.method.predictor.forecasts
    anchors = [(h.limit + more, h.leaves[-1]) for b in branches for h in b.histories.values() if h.leaves]
    probes = [t for b in branches if b.gauge is not None for t in b.gauge.full()]
    held = sum(n * t.untyped_storage().nbytes() for n, leaves in anchors for t in tensors_of(leaves))
    return held + sum(t.untyped_storage().nbytes() for t in probes)
