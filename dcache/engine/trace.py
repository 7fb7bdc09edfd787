"""The trace: what the sessions of a pipeline recorded of a run, as a `Schedule`."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import replace

from dcache.engine.protocols import Traced
from dcache.identity.denoisers import config_digest
from dcache.method import Method
from dcache.predictors.corrections import Corrections
from dcache.schedule import Plan, Rows, Schedule
from dcache.schedule.plan import merge_equal_branches


def trace_of(sessions: Mapping[str, Traced]) -> Schedule | None:
    """The run under way, or the last one, of a pipeline's denoisers; None where there was none.

    Args:
        sessions: by the denoiser's name in the pipeline, "" for a bare module.
    """
    plans: dict[str, Plan] = {}
    steps, sampler, name = 0, "", ""
    sigmas: tuple[float, ...] = ()
    guidance: float | None = None
    for component, session in sessions.items():
        state, method = session.lanes.shown(), session.method
        record, count = state.record, state.steps
        if not record.events or not count:
            continue
        steps, name = max(steps, count), method.name
        sampler = state.sampler or sampler
        rows = {b: {s: tuple(r) for s, r in sites.items()} for b, sites in record.rows(count).items()}
        plans[component] = Plan(
            merge_equal_branches(rows),
            method.codec,
            method.predictor.name,
            method.predictor.parameters(),
            method.clock,
            uncond_from=method.uncond_from,
            model=type(session.module).__name__,
            config=config_digest(session.module),
            corrections=_corrections(method, rows.values()),
        )
        sigmas = method.sigmas or sigmas
        guidance = session.guidance
    if not plans:
        return None
    padded = {
        n: replace(
            p,
            rows={b: {s: r + (True,) * (steps - len(r)) for s, r in rs.items()} for b, rs in p.rows.items()},
        )
        for n, p in plans.items()
    }
    # A run that was cut short has no grid to replay.
    whole = len(sigmas) in (steps, steps + 1)
    return Schedule(
        steps, padded, method=name, sampler=sampler, guidance=guidance, sigmas=sigmas if whole else ()
    )


def _corrections(method: Method, branches: Collection[Rows]) -> Corrections | None:
    """Those that the recorded rows stand on: a run that was cut short has no later ones."""
    found = None if method.corrections is None else method.corrections.only(next(iter(branches)))
    return None if found is None else found.used(branches)
