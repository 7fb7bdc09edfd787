"""A schedule for another number of evaluations, fitted weights included.

`Schedule.stretch` carries places. Weights belong to distances between evaluations, so they are carried as
what they mean: how far a prediction follows the line through its last two anchors.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

from dcache.errors import DcacheError
from dcache.predictors.fitted import Fitted
from dcache.schedule import Plan, Schedule
from dcache.search.closed_loop import anchored, line, table

Row = Sequence[bool]


def resample_steps(schedule: Schedule, steps: int) -> Schedule:
    """The schedule for a run of so many evaluations.

    A prediction's share of its line is that of the old prediction at the nearest fraction of the run.

    Raises:
        DcacheError: the schedule has corrections or noise levels, or its branches or weights are not of this
            form (more than the last two anchors); those belong to their evaluations.
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
    """The new places with the old weights."""
    if len(old.rows) != 1:
        raise DcacheError(
            "weights are carried of schedules whose branches are computed alike: this one has "
            f"{', '.join(map(repr, old.rows))}"
        )
    ((_, rows),), ((_, others),) = old.rows.items(), new.rows.items()
    fitted = Fitted.from_parameters(**old.parameters)
    tables: dict[str, Any] = {"weights": {}}
    for site, row in rows.items():
        own = fitted.at(site)
        parts = {"weights": own.mean_table}
        if own.difference_table:
            parts["apart"] = own.difference_table
        for part, weights in parts.items():
            shares = _shares(row, next(iter(weights.values())), site)
            tables.setdefault(part, {})[site] = table(others[site], _slopes(shares, row, others[site]))
    return replace(new, predictor="fitted", parameters=tables, clock=old.clock)


def _shares(row: Row, weights: Mapping[int, Mapping[int, float]], site: str) -> dict[int, float]:
    """How far each prediction from two anchors follows their line; one without weights is reuse."""
    lines, found = line(row, 1.0), {}
    for t, anchors in anchored(row).items():
        own = weights.get(t, {anchors[1]: 1.0})
        if not set(own) <= set(anchors):
            raise DcacheError(
                f"the weights of {site} at evaluation {t} are of the anchors {sorted(own)}, and only those "
                f"of the last two, {anchors[0]} and {anchors[1]}, can be carried elsewhere: plan anew"
            )
        found[t] = -own.get(anchors[0], 0.0) / lines[t]
    return found


def _slopes(shares: Mapping[int, float], row: Row, other: Row) -> dict[int, float]:
    """The slopes of the other row, with the shares of the nearest fractions of the run."""
    if not shares:
        return {}
    scale = (len(row) - 1) / max(len(other) - 1, 1)
    lines = line(other, 1.0)
    return {
        t: slope * shares[min(shares, key=lambda s: (abs(s - t * scale), s))] for t, slope in lines.items()
    }
