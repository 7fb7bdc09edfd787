"""What is settled before a run opens: whether a call of the pipeline begins with it, and whether it fits."""

from __future__ import annotations

from typing import Protocol

from dcache.engine.protocols import Owner
from dcache.engine.run_state import RunState
from dcache.errors import DcacheError
from dcache.identity.noise_grid import Grid
from dcache.identity.run import Run
from dcache.identity.tracker import RunTracker
from dcache.method import Method, wrong_count
from dcache.schedule.plan import RunLength


class Opening(Protocol):
    """Interface: the part of a session that the beginning of a run is about.

    Attributes:
        state: the run under way, or the last one.
        owners: the pipelines that the denoiser is part of.
    """

    method: Method
    state: RunState
    owners: list[Owner]
    tracker: RunTracker


def begins_call(session: Opening) -> bool:
    """Whether a pipeline without `check_inputs` began a new call; the tracker counts its runs from here on.

    A modular pipeline's state tells its call from the next one. Else the call's own frame does, unless that
    has the same place in memory; then a run that came to its end was followed by another of the same call.
    """
    tracker, run = session.tracker, session.state.run
    frame = next((f for owner in session.owners if (f := owner.call_frame()) is not None), None)
    known = tracker.call_frame
    if known is None and tracker.runs_of_call is not None:
        return False
    tracker.call_frame = frame
    if frame is None:
        tracker.runs_of_call = None
        return False
    # Some leave the last entry of the sampler's table out.
    broken_off = run is not None and run.count is not None and run.index < run.count - 1
    is_new = not frame.is_of(known) or tracker.runs_of_call is None or (broken_off and frame.state is None)
    if is_new:
        tracker.runs_of_call = 0
    return is_new


def next_state(session: Opening, run: Run, doubted: Run | None, left: bool) -> RunState:
    """The state of a run that opens; one that follows others in a pipeline's call knows them.

    Args:
        session: the session, with the state of the last run.
        run: the run.
        doubted: the run before it, where the two may be one.
        left: whether it is a run that was left for another one, and goes on.
    """
    last, tracker = session.state, session.tracker
    if tracker.is_guest(run):
        tracker.runs_of_call = None
    number = tracker.runs_of_call
    within = bool(number) and bool(last.record.events)
    if number is not None:
        tracker.runs_of_call = number + 1
    untraced = ""
    if left:
        untraced = f"it was left for another one, and evaluation {run.index} began afresh"
    elif run.late or (run.told and run.index > 0):
        untraced = "its first evaluations were not seen, or belong to a run that was left"
    return RunState(
        sampler=run.sampler,
        untraced=untraced,
        earlier=(*last.earlier, last) if within else (),
        full=last.full_next,
        doubted=None if doubted is None else (last, doubted),
    )


def fit_table(session: Opening, run: Run) -> None:
    """Find the run's rows in the method's table, where it has one.

    Args:
        session: the session, with the state of this run.
        run: the run.

    Raises:
        DcacheError: the run is of another length.
    """
    method, state = session.method, session.state
    if method.steps is None:
        return
    lengths = method.runs or (RunLength(method.steps, method.steps),)
    number = len(state.earlier)
    if method.runs and number >= len(lengths):
        raise DcacheError(
            f"this schedule is for {len(lengths)} run(s) of the denoiser in one call of the pipeline, "
            f"and this is run {number + 1}. Trace a call like this one and use its schedule."
        )
    length = lengths[number if method.runs else 0]
    if run.count is not None and run.lengths().isdisjoint(length):
        raise wrong_count(length.evaluations, run.count, method)
    state.limit = length.evaluations
    state.offset = sum(earlier.evaluations for earlier in lengths[:number]) if method.runs else 0
    if run.count is not None:
        # What the run had when the schedule was made, rather than what the sampler's table lists.
        run.expect(length.evaluations)


def refuse_other_levels(method: Method, levels: Grid | None) -> None:
    """Refuse a run that has not the noise levels of the method's schedule.

    Args:
        method: the method.
        levels: what the run's sampler was given, None if it was given nothing.

    Raises:
        DcacheError: the schedule has noise levels, and the sampler does not hold them.
    """
    if method.sigmas and (levels is None or not levels.holds):
        raise DcacheError(
            f"{method.describe()} changes the noise levels of the run, and no sampler that "
            "dcache knows of was given them: enable it on the pipeline, before its call, or use the "
            "schedule without them: dataclasses.replace(schedule, sigmas=())"
        )
