"""Arguments of `dcache calibrate`."""

from __future__ import annotations

import argparse
from pathlib import Path

from dcache.cli.parser import path_of
from dcache.cli.run_settings import add_pipeline, add_prompts
from dcache.errors import DcacheError

AUTO, ROUTER = "auto", "harmonica"
# Endings of `--out`.
PROFILE, SCHEDULE = ".safetensors", ".json"
HELP = "find a schedule for one pipeline and one speedup, or measure a profile"
DESCRIPTION = (
    "--method auto: search the evaluations to compute and fit the predictions' weights, both on final "
    "pictures. harmonica: train a router of all sublayers on whole runs. Any other method: measure a profile "
    "from uncached runs (or read --profile) and plan from it. Either way the schedule is checked on prompts "
    "that it was not fitted on, and saved. With --out FILE.safetensors only the profile is measured and "
    "saved. After a kill the same command goes on."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add all arguments to the command's parser."""
    add_pipeline(parser)
    add_prompts(parser)
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
    add_out(parser, Path("calibrated.schedule.json"))


def add_out(parser: argparse.ArgumentParser, default: Path) -> None:
    """Add the file that is made, whose ending tells what it is."""
    parser.add_argument(
        "--out",
        type=path_of,
        default=default,
        metavar="FILE",
        help=f"{SCHEDULE} for the schedule (default: {default}), {PROFILE} for the profile",
    )


def check_out(out: Path) -> None:
    """Refuse a file that is to be made with another ending.

    Raises:
        DcacheError: it is the name neither of a schedule nor of a profile.
    """
    if out.suffix not in (PROFILE, SCHEDULE):
        raise DcacheError(f"--out must end with {SCHEDULE} (a schedule) or {PROFILE} (a profile), got {out}")


def _add_planning(parser: argparse.ArgumentParser) -> None:
    """Add the arguments of planning and search."""
    from dcache.schedulers.planners import PLANNERS

    parser.add_argument(
        "--method",
        default=AUTO,
        choices=(AUTO, ROUTER, *PLANNERS),
        metavar="M",
        help=f"{AUTO}, {ROUTER}, {', '.join(PLANNERS)}",
    )
    parser.add_argument(
        "--speedup", type=float, default=2.5, metavar="S", help="speedup of the whole call (default: 2.5)"
    )
    parser.add_argument(
        "--profile",
        type=path_of,
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
    parser.add_argument(
        "--iterations", type=int, default=30, metavar="N", help="harmonica: runs to train on (default: 30)"
    )
    parser.add_argument(
        "--router",
        type=int,
        default=0,
        metavar="N",
        help="auto: also start from evaluations that a router learned to compute in N runs (default: 0)",
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
        "--removal",
        action="store_true",
        help="also measure how the output changes without each block, which `yume` plans from",
    )
    parser.add_argument(
        "--segments",
        action="store_true",
        help="also measure the error of the pictures when evaluations in a row are predicted, for --method "
        "lemica: a run for each, 85 for 20 evaluations",
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
