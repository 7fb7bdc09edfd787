"""Whether the machine's speed changed between the uncached call and the cached one."""

from __future__ import annotations

import statistics
from collections.abc import Sequence

from dcache.eval.entries import CallResult
from dcache.eval.formatting import BUSY
from dcache.schedule import Schedule


def drift_note(uncached: CallResult, cached: CallResult) -> list[str]:
    """The note on a machine whose speed changed, in a list; empty if it did not, or if that cannot be told.

    An evaluation that computes every site lasts as long as an uncached one, so those of both calls are
    compared. The first one is left out, for it is checked; so are runs with fewer than two others.

    Args:
        uncached: the timed uncached call, perhaps of an earlier run.
        cached: the timed cached call.
    """
    seconds = _full(cached)
    if len(seconds) < 2 or not uncached.cost.calls:
        return []
    ratio = statistics.median(seconds) / statistics.median(uncached.cost.calls)
    if 1 / (1 + BUSY) <= ratio <= 1 + BUSY:
        return []
    return [
        "the machine's speed changed since the uncached call: an evaluation that is computed in full took "
        f"{ratio:.2f} times as long, so do not trust the speedup. Run it again: both are timed anew then"
    ]


def _full(result: CallResult) -> list[float]:
    """Seconds of the denoiser calls of evaluations that compute every site, without the first evaluation."""
    trace, calls = result.trace, result.cost.calls
    if trace is None or len(trace.components) != 1 or len(calls) % trace.steps:
        return []
    each = len(calls) // trace.steps
    return [second for i in _complete(trace) if i for second in calls[i * each : (i + 1) * each]]


def _complete(trace: Schedule) -> Sequence[int]:
    """The evaluations in which every site of every branch is computed."""
    rows = [
        row for plan in trace.components.values() for sites in plan.rows.values() for row in sites.values()
    ]
    return [i for i in range(trace.steps) if all(row[i] for row in rows)]
