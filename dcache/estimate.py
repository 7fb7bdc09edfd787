"""`memory_estimate`: what a method's histories will hold, from one evaluation."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from dcache.components import denoisers
from dcache.errors import DcacheError

if TYPE_CHECKING:
    from dcache.method import Method
    from dcache.schedule import Schedule


class _EnoughError(Exception):
    """One evaluation of every denoiser was seen."""


def estimate(target: Any, method: Method | Schedule, call_kwargs: dict[str, Any]) -> int:
    """Bytes of the histories once they are full (order + 1 anchors per site and branch)."""
    from dcache import wrap

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
        taps = [found for session in sessions for found in session.taps]
        if not taps:
            raise DcacheError(
                f"{type(target).__name__} has no sampler to stop after one evaluation: estimate on its "
                f"denoiser instead ({', '.join(found)})"
            )

        full: dict[int, int] = {}

        def stop(*step: Any) -> Any:
            # A pipeline's denoisers may take turns (Wan 2.2): go on until each was called.
            full.update({i: _full(s) for i, s in enumerate(sessions) if s.branches and i not in full})
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


def _full(session: Any) -> int:
    from dcache.history import bytes_of

    branches = session.branches.values()
    one = bytes_of(
        t for b in branches for h in b.histories.values() for a in h.leaves for t in a if t is not None
    )
    probes = bytes_of(t for b in branches if b.gauge is not None for t in b.gauge.tensors())
    predictor = session.method.predictor
    return one * (predictor.order + 1 + predictor.forecasts) + probes
