"""The trace: what the sessions of a pipeline recorded of a run, as a `Schedule`."""

from __future__ import annotations

from collections.abc import Collection, Mapping, Sequence
from dataclasses import replace

from dcache.engine.protocols import Traced
from dcache.engine.run_state import RunState
from dcache.errors import DcacheError
from dcache.identity.denoisers import config_digest
from dcache.method import Method
from dcache.predictors.corrections import Corrections
from dcache.schedule import Plan, Rows, Schedule
from dcache.schedule.plan import RunLength, merge_equal_branches


def trace_of(sessions: Mapping[str, Traced]) -> Schedule | None:
    """The run under way, or the last one, of a pipeline's denoisers; None where there was none.

    Where one call of the pipeline holds several runs of a denoiser, the rows of all follow each other.

    Args:
        sessions: by the denoiser's name in the pipeline, "" for a bare module.
    """
    plans = {name: plan for name, session in sessions.items() if (plan := _plan(session)) is not None}
    if not plans:
        return None
    steps = max(len(row) for plan in plans.values() for rows in plan.rows.values() for row in rows.values())
    traced = [sessions[name] for name in plans]
    # A pipeline of several stages may have a sampler for each.
    samplers = {s.lanes.shown().sampler for s in traced if s.lanes.shown().sampler}
    sigmas = next((session.method.sigmas for session in reversed(traced) if session.method.sigmas), ())
    return Schedule(
        steps,
        {name: _padded(plan, steps) for name, plan in plans.items()},
        method=traced[-1].method.name,
        sampler=samplers.pop() if len(samplers) == 1 else "",
        guidance=traced[-1].guidance,
        # A run that was cut short has no grid to replay.
        sigmas=sigmas if len(sigmas) in (steps, steps + 1) else (),
    )


def _plan(session: Traced) -> Plan | None:
    """The rows of one denoiser in the runs of one pipeline call; None where it was not called."""
    last = session.lanes.shown()
    states = [s for s in (*last.earlier, last) if s.record.events and s.steps]
    if not states:
        return None
    untraced = next((s.untraced for s in states if s.untraced and s.record.predicted), "")
    if untraced:
        raise DcacheError(
            f"no trace of this run of {type(session.module).__name__} gives the same bits: {untraced}. "
            "Trace another run: one that is not interrupted."
        )
    if len({id(s.method) for s in states}) > 1 and any(s.record.predicted for s in states):
        raise DcacheError(
            f"the runs of this call of {type(session.module).__name__} follow different plans, which one "
            "schedule cannot hold: trace a call with one run."
        )
    method = session.method
    rows = _joined([(state.record.rows(state.steps), state.steps) for state in states])
    return Plan(
        merge_equal_branches(rows),
        method.codec,
        method.predictor.name,
        method.predictor.parameters(),
        method.clock,
        uncond_from=method.uncond_from,
        model=type(session.module).__name__,
        config=config_digest(session.module),
        corrections=_corrections(method, rows.values(), several=len(states) > 1),
        runs=_lengths(states),
    )


def _joined(runs: Sequence[tuple[Mapping[str, Mapping[str, Sequence[bool]]], int]]) -> dict[str, Rows]:
    """Rows of runs that follow each other; what was not seen in one of them counts as computed there."""
    branches = dict.fromkeys(branch for rows, _ in runs for branch in rows)
    sites = dict.fromkeys(site for rows, _ in runs for each in rows.values() for site in each)
    return {
        branch: {
            site: tuple(c for rows, n in runs for c in rows.get(branch, {}).get(site, (True,) * n))
            for site in sites
        }
        for branch in branches
    }


def _lengths(states: Sequence[RunState]) -> tuple[RunLength, ...]:
    """The lengths of the runs, () for one run of as many evaluations as the sampler's table lists."""
    # What a run that was cut short lacks of its table is no trait of the pipeline, unless the call went on.
    listed = [state.entries if state.whole or state is not states[-1] else None for state in states]
    lengths = tuple(RunLength(s.steps, entries or s.steps) for s, entries in zip(states, listed, strict=True))
    return () if len(lengths) == 1 and len(set(lengths[0])) == 1 else lengths


def _padded(plan: Plan, steps: int) -> Plan:
    """The plan with rows of as many entries as the longest; its own length is listed where it has fewer."""
    length = len(next(iter(next(iter(plan.rows.values())).values())))
    if length == steps:
        return plan
    rows = {
        branch: {site: row + (True,) * (steps - len(row)) for site, row in sites.items()}
        for branch, sites in plan.rows.items()
    }
    return replace(plan, rows=rows, runs=plan.runs or (RunLength(length, length),))


def _corrections(method: Method, branches: Collection[Rows], several: bool) -> Corrections | None:
    """Those that the recorded rows stand on: a run that was cut short has no later ones."""
    if method.corrections is None:
        return None
    corrections = method.corrections.only(next(iter(branches)))
    # They are listed by the evaluation of a run, and the rows of several runs follow each other.
    return corrections if several or corrections is None else corrections.used(branches)
