"""Transfer of a schedule to another number of evaluations, fitted weights included.

`Schedule.stretch` maps the computed places. Weights depend on the distances between evaluations, so they are
mapped as shares: how far a prediction follows the line through its last two anchors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from dcache.errors import DcacheError
from dcache.predictors.fitted import Fitted
from dcache.schedule import Plan, Schedule
from dcache.search.fitting.closed_loop import anchored, line, table

Row = Sequence[bool]


def resample_steps(schedule: Schedule, steps: int) -> Schedule:
    """The schedule for a run of `steps` evaluations.

    A prediction gets the share of the old prediction at the nearest fraction of the run.

    Raises:
        DcacheError: the schedule has corrections, noise levels, weights of more than the last two anchors, or
            weights with different rows for its branches. Those belong to their evaluations.
    """
    if steps == schedule.steps:
        return schedule
    plans = schedule.components
    bare = {
        name: replace(plan, predictor="reuse", parameters={}) if plan.predictor == "fitted" else plan
        for name, plan in plans.items()
    }
    moved = replace(schedule, components=bare).stretch(steps)
    components = {
        name: _weighed(plan, moved.components[name]) if plan.predictor == "fitted" else moved.components[name]
        for name, plan in plans.items()
    }
    return replace(moved, components=components)


def _weighed(old: Plan, new: Plan) -> Plan:
    """The new plan with the old plan's weights, mapped."""
    if len(old.rows) != 1:
        raise DcacheError(
            "weights can be transferred only if all guidance branches share their rows ('*'), and this "
            f"schedule has {', '.join(map(repr, old.rows))}: plan anew for the other number of steps"
        )
    ((_, rows),), ((_, others),) = old.rows.items(), new.rows.items()
    fitted = Fitted.from_parameters(**old.parameters)
    tables: dict[str, Any] = {"weights": {}}
    for site, row in rows.items():
        predictor = fitted.at(site)
        parts = {"weights": predictor.mean_table}
        if predictor.difference_table:
            parts["apart"] = predictor.difference_table
        for part, weights in parts.items():
            shares = _shares(row, next(iter(weights.values())), site)
            tables.setdefault(part, {})[site] = table(others[site], _slopes(shares, row, others[site]))
    return replace(new, predictor="fitted", parameters=tables, clock=old.clock)


def _shares(row: Row, weights: Mapping[int, Mapping[int, float]], site: str) -> dict[int, float]:
    """Share of the line of each prediction from two anchors; 0 (reuse) for one without weights."""
    lines, shares = line(row, 1.0), {}
    for t, anchors in anchored(row).items():
        by_anchor = weights.get(t, {anchors[1]: 1.0})
        if not set(by_anchor) <= set(anchors):
            raise DcacheError(
                f"only weights of the last two anchors can be transferred ({anchors[0]} and {anchors[1]} for "
                f"{site} at evaluation {t}), and these are of the anchors {sorted(by_anchor)}: plan anew "
                "for the other number of steps"
            )
        shares[t] = -by_anchor.get(anchors[0], 0.0) / lines[t]
    return shares


def _slopes(shares: Mapping[int, float], row: Row, other: Row) -> dict[int, float]:
    """Slopes of the other row, each with the share at the nearest fraction of the run."""
    if not shares:
        return {}
    scale = (len(row) - 1) / max(len(other) - 1, 1)
    lines = line(other, 1.0)
    return {
        t: slope * shares[min(shares, key=lambda s: (abs(s - t * scale), s))] for t, slope in lines.items()
    }
