"""Checks of a schedule on the pipeline, and of a profile against the pipeline."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

from dcache.errors import DcacheError
from dcache.eval.bench import bench
from dcache.eval.machine import machine, versions
from dcache.eval.specs import MethodEntry
from dcache.eval.subject import Subject
from dcache.identity.denoisers import config_digest, denoisers
from dcache.profile import Profile, cost
from dcache.schedule import Schedule
from dcache.search.observing.cost_check import CostCheck, check_cost


@dataclass(frozen=True)
class Checked:
    """A checked schedule and its figures.

    Attributes:
        schedule: the schedule, with the figures below in `measured`.
        expected: speedup of the whole call from the profile's latencies; None without them.
        speedup: measured speedup, from medians of calls that alternate with uncached ones. The batch has as
            many pictures as the latencies were timed with (without latencies, all prompts).
        psnr: mean PSNR to the uncached pictures, in dB, on prompts that nothing was fitted on.
        flops: share of the sites' FLOPs that is still computed; None if they were not counted.
        cost: expected and measured seconds, and how far to trust the expectation; None without latencies.
    """

    schedule: Schedule
    expected: float | None
    speedup: float
    psnr: float
    flops: float | None
    cost: CostCheck | None


def refuse_other(profile: Profile, subject: Subject) -> None:
    """Raise an error if a profile does not belong to this pipeline and its call settings.

    Raises:
        DcacheError: the pipeline has no denoiser of that name, class or config; or its calls have other steps
            or guidance.
    """
    available = denoisers(subject.pipe)
    module = available.get(profile.component)
    if module is None:
        raise DcacheError(
            f"the profile is of a denoiser {profile.component!r}, and {type(subject.pipe).__name__} has "
            f"{', '.join(map(repr, available)) or 'none'}: observe this pipeline"
        )
    actual = (type(module).__name__, config_digest(module))
    if actual != (profile.model, profile.config):
        raise DcacheError(
            f"the profile is of a {profile.model} (config {profile.config}), and this pipeline's "
            f"{profile.component} is a {actual[0]} (config {actual[1]}): observe this model"
        )
    observed = profile.made.get("sampling_steps")
    if observed is not None and subject.steps not in (None, observed):
        raise DcacheError(
            f"the profile was observed with {observed} sampling steps, and the calls have {subject.steps}: "
            f"ask for --steps {observed}, or observe with --steps {subject.steps}"
        )
    if subject.guidance is not None and profile.guidance not in (None, subject.guidance):
        raise DcacheError(
            f"the profile was observed with guidance {profile.guidance:g}, and the calls have "
            f"{subject.guidance:g}: observe with --guidance {subject.guidance:g}"
        )


def figures(speedup: float, psnr: float, prompts: int) -> dict[str, Any]:
    """The `measured` entry of a schedule file: speedup of the call, PSNR in dB, machine, versions."""
    return {
        "speedup": round(speedup, 3),
        "psnr": round(psnr, 2),
        "prompts": prompts,
        "machine": machine(),
        "versions": versions(),
    }


def check(
    subject: Subject,
    schedule: Schedule,
    prompts: Sequence[str],
    *,
    profile: Profile | None = None,
    seed: int = 0,
    repeats: int = 3,
) -> Checked:
    """Run a schedule, in its canonical form, in turns with the uncached pipeline, and compare.

    Args:
        subject: the pipeline.
        schedule: the schedule to check.
        prompts: one batch; nothing should have been fitted on them.
        profile: gives the expected speedup.
        seed: seed of the first picture.
        repeats: timed calls of each.

    Raises:
        DcacheError: the schedule does not fit the pipeline, or its pictures are broken.
    """
    schedule = schedule.canonical()
    timed = None if profile is None else profile.latencies
    done = bench(
        subject,
        [MethodEntry(schedule.method or "schedule", schedule.method, method=schedule)],
        prompts,
        seed=seed,
        repeats=repeats if timed is None else 1,
        count_flops=False,
    )
    (row,) = done.rows
    if row.speedup is None or row.mean_psnr is None:
        raise DcacheError(f"with this schedule {row.broken}. Plan for less speedup")
    speedup, expected, cost_check = row.speedup, None, None
    if profile is not None and timed is not None:
        (cost_check,) = check_cost(subject, profile, [schedule], prompts, seed=seed, repeats=repeats)
        expected = cost.speedup(schedule, timed)
        speedup = expected * cost_check.expected / cost_check.measured
    measured = figures(speedup, row.mean_psnr, len(prompts))
    share = None if timed is None or not timed.flops else cost.flops(schedule, timed)
    return Checked(replace(schedule, measured=measured), expected, speedup, row.mean_psnr, share, cost_check)
