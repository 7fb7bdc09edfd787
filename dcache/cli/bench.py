"""`dcache bench`: comparison of methods on any pipeline (speed, memory, FLOPs, fidelity), or of kernels."""

from __future__ import annotations

import argparse
import json
from pathlib import Path
from typing import TYPE_CHECKING

from dcache.cli.parser import path_of
from dcache.cli.progress import rounds
from dcache.cli.run_settings import CALL, PROMPTS, RunSettings, add_pipeline, add_prompts
from dcache.errors import DcacheError
from dcache.eval.packages import require
from dcache.util.files import try_folder

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    from dcache.eval.bench import Bench
    from dcache.eval.kernel_bench import KernelBench

METHODS = (
    "default;interval:interval=3;newton:interval=4;taylorseer:interval=4,lite=true;fbcache:threshold=0.1"
)


def add(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "bench",
        help="compare methods: speed, memory, FLOPs, fidelity",
        description="Run a pipeline without caching and with several methods, in turns, and compare them. "
        "With --kernels no pipeline is run: the kernels that predict, store and compare are timed on bare "
        "tensors.",
    )
    add_pipeline(parser)
    add_prompts(parser, f"{PROMPTS}; all are one batch")
    parser.add_argument("--methods", default=METHODS, metavar="LIST", help=f"{LIST} (default: {METHODS})")
    parser.add_argument(
        "--repeats", type=int, metavar="R", help=f"timed calls of each (default: {REPEATS}; kernels: {TURNS})"
    )
    parser.add_argument(
        "--seed", type=int, default=0, metavar="S", help="seed of the first picture (default: 0)"
    )
    parser.add_argument("--json", action="store_true", help="print the figures as JSON in place of the table")
    parser.add_argument("--no-flops", action="store_true", help="do not count FLOPs in the warm-up calls")
    parser.add_argument(
        "--kernels",
        action="store_true",
        help="time the kernels against a copy and against eager torch; uses --dtype and --device",
    )
    out = Path("bench-out")
    parser.add_argument(
        "--out", type=path_of, default=out, metavar="FOLDER", help=f"folder for the files (default: {out})"
    )
    parser.set_defaults(run=run)


# Default timed rounds of methods, and of kernels, whose calls are short.
REPEATS, TURNS = 3, 9
LIST = (
    "presets, presets with options such as 'newton:interval=4,order=1', and schedule files, separated by ';'"
)


def run(arguments: argparse.Namespace) -> int:
    """Measure, print the table and write the files."""
    return _kernels(arguments) if arguments.kernels else _methods(arguments)


def _methods(arguments: argparse.Namespace) -> int:
    from dcache.eval.bench import bench
    from dcache.eval.bench_files import results, write_bench
    from dcache.eval.specs import parse
    from dcache.eval.subject import coefficients, load

    require("bench", "dcache bench", "matplotlib", "torchmetrics")
    settings = RunSettings.of(arguments)
    contestants = parse(arguments.methods, coefficients(arguments.pipeline))
    prompts = settings.texts()
    repeats = REPEATS if settings.repeats is None else settings.repeats
    try_folder(arguments.out)
    with rounds(len(contestants) + 1, repeats) as progress:
        done = bench(
            load(arguments.pipeline, **settings.call()),
            contestants,
            prompts,
            seed=settings.seed,
            repeats=repeats,
            count_flops=not arguments.no_flops,
            progress=progress,
        )
    # Printed before they are saved: a disk that is full by now must not cost the figures.
    if arguments.json:
        print(json.dumps(results(done), indent=1), flush=True)
        write_bench(done, arguments.out)
        return 0
    report(done)
    files = write_bench(done, arguments.out)
    print(f"\nwrote {', '.join(map(str, files))} and {arguments.out / 'schedules'}")
    return 0


def _kernels(arguments: argparse.Namespace) -> int:
    import torch

    from dcache.cli.progress import shares
    from dcache.eval.kernel_bench import SIZES, kernel_bench
    from dcache.eval.kernel_bench.report import write
    from dcache.eval.subject import placed

    settings = RunSettings.of(arguments)
    given = [f"--{name}" for name in ("prompts", *CALL) if settings.given(name)]
    given += ["--option"] if settings.option else []
    if arguments.pipeline != "demo" or given or arguments.methods != METHODS:
        raise DcacheError(
            "--kernels runs no pipeline: leave out the pipeline, its options, --prompts and --methods"
        )
    dtype, device = placed(settings.dtype, settings.device)
    repeats = TURNS if settings.repeats is None else settings.repeats
    try_folder(arguments.out)
    with shares(0, 1) as progress:
        done = kernel_bench(getattr(torch, dtype), device, sizes=SIZES, repeats=repeats, progress=progress)
    report_kernels(done)
    print(f"\nwrote {write(done, arguments.out)}")
    return 0


def report_kernels(done: KernelBench) -> None:
    """Print the table of the kernel measurement."""
    from dcache.eval.kernel_bench.report import notes, table
    from dcache.eval.machine import heading

    print(f"kernels on {done.device} in {done.dtype}; medians of {done.repeats} turns")
    print(heading(done.machine, done.versions), table(done), sep="\n\n", end="\n\n")
    print(
        "tensor: bytes of one whole tensor; moved: bytes read and written; of copy: share of the rate of a\n"
        "copy of as many bytes; eager: the same in plain torch; gain: speedup over eager"
    )
    for note in notes(done):
        print(f"note: {note}")


def report(done: Bench) -> None:
    """Print the table of the comparison, with its notes."""
    from dcache.eval.machine import heading
    from dcache.eval.rows import notes, table

    subject, repeats = done.subject, len(done.uncached.timed)
    shape = "x".join(map(str, done.uncached.last.output.shape[1:-1]))
    print(
        f"{subject.name} ({type(subject.pipe).__name__}): {len(done.prompts)} of {shape} in one batch, "
        f"steps: {subject.steps}, guidance: {subject.guidance}; medians of {repeats} calls in turns"
    )
    print(heading(done.machine, done.versions), table(done.uncached, done.rows), sep="\n\n", end="\n\n")
    print(
        "* best of its column; speedup: of the whole pipeline call; denoiser: of the time inside it;\n"
        "  PSNR and SSIM: to the uncached output of the same seeds; FLOPs: share of the uncached call's"
    )
    for note in [*notes(done.uncached, done.methods, done.rows), done.unrestored]:
        if note:
            print(f"note: {note}")
