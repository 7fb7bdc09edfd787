"""Replay: the method that follows a schedule."""

from __future__ import annotations

from dcache.method import Method
from dcache.schedule import Schedule
from dcache.schedulers import Table


def replay(schedule: Schedule, component: str = "", single: bool = True) -> Method:
    """The method that replays a schedule on one denoiser.

    Args:
        schedule: what to replay.
        component: the denoiser's name in its pipeline, "" for a bare module.
        single: whether it is the only denoiser; a schedule of one component fits it whatever its name.

    Raises:
        DcacheError: the schedule has no plan for that denoiser.
    """
    plan = schedule.plan_for(component, single)
    rows = dict(plan.rows)
    rows.setdefault("*", next(iter(plan.rows.values())))
    return Method(
        name="schedule",
        rule=Table(rows),
        predictor=plan.make_predictor(),
        sites=plan.sites,
        codec=plan.codec,
        clock=plan.clock,
        branches="separate",
        # The trace of a run that fell back to the whole model has rows of both sites: its replay may too.
        fixed="model" not in plan.sites,
        uncond_from=plan.uncond_from,
        steps=schedule.steps,
        runs=plan.runs,
        corrections=plan.corrections,
        sigmas=schedule.sigmas,
        made_for=(plan.model, plan.config),
        parameters={"of": schedule.method or "?", "steps": schedule.steps},
    )
