"""`dcache calibrate`: measure a profile of a pipeline, or find a schedule for one speedup."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

from dcache.cli.bench import PROMPTS, add_pipeline, pipeline_options, prompts_of
from dcache.cli.progress import StageLog
from dcache.errors import DcacheError

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    from dcache.eval.subject import Subject
    from dcache.profile import Profile
    from dcache.schedule import Schedule
    from dcache.search.check import Checked

AUTO = "auto"
# Planners whose schedules need corrections, which are fitted afterwards.
CORRECTED = ("cachequant", "ertacache")
# Planners and predictors whose plans `auto` starts from, if there is a profile.
STARTS = (("pairs", "fitted"), ("pairs", "newton"), ("pairs", "reuse"), ("knapsack", "fitted"))
PROFILE, SCHEDULE = ".safetensors", ".json"
GIB = 1 << 30


def add(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "calibrate",
        help="find a schedule for one pipeline and one speedup, or measure a profile",
        description=(
            "--method auto: search the evaluations to compute and fit the predictions' weights, both on "
            "final pictures. Any other method: measure a profile from uncached runs (or read --profile) and "
            "plan from it. Either way the schedule is checked on prompts that it was not fitted on, and "
            "saved. With --out FILE.safetensors only the profile is measured and saved."
        ),
    )
    add_pipeline(parser)
    parser.add_argument("--prompts", default="", metavar="P", help=PROMPTS.partition(";")[0])
    _add_planning(parser)
    _add_observation(parser)
    parser.add_argument(
        "--seed",
        type=int,
        default=0,
        metavar="S",
        help="seed of the first picture and of the search (default: 0)",
    )
    parser.add_argument(
        "--repeats", type=int, default=3, metavar="R", help="timed calls of each (default: 3)"
    )
    out = Path("calibrated.schedule.json")
    parser.add_argument(
        "--out",
        type=Path,
        default=out,
        metavar="FILE",
        help=f"{SCHEDULE} for the schedule (default: {out}), {PROFILE} for the profile",
    )
    parser.set_defaults(run=run)


def _add_planning(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of planning and search."""
    from dcache.schedulers.planners import PLANNERS

    parser.add_argument(
        "--method",
        default=AUTO,
        choices=(AUTO, *PLANNERS),
        metavar="M",
        help=f"{AUTO}, {', '.join(PLANNERS)}",
    )
    parser.add_argument(
        "--speedup", type=float, default=2.5, metavar="S", help="speedup of the whole call (default: 2.5)"
    )
    parser.add_argument(
        "--profile",
        type=Path,
        metavar="FILE",
        help="plan from this profile instead of observing; auto: start from plans made from it",
    )
    parser.add_argument(
        "--budget",
        type=int,
        default=60,
        metavar="N",
        help="auto: most sets of computed evaluations to try (default: 60)",
    )


