"""`Exported` and `WholeRow`: schedules for engines that compute or skip one run of blocks as a whole."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from dcache.errors import DcacheError
from dcache.schedule import Plan, Schedule
from dcache.sites.names import SITE_NAME


@dataclass(frozen=True)
class Exported:
    """A schedule in another engine's format.

    Attributes:
        content: the file's content, JSON values.
        notes: one sentence for each thing of the schedule that the format cannot hold.
    """

    content: Mapping[str, Any]
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class WholeRow:
    """Where a schedule computes its one run of blocks.

    Attributes:
        row: one bool per evaluation, True = compute.
        first: the run's first block.
        last: the run's last block, None for the model's last one.
        plan: the plan that it is from.
        dropped: what belongs to evaluations and no other engine takes over.
    """

    row: tuple[bool, ...]
    first: int
    last: int | None
    plan: Plan
    dropped: tuple[str, ...] = field(default=())

    @property
    def order(self) -> int:
        """The predictor's order, 0 for reuse of the last value."""
        return self.plan.make_predictor().order

    @property
    def places(self) -> list[int]:
        """The computed evaluations."""
        return [t for t, computed in enumerate(self.row) if computed]


def whole_row(schedule: Schedule, engine: str) -> WholeRow:
    """The one row of a schedule that another engine can follow.

    Args:
        schedule: a schedule.
        engine: the engine's name, for errors.

    Raises:
        DcacheError: the schedule has several denoisers, sites or tables, its site is no run of blocks, or it
            changes the noise levels.
    """
    if len(schedule.components) != 1:
        raise DcacheError(f"{engine} takes one denoiser, this schedule has {', '.join(schedule.components)}")
    (plan,) = schedule.components.values()
    if len(plan.sites) != 1:
        raise DcacheError(
            f"{engine} computes or skips all blocks together, and this schedule has {len(plan.sites)} sites "
            f"({', '.join(plan.sites[:3])}, ...). Export one with the site trunk."
        )
    rows = [row for branch in plan.rows.values() for row in branch.values()]
    if any(row != rows[0] for row in rows):
        raise DcacheError(
            f"{engine} has one list of steps for all guidance branches, and {', '.join(plan.rows)} differ"
        )
    if schedule.sigmas:
        raise DcacheError(f"{engine} cannot take over the noise levels of this schedule")
    first, last = _span(plan.sites[0], engine)
    dropped = []
    if plan.predictor not in ("reuse", "taylor", "newton"):
        dropped.append(f"the weights of predictor {plan.predictor!r}")
    if plan.corrections is not None:
        dropped.append("corrections")
    if plan.uncond_from:
        dropped.append(f"the unconditional branch's prediction ({plan.uncond_from})")
    return WholeRow(rows[0], first, last, plan, tuple(dropped))


def _span(site: str, engine: str) -> tuple[int, int | None]:
    match = SITE_NAME.fullmatch(site)
    if site == "trunk":
        return 0, None
    if match is not None and match["first"] is not None:
        return int(match["first"]), int(match["last"])
    raise DcacheError(
        f"{engine} skips a run of blocks, and this schedule's site is {site!r}: use the site trunk"
    )
