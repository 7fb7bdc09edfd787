"""A schedule as text: a row for each site, a mark for each evaluation."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from dcache.schedule.plan import Plan

COMPUTED, PREDICTED = "#", "."
# Further sites are summed up in one line.
MOST_ROWS = 24


def table(steps: int, components: dict[str, Plan], heading: str) -> str:
    """The tables of all denoisers.

    Args:
        steps: evaluations of the run.
        components: denoiser name -> plan.
        heading: the first line.
    """
    lines = [heading]
    for name, plan in components.items():
        lines += _denoiser(steps, name, plan)
    return "\n".join([*lines, f"{COMPUTED} computed  {PREDICTED} predicted"])


def _denoiser(steps: int, name: str, plan: Plan) -> Iterator[str]:
    codec = f", codec {plan.codec}" if plan.codec else ""
    yield f"{name or 'denoiser'}{f' ({plan.model})' if plan.model else ''}: {plan.predictor}{codec}"
    for branch, rows in plan.rows.items():
        if branch != "*":
            yield f"  branch {branch}"
        width = max(map(len, rows))
        for site, row in list(rows.items())[:MOST_ROWS]:
            marks = "".join(COMPUTED if computed else PREDICTED for computed in row)
            yield f"  {site:<{width}}  {marks}  {sum(row) / steps:4.0%}"
        if len(rows) > MOST_ROWS:
            yield f"  ... and {len(rows) - MOST_ROWS} more sites"