def _add_observation(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of the observation."""
    parser.add_argument(
        "--importance",
        action="store_true",
        help="also measure the error of the pictures when each evaluation alone is predicted: a run for each",
    )
    parser.add_argument(
        "--attention",
        action="store_true",
        help="also measure which blocks attend to the foreground, for --method profilingdit",
    )
    parser.add_argument(
        "--sites",
        metavar="LIST",
        help="sites to observe, separated by commas (default: all that dcache can observe)",
    )
    parser.add_argument(
        "--cap", type=float, default=2.0, metavar="GIB", help="host memory for features, in GiB (default: 2)"
    )
    parser.add_argument("--component", metavar="NAME", help="name of the denoiser, if there are several")


def run(arguments: argparse.Namespace) -> int:
    """Measure a profile or find a schedule, by the ending of `--out`."""
    from dcache.eval.subject import load

    if arguments.out.suffix not in (PROFILE, SCHEDULE):
        raise DcacheError(
            f"--out must end with {SCHEDULE} (a schedule) or {PROFILE} (a profile), got {arguments.out}"
        )
    if not arguments.out.resolve().parent.is_dir():
        raise DcacheError(f"--out: there is no folder {arguments.out.resolve().parent}")
    if arguments.profile is not None and arguments.out.suffix == PROFILE:
        raise DcacheError(
            f"--profile is read to plan a schedule, but --out FILE{PROFILE} measures a new profile: leave "
            "one of them out"
        )
    prompts = prompts_of(arguments)
    if not prompts:
        raise DcacheError(
            "expected at least three prompts, for observing or fitting and for checking, got none"
        )
    subject = load(arguments.pipeline, **pipeline_options(arguments))
    progress = StageLog()
    if arguments.out.suffix == PROFILE:
        return _observe_only(arguments, subject, prompts, progress)
    if arguments.method == AUTO:
        return _search(arguments, subject, prompts, progress)
    return _plan(arguments, subject, prompts, progress)


def _observe_only(
    arguments: argparse.Namespace, subject: Subject, prompts: Sequence[str], progress: StageLog
) -> int:
    profile = _observed(arguments, subject, prompts, progress)
    profile.save(arguments.out)
    timed = profile.latencies
    print(
        f"observed {len(profile.sites)} sites in {profile.prompts} runs of {profile.steps} evaluations, "
        f"{progress.seconds:.0f} s; Gram matrices "
        + (f"from sketches, standard error {profile.sketch:.1%}" if profile.sketch else "exact")
    )
    if timed is not None:
        whole = profile.whole_site
        print(
            f"one call takes {timed.uncached:.3g} s; {whole} {timed.computed[whole]:.3g} s an evaluation, "
            f"{timed.predicted[whole]:.3g} s predicted"
        )
    print(f"wrote {arguments.out} ({arguments.out.stat().st_size / 1e6:.1f} MB)")
    return 0


def _observed(
    arguments: argparse.Namespace, subject: Subject, prompts: Sequence[str], progress: StageLog
) -> Profile:
    from dcache.search.attention import with_attention
    from dcache.search.importance import importance
    from dcache.search.observe import observe

    profile = observe(
        subject,
        prompts,
        sites=arguments.sites.split(",") if arguments.sites else None,
        seed=arguments.seed,
        cap=int(arguments.cap * GIB),
        component=arguments.component,
        repeats=arguments.repeats,
        progress=progress,
    )
    if arguments.importance:
        profile = importance(subject, profile, prompts, seed=arguments.seed, progress=progress)
    if arguments.attention or arguments.method == "profilingdit":
        progress("attention")
        profile = with_attention(subject, profile, prompts)
    return profile


def _plan(arguments: argparse.Namespace, subject: Subject, prompts: Sequence[str], progress: StageLog) -> int:
    from dcache.profile import Profile
    from dcache.schedulers.planners import for_speedup
    from dcache.search.check import check, refuse_other
    from dcache.search.corrections import fit_corrections

    held_out = max(1, len(prompts) // 3)
    seen, checking = prompts[held_out:], prompts[:held_out]
    if not seen:
        raise DcacheError(f"expected two or more prompts, for observing and for checking, got {len(prompts)}")
    if arguments.profile is not None:
        profile = Profile.load(arguments.profile)
        refuse_other(profile, subject)
    else:
        profile = _observed(arguments, subject, seen, progress)
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


def _search(
    arguments: argparse.Namespace, subject: Subject, prompts: Sequence[str], progress: StageLog
) -> int:
    from dcache.search.calibrate import calibrate

    calibrated = calibrate(
        subject,
        prompts,
        arguments.speedup,
        budget=arguments.budget,
        seed=arguments.seed,
        repeats=arguments.repeats,
        starts=_starts(arguments, subject),
        progress=progress,
    )
    calibrated.schedule.save(arguments.out)
    print(
        f"{_computes(calibrated.schedule)}\n"
        f"speedup: {calibrated.expected:.2f}x expected, {calibrated.speedup:.2f}x measured\n"
        f"PSNR on other prompts: {calibrated.placed:.1f} dB with these computed evaluations, "
        f"{calibrated.fitted:.1f} dB with fitted weights\n"
        f"{calibrated.rendered} cached runs, {progress.seconds:.0f} s\n\n{_how(arguments.out)}"
    )
    return 0


def _starts(arguments: argparse.Namespace, subject: Subject) -> list[Schedule]:
    """Plans of dcache's planners from `--profile`; none without it."""
    from dcache.profile import Profile
    from dcache.schedulers.planners import for_speedup
    from dcache.search.check import refuse_other

    if arguments.profile is None:
        return []
    profile = Profile.load(arguments.profile)
    refuse_other(profile, subject)
    starts = []
    for name, predictor in STARTS:
        # A planner may not reach this speedup.
        with suppress(DcacheError):
            starts.append(for_speedup(profile, name, arguments.speedup, predictor=predictor))
    return starts


def _save(checked: Checked, out: Path) -> None:
    """Save the schedule and print its expected and measured figures."""
    checked.schedule.save(out)
    expected = "" if checked.expected is None else f"{checked.expected:.2f}x expected, "
    share = "" if checked.flops is None else f"; {checked.flops:.0%} of the sites' FLOPs"
    print(
        f"{_computes(checked.schedule)}\n"
        f"speedup: {expected}{checked.speedup:.2f}x measured{share}\n"
        f"PSNR on other prompts: {checked.psnr:.1f} dB"
    )
    if checked.cost is not None:
        print(f"a call of as many pictures as the profile was timed with: {checked.cost}")


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
