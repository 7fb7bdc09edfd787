"""The trace: what the sessions of a pipeline recorded of a run, as a `Schedule`."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import TYPE_CHECKING

from dcache.components import config_digest
from dcache.schedule import Plan, Schedule

if TYPE_CHECKING:
    from dcache.session import Session


def trace_of(sessions: Mapping[str, Session]) -> Schedule | None:
    """The run under way, or the last one, of a pipeline's denoisers; None where there was none."""
    plans: dict[str, Plan] = {}
    steps, sampler, name = 0, "", ""
    for component, session in sessions.items():
        record, method = session.record, session.method
        count = session.stats().steps
        if not record.events or not count:
            continue
        steps, name = max(steps, count), method.name
        sampler = session.sampler or sampler
        rows = {b: {s: tuple(r) for s, r in sites.items()} for b, sites in record.rows(count).items()}
        if len(set(map(str, rows.values()))) == 1:
            rows = {"*": next(iter(rows.values()))}
        plans[component] = Plan(
            rows,
            method.codec,
            method.predictor.name,
            method.predictor.parameters(),
            method.clock,
            sibling=method.sibling,
            model=type(session.module).__name__,
            config=config_digest(session.module),
        )
    if not plans:
        return None
    padded = {
        n: replace(
            p,
            rows={b: {s: r + (True,) * (steps - len(r)) for s, r in rs.items()} for b, rs in p.rows.items()},
        )
        for n, p in plans.items()
    }
    return Schedule(steps, padded, method=name, sampler=sampler)
