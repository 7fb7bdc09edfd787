"""`dcache calibrate`: a schedule for one pipeline and one speedup, found on its own pictures."""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING

from dcache.cli.bench import add_pipeline, pipeline_options, prompts_of

if TYPE_CHECKING:
    from argparse import _SubParsersAction


def add(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "calibrate",
        help="a schedule for one pipeline and one speedup",
        description=(
            "Time the pipeline, search where to compute, fit the predictions' weights on the final pictures, "
            "check on prompts that were not fitted on; write a schedule file."
        ),
    )
    add_pipeline(parser)
    parser.add_argument(
        "--prompts", default="", metavar="P", help="as in dcache eval: a file, a named set, or the prompt"
    )
    parser.add_argument(
        "--speedup", type=float, default=2.5, metavar="S", help="of the whole call (default: 2.5)"
    )
    parser.add_argument(
        "--budget", type=int, default=60, metavar="N", help="most sets of places to look at (default: 60)"
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="S", help="of pictures and search (default: 0)"
    )
    parser.add_argument(
        "--repeats", type=int, default=3, metavar="R", help="timed calls of each (default: 3)"
    )
    out = Path("calibrated.schedule.json")
    parser.add_argument("--out", type=Path, default=out, metavar="FILE", help=f"(default: {out})")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Calibrate, write the schedule, print what it promises and what it did."""
    from dcache.eval.subject import load
    from dcache.search.calibrate import calibrate

    prompts, options, began = prompts_of(arguments), pipeline_options(arguments), time.perf_counter()

    def tell(what: str) -> None:
        print(f"{what} ({time.perf_counter() - began:.0f} s)", file=sys.stderr, flush=True)

    found = calibrate(
        load(arguments.pipeline, **options),
        prompts,
        arguments.speedup,
        budget=arguments.budget,
        seed=arguments.seed,
        repeats=arguments.repeats,
        tell=tell,
    )
    found.schedule.save(arguments.out)
    (plan,) = found.schedule.components.values()
    row = next(iter(plan.rows["*"].values()))
    print(
        f"computes {sum(row)} of {found.schedule.steps} evaluations: "
        f"{', '.join(str(t) for t, computed in enumerate(row) if computed)}\n"
        f"speedup: {found.expected:.2f}x expected, {found.speedup:.2f}x measured\n"
        f"PSNR on prompts that were not fitted on: {found.placed:.1f} dB with these places, "
        f"{found.fitted:.1f} dB with fitted weights\n"
        f"{found.rendered} cached runs, {time.perf_counter() - began:.0f} s\n\n"
        f"dcache.enable(pipe, {str(arguments.out)!r})  # dcache show {arguments.out}"
    )
    return 0
