"""`Schedule`: a boolean table evaluation x site with everything that a replay needs, as a portable file.

It is the normal form of every method: the trace of any run is a `Schedule`, and replaying it gives the same
bits. Files are JSON with a stable key order; nothing in them is executed.
"""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import Any

from dcache.errors import DcacheError
from dcache.predictors.corrections import Corrections
from dcache.schedule import file
from dcache.schedule.liveness import live_rows
from dcache.schedule.noise_levels import check_grid
from dcache.schedule.plan import Plan, merge_equal_branches
from dcache.sites.names import SITE_NAME
from dcache.util.checks import check_whole


@dataclass(frozen=True)
class Schedule:
    """A plan for every denoiser of a pipeline.

    Attributes:
        steps: evaluations of the run (second-order samplers evaluate more than once per step).
        components: denoiser name -> plan; "" stands for a bare module and fits any single denoiser.
        method: name of the method or planner it comes from.
        sampler: class name of the sampler it was made with, "" if unknown; another one warns.
        resolution: sizes of the pictures it was made with, () if unknown.
        guidance: guidance scale it was made with, None if unknown; another one warns.
        measured: cost and quality with the machine they were measured on, free form.
        sigmas: noise levels that replace the sampler's: one for each evaluation, and the final one; () keeps
            the sampler's (`dcache.identity.noise_grid`).
    """

    steps: int
    components: Mapping[str, Plan]
    method: str = ""
    sampler: str = ""
    resolution: tuple[int, ...] = ()
    guidance: float | None = None
    measured: Mapping[str, Any] = field(default_factory=dict)
    sigmas: tuple[float, ...] = ()

    def __post_init__(self) -> None:
        """Check rows, corrections and noise levels.

        Raises:
            DcacheError: there are none, a row is not a site's or has the wrong length, or branches differ in
                their sites.
        """
        if not self.components:
            raise DcacheError("a schedule needs at least one component")
        if self.sigmas:
            check_grid(self.sigmas, self.steps)
        for name, plan in self.components.items():
            if not plan.rows or any(not rows for rows in plan.rows.values()):
                raise DcacheError(f"the schedule's component {name!r} has no rows")
            if sum(run.evaluations for run in plan.runs) > self.steps:
                raise DcacheError(
                    f"the runs of component {name!r} have more evaluations ({list(plan.runs)}) than the "
                    f"schedule, which has {self.steps}"
                )
            if plan.corrections is not None:
                _check_corrections(name, plan, plan.corrections, self.steps)
            for branch, rows in plan.rows.items():
                if tuple(rows) != plan.sites:
                    raise DcacheError(
                        f"branch {branch!r} of component {name!r} has sites {tuple(rows)}, the first "
                        f"branch has {plan.sites}: every branch needs the same sites"
                    )
                for site, row in rows.items():
                    if SITE_NAME.fullmatch(site) is None:
                        raise DcacheError(
                            f"row {site!r} of component {name!r} is no site's name: expected 'trunk', "
                            "'block:3', 'attn:3' and the like, one row per site"
                        )
                    if len(row) != self.steps:
                        raise DcacheError(
                            f"row {site!r} of component {name!r} has {len(row)} entries, expected "
                            f"{self.steps}, one per evaluation"
                        )

    def __str__(self) -> str:
        from dcache.schedule.text import table

        facts = [self.method, self.sampler, "" if self.guidance is None else f"guidance {self.guidance:g}"]
        heading = ", ".join([f"{self.steps} evaluations", *filter(None, facts)])
        return table(self.steps, dict(self.components), heading)

    @staticmethod
    def of_steps(
        computed: Iterable[int], steps: int, sites: str | Iterable[str] = "trunk", **plan: Any
    ) -> Schedule:
        """A schedule that computes exactly the listed evaluations.

        Args:
            computed: the computed evaluations.
            steps: evaluations of the run.
            sites: a site or several, with equal rows.
            **plan: further fields of `Plan`.

        Raises:
            DcacheError: an evaluation is out of range, or a field of the plan is not valid.
        """
        steps = check_whole("steps", steps, 1)
        chosen = set(computed)
        wrong = sorted(chosen - set(range(steps)))
        if wrong:
            raise DcacheError(f"computed evaluations must lie between 0 and {steps - 1}, got {wrong}")
        row = tuple(i in chosen for i in range(steps))
        names = [sites] if isinstance(sites, str) else list(sites)
        return Schedule(steps, {"": Plan({"*": dict.fromkeys(names, row)}, **plan)}, method="listed")

    def plan_for(self, component: str, single: bool) -> Plan:
        """The plan of a denoiser.

        Args:
            component: the denoiser's name in its pipeline.
            single: whether it is the only denoiser; then a schedule with one component fits it.

        Raises:
            DcacheError: the schedule has no plan for it.
        """
        if component in self.components:
            return self.components[component]
        if single and len(self.components) == 1:
            return next(iter(self.components.values()))
        raise DcacheError(
            f"this schedule is for the denoisers {sorted(self.components)}, and the pipeline's is called "
            f"{component!r}"
        )

    def stretch(self, steps: int) -> Schedule:
        """The schedule for another number of evaluations, with computes at the same fractions of the run.

        The first and the last evaluation stay computed if they were. `stretch(self.steps)` changes nothing.

        Raises:
            DcacheError: the schedule has fitted weights, corrections or noise levels, which belong to their
                evaluations.
        """
        steps = check_whole("steps", steps, 1)
        if steps == self.steps:
            return self
        if any(plan.predictor == "fitted" for plan in self.components.values()):
            raise DcacheError(
                f"the weights of this schedule were fitted for {self.steps} evaluations and belong to them: "
                f"calibrate for {steps}, or stretch a schedule without fitted weights"
            )
        if self.sigmas or any(plan.corrections is not None for plan in self.components.values()):
            raise DcacheError(
                f"the corrections and noise levels of this schedule belong to its {self.steps} evaluations: "
                f"plan and fit for {steps}, or stretch the schedule without them"
            )
        if any(plan.runs for plan in self.components.values()):
            raise DcacheError(
                "this schedule lists the lengths of the runs of one pipeline call, which cannot be "
                f"stretched: trace a call of {steps} steps instead"
            )
        scale = (steps - 1) / max(self.steps - 1, 1)

        def resampled(row: tuple[bool, ...]) -> tuple[bool, ...]:
            places = {round(i * scale) for i, computed in enumerate(row) if computed}
            places |= {steps - 1} if row[-1] else set()
            return tuple(i in places for i in range(steps))

        return replace(
            self,
            steps=steps,
            measured={},
            components={
                name: replace(
                    plan,
                    rows={b: {s: resampled(r) for s, r in rows.items()} for b, rows in plan.rows.items()},
                )
                for name, plan in self.components.items()
            },
        )

    def canonical(self) -> Schedule:
        """The schedule with the same outputs and only live computes (`dcache.schedule.liveness`); idempotent.

        Schedules with equal canonical forms give equal outputs.
        """
        return self._canonical

    @cached_property
    def _canonical(self) -> Schedule:
        components = {}
        for name, plan in self.components.items():
            predictor = plan.make_predictor()
            # A predictor that reads its last forecast depends, through it, on all earlier anchors.
            order = self.steps if predictor.forecasts else predictor.order
            rows = merge_equal_branches({b: live_rows(r, order, plan.codec) for b, r in plan.rows.items()})
            corrections = None if plan.corrections is None else plan.corrections.used(rows.values())
            components[name] = replace(plan, rows=rows, corrections=corrections)
        canonical = replace(self, components=components)
        # A canonical form is its own canonical form: spare the second computation.
        vars(canonical)["_canonical"] = canonical
        return canonical

    def digest(self) -> str:
        """Hash of everything that decides the outputs: canonical rows, codec, predictor, clock and so on."""
        content = self.canonical().content()
        core = {
            "steps": content["steps"],
            **({"sigmas": content["sigmas"]} if self.sigmas else {}),
            "components": {
                n: {k: v for k, v in c.items() if k not in ("model", "config", "branches")}
                for n, c in content["components"].items()
            },
        }
        return hashlib.sha256(json.dumps(core, sort_keys=True).encode()).hexdigest()[:16]

    def save(self, path: str | os.PathLike[str]) -> Path:
        """Write the file atomically; returns its path.

        Raises:
            DcacheError: the file cannot be written, or `measured` has values that are not JSON's.
        """
        plans = self.components.items()
        corrections = {name: plan.corrections for name, plan in plans if plan.corrections is not None}
        return file.write(self.content(), corrections, path)

    @staticmethod
    def load(path: str | os.PathLike[str]) -> Schedule:
        """Read and check a file.

        Raises:
            DcacheError: the file does not exist, is truncated, was edited by hand, or is not a schedule.
        """
        return file.read(path, Schedule)

    def push_to_hub(self, repository: str, base_model: str = "", **options: Any) -> str:
        """Upload it with a card to "owner/name"; arguments and errors as `dcache.schedule.hub.push`."""
        from dcache.schedule import hub

        return hub.push(self, repository, base_model, **options)

    @staticmethod
    def from_hub(repository: str, token: str | None = None) -> Schedule:
        """Download it from "owner/name" or "owner/name@revision", and check it; no code is run."""
        from dcache.schedule import hub

        return Schedule.load(hub.pull(repository, token))

    def content(self) -> dict[str, Any]:
        """All fields as JSON values, in the order of the file."""
        return {
            "method": self.method,
            "steps": self.steps,
            "sampler": self.sampler,
            "resolution": list(self.resolution),
            "guidance": self.guidance,
            **({"sigmas": list(self.sigmas)} if self.sigmas else {}),
            "components": {
                name: {
                    "model": plan.model,
                    "config": plan.config,
                    "codec": plan.codec,
                    "predictor": plan.predictor,
                    "parameters": dict(plan.parameters),
                    "clock": plan.clock,
                    "branches": plan.branches,
                    **({"sibling": plan.uncond_from} if plan.uncond_from else {}),
                    **({} if plan.corrections is None else {"corrections": plan.corrections.content()}),
                    **({"runs": [list(run) for run in plan.runs]} if plan.runs else {}),
                    "rows": {
                        branch: {site: "".join("1" if c else "0" for c in row) for site, row in rows.items()}
                        for branch, rows in plan.rows.items()
                    },
                }
                for name, plan in self.components.items()
            },
            "measured": dict(self.measured),
        }


def _check_corrections(name: str, plan: Plan, corrections: Corrections, steps: int) -> None:
    for site, rows in corrections.table.items():
        if site not in plan.sites or max(rows) >= steps:
            raise DcacheError(
                f"component {name!r} has corrections for {site!r} at the evaluations {list(rows)}: expected "
                f"some of its sites {plan.sites} and evaluations below {steps}"
            )
