"""`dcache calibrate`: measure a profile of a pipeline, or find a schedule for one speedup."""

from __future__ import annotations

import argparse
import hashlib
import sys
from collections.abc import Sequence
from contextlib import ExitStack, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dcache.cli.calibrate_arguments import AUTO, DESCRIPTION, HELP, PROFILE, ROUTER, check_out
from dcache.cli.calibrate_arguments import add_arguments as _add_arguments
from dcache.cli.progress import StageLog, stages
from dcache.cli.run_settings import RunSettings
from dcache.errors import DcacheError
from dcache.eval.packages import require
from dcache.eval.prompts import digest
from dcache.profile import Profile
from dcache.util.files import try_file

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    from dcache.eval.subject import Subject
    from dcache.schedule import Schedule
    from dcache.search.check import Checked
    from dcache.search.rendering.results import Results

# Planners whose schedules need corrections, which are fitted afterwards.
CORRECTED = ("cachequant", "ertacache")
# Planners and predictors whose plans `auto` starts from, if there is a profile.
STARTS = (
    *(("pairs", predictor) for predictor in ("fitted", "newton", "reuse")),
    *(("knapsack", "fitted"), ("lemica", "taylor")),
)
GIB = 1 << 30


def add(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = commands.add_parser("calibrate", help=HELP, description=DESCRIPTION)
    _add_arguments(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Measure a profile or find a schedule, by the ending of `--out`."""
    from dcache.eval.processes import join
    from dcache.eval.subject import load
    from dcache.search.rendering.results import Results, resumable

    if arguments.method != AUTO and arguments.out.suffix != PROFILE:
        require("bench", "the check of the schedule", "torchmetrics")
    settings = RunSettings.of(arguments)
    prompts = _checked(arguments, settings)
    try_file(arguments.out)
    with stages() as progress, ExitStack() as stack:
        subject = load(arguments.pipeline, **settings.call())
        results = Results()
        # Several processes share the runs of an observation: those are not kept.
        if join(settings.device).world_size == 1:
            about = _about(arguments, settings, subject, prompts)
            results = stack.enter_context(resumable(arguments.out, about))
        if results.known:
            progress(f"going on with {results.known} results of an earlier run")
        job = Job(arguments, subject, prompts, results, progress)
        return _observe_only(job) if arguments.out.suffix == PROFILE else job.schedule()


def _checked(arguments: argparse.Namespace, settings: RunSettings) -> list[str]:
    """Check all that needs no pipeline; returns the prompts."""
    out, profile = arguments.out, arguments.profile
    check_out(out)
    if profile is not None and out.suffix == PROFILE:
        raise DcacheError(
            f"--profile is read to plan a schedule, but --out FILE{PROFILE} measures a new profile: leave "
            "one of them out"
        )
    if profile is not None:
        Profile.load(profile)
    prompts = settings.texts()
    least = 1 if out.suffix == PROFILE else 3 if arguments.method in (AUTO, ROUTER) else 2
    if len(prompts) < least:
        raise DcacheError(
            f"expected {least} or more prompts, for observing or fitting and for checking, got {len(prompts)}"
        )
    return prompts


def _about(
    arguments: argparse.Namespace, settings: RunSettings, subject: Subject, prompts: Sequence[str]
) -> dict[str, Any]:
    """Everything that decides the results of a calibration, as JSON values."""
    names = ["pipeline", "method", "speedup", "budget", "seed", "repeats", "sites", "cap", "component"]
    names += ["iterations"] if arguments.method == ROUTER else ["router"] if arguments.router else []
    profile = arguments.profile
    return {name: getattr(arguments, name) for name in names} | {
        "options": {name: str(value) for name, value in settings.call().items()},
        "components": subject.digest,
        "prompts": digest(prompts),
        "profile": None if profile is None else hashlib.sha256(profile.read_bytes()).hexdigest()[:16],
    }


@dataclass(frozen=True)
class Job:
    """A calibration: its arguments, the loaded pipeline, the prompts, and the results of a run before it."""

    arguments: argparse.Namespace
    subject: Subject
    prompts: Sequence[str]
    results: Results
    progress: StageLog

    def schedule(self) -> int:
        """Find a schedule and save it."""
        ways = {AUTO: _search, ROUTER: _route}
        return ways.get(self.arguments.method, _plan)(self)


def _observe_only(job: Job) -> int:
    out = job.arguments.out
    profile = _observed(job, job.prompts)
    timed = profile.latencies
    print(
        f"observed {len(profile.sites)} sites in {profile.prompts} runs of {profile.steps} evaluations, "
        f"{job.progress.seconds:.0f} s; Gram matrices "
        + (f"from sketches, standard error {profile.sketch:.1%}" if profile.sketch else "exact")
    )
    if timed is not None:
        whole = profile.whole_site
        print(
            f"one call takes {timed.uncached:.3g} s; {whole} {timed.computed[whole]:.3g} s an evaluation, "
            f"{timed.predicted[whole]:.3g} s predicted",
            flush=True,
        )
    profile.save(out)
    print(f"wrote {out} ({out.stat().st_size / 1e6:.1f} MB)")
    return 0


def _observed(job: Job, prompts: Sequence[str]) -> Profile:
    from dcache.search.attention import with_attention
    from dcache.search.importance import importance
    from dcache.search.observe import observe
    from dcache.search.removal import with_removal
    from dcache.search.segments import with_segments

    arguments, subject, progress = job.arguments, job.subject, job.progress
    profile = observe(
        subject,
        prompts,
        sites=arguments.sites.split(",") if arguments.sites else None,
        seed=arguments.seed,
        cap=int(arguments.cap * GIB),
        component=arguments.component,
        repeats=arguments.repeats,
        results=job.results,
        progress=progress,
    )
    if arguments.importance:
        profile = importance(
            subject, profile, prompts, seed=arguments.seed, progress=progress, results=job.results
        )
    if arguments.attention or arguments.method == "profilingdit":
        progress("attention")
        profile = with_attention(subject, profile, prompts)
    if arguments.removal:
        profile = with_removal(subject, profile, prompts, seed=arguments.seed, progress=progress)
    if arguments.segments or arguments.method == "lemica":
        profile = with_segments(
            subject, profile, prompts, seed=arguments.seed, results=job.results, progress=progress
        )
    return profile


def _plan(job: Job) -> int:
    from dcache.schedulers.planners import for_speedup
    from dcache.search.check import check, refuse_other
    from dcache.search.corrections import fit_corrections

    arguments, subject, progress = job.arguments, job.subject, job.progress
    held_out = max(1, len(job.prompts) // 3)
    seen, checking = job.prompts[held_out:], job.prompts[:held_out]
    if arguments.profile is not None:
        profile = Profile.load(arguments.profile)
        refuse_other(profile, subject)
    else:
        profile = _observed(job, seen)
    progress(f"planning: {arguments.method}")
    schedule = for_speedup(profile, arguments.method, arguments.speedup)
    if arguments.method in CORRECTED:
        progress("corrections")
        schedule = fit_corrections(subject, schedule, seen, seed=arguments.seed + held_out)[0]
    progress("checking on the pipeline")
    checked = check(
        subject, schedule, checking, profile=profile, seed=arguments.seed, repeats=arguments.repeats
    )
    _save(checked, arguments.out)
    print(f"{progress.seconds:.0f} s in all\n\n{_how(arguments.out)}")
    return 0


def _route(job: Job) -> int:
    from dcache.search.route import calibrate_router

    given = job.arguments
    options = {"iterations": given.iterations, "seed": given.seed, "repeats": given.repeats}
    checked = calibrate_router(
        job.subject, job.prompts, given.speedup, **options, results=job.results, progress=job.progress
    )
    _save(checked, given.out)
    print(f"{job.progress.seconds:.0f} s in all\n\n{_how(given.out)}")
    return 0


def _search(job: Job) -> int:
    from dcache.search.calibrate import calibrate

    arguments, progress = job.arguments, job.progress
    calibrated = calibrate(
        job.subject,
        job.prompts,
        arguments.speedup,
        budget=arguments.budget,
        seed=arguments.seed,
        repeats=arguments.repeats,
        starts=_starts(job),
        results=job.results,
        progress=progress.counted,
    )
    print(
        f"{_computes(calibrated.schedule)}\n"
        f"speedup: {calibrated.expected:.2f}x expected, {calibrated.speedup:.2f}x measured\n"
        f"PSNR on other prompts: {calibrated.placed:.1f} dB with these computed evaluations, "
        f"{calibrated.fitted:.1f} dB with fitted weights\n"
        f"{calibrated.rendered} cached runs, {progress.seconds:.0f} s",
        flush=True,
    )
    calibrated.schedule.save(arguments.out)
    print(f"\n{_how(arguments.out)}")
    return 0


def _starts(job: Job) -> list[Schedule]:
    """Plans of dcache's planners from `--profile`, and a router's with `--router`."""
    from dcache.schedulers.planners import for_speedup
    from dcache.search.check import refuse_other
    from dcache.search.route import whole_start

    given, starts = job.arguments, []
    if given.router:
        options = {"iterations": given.router, "seed": given.seed, "repeats": given.repeats}
        more: dict[str, Any] = {**options, "results": job.results, "progress": job.progress}
        starts.append(whole_start(job.subject, job.prompts, given.speedup, **more))
    if given.profile is not None:
        profile = Profile.load(given.profile)
        refuse_other(profile, job.subject)
        for name, predictor in STARTS:
            # A planner may not reach this speedup.
            with suppress(DcacheError):
                starts.append(for_speedup(profile, name, given.speedup, predictor=predictor))
    return starts


def _save(checked: Checked, out: Path) -> None:
    """Print the schedule's expected and measured figures, and save it."""
    expected = "" if checked.expected is None else f"{checked.expected:.2f}x expected, "
    share = "" if checked.flops is None else f"; {checked.flops:.0%} of the sites' FLOPs"
    print(
        f"{_computes(checked.schedule)}\n"
        f"speedup: {expected}{checked.speedup:.2f}x measured{share}\n"
        f"PSNR on other prompts: {checked.psnr:.1f} dB"
    )
    if checked.cost is not None:
        print(f"a call of as many pictures as the profile was timed with: {checked.cost}")
    sys.stdout.flush()
    checked.schedule.save(out)


def _computes(schedule: Schedule) -> str:
    """The computed evaluations if all sites have the same ones; else the computed share."""
    (plan,) = schedule.components.values()
    rows = [row for sites in plan.rows.values() for row in sites.values()]
    if len(set(rows)) == 1:
        listed = ", ".join(str(t) for t, computed in enumerate(rows[0]) if computed)
        return f"computes {sum(rows[0])} of {schedule.steps} evaluations: {listed}"
    share = sum(map(sum, rows)) / (schedule.steps * len(rows))
    return f"computes {share:.0%} of {schedule.steps} evaluations of {len(plan.sites)} sites"


def _how(out: Path) -> str:
    return f"dcache.enable(pipe, {str(out)!r})  # dcache show {out}"
