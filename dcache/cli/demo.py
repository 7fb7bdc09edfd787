"""`dcache demo`: a comparison of methods on a shipped model, on a CPU."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, fields, replace
from typing import TYPE_CHECKING, Any

from dcache.cli.parser import path_of
from dcache.cli.progress import rounds
from dcache.demo.settings import Settings, default_settings, require_packages
from dcache.util.files import try_folder

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    from dcache.demo.run import Report
    from dcache.eval.rows import Row

# PSNR in dB above which a method counts as faithful.
FAITHFUL = 35.0
SHOWN = ("computed", "seconds", "speedup", "PSNR dB", "SSIM", "held")


def add(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    pictures, clips = default_settings(video=False), default_settings(video=True)
    parser = commands.add_parser(
        "demo",
        help="run the shipped model with and without caching, on a CPU",
        description="Make the same pictures without caching and with several methods, and compare them.",
    )
    parser.add_argument(
        "--video", action="store_true", help="clips of a small video model, instead of pictures"
    )

    def option(name: str, kind: Callable[[str], object], metavar: str, text: str) -> None:
        default, other = getattr(pictures, name), getattr(clips, name)
        defaults = f"default: {default}" + (f"; with --video: {other}" if other != default else "")
        parser.add_argument(
            f"--{name}", type=kind, default=argparse.SUPPRESS, metavar=metavar, help=f"{text} ({defaults})"
        )

    option("out", path_of, "FOLDER", "folder for the files")
    option("steps", int, "N", "sampling steps")
    option("prompts", int, "N", "number of captions")
    option(
        "methods",
        str,
        "LIST",
        "presets, presets with options such as 'newton:interval=4,order=1', and schedule files, "
        "separated by ';'",
    )
    option("guidance", float, "G", "1 turns it off")
    option("seed", int, "S", "seed of the first picture")
    option("repeats", int, "R", "timed calls of each")
    parser.set_defaults(run=demo)


def demo(arguments: argparse.Namespace) -> int:
    """Run the demonstration, print the table, write the files, and print the next steps."""
    from dcache.demo.run import methods_of, run, write_report
    from dcache.eval.rows import notes, table

    given = {field.name: getattr(arguments, field.name, None) for field in fields(Settings)}
    settings = replace(default_settings(arguments.video), **{k: v for k, v in given.items() if v is not None})
    require_packages(settings.video)
    count = len(methods_of(settings)) + 1
    try_folder(settings.out)
    with rounds(count, settings.repeats) as progress:
        report = run(settings, progress)
    done = report.bench
    print(heading_of(asdict(settings), done.machine, done.versions), end="\n\n")
    print(
        table(done.uncached, done.rows, SHOWN, judged_cells(report.judged)), legend(settings.video), sep="\n"
    )
    for note in [*notes(done.uncached, done.methods, done.rows), done.unrestored]:
        if note:
            print(f"note: {note}")
    files = write_report(report)
    print(
        f"\nwrote {', '.join(map(str, files))} and {settings.out / 'schedules'} in {report.seconds:.0f} s\n"
    )
    print(next_steps(report))
    return 0


def judged_cells(judged: Mapping[str, Sequence[float | None]]) -> dict[str, list[str]]:
    """Heading -> cells of the demo's own metrics, the uncached pipeline's first."""
    cells = {}
    for head, values in judged.items():
        digits = 2 if head == "flicker" else 3
        cells[head] = ["-" if value is None else f"{value:.{digits}f}" for value in values]
    return cells


def legend(clips: bool) -> str:
    """The lines below the table of pictures or clips."""
    if not clips:
        return (
            "* best of its column; PSNR, SSIM and frechet-shapes are to the uncached pictures; clip-shapes\n"
            "  and frechet-shapes (lower is better) are the demo's own stand-ins for CLIP score and FID;\n"
            "  of so few pictures the latter only compares rows"
        )
    return (
        "* best of its column; PSNR and SSIM are to the uncached clips, means over all frames;\n"
        "  flicker is the mean change of the error from frame to frame, in levels of 255"
    )


def heading_of(settings: Mapping[str, Any], machine: dict[str, Any], versions: dict[str, str]) -> str:
    """The two lines above the table: what was made, and where.

    Args:
        settings: fields of `dcache.demo.settings.Settings`.
        machine: `dcache.eval.machine.machine`.
        versions: `dcache.eval.machine.versions`.
    """
    from dcache.demo.video.clips import FRAMES
    from dcache.eval.machine import heading

    what = f"clips of {FRAMES} frames" if settings["video"] else "pictures"
    return (
        f"{what}: {settings['prompts']}, steps: {settings['steps']}, guidance: {settings['guidance']:g}, "
        f"timed calls of each: {settings['repeats']} (seconds: the median, whole pipeline)\n"
        + heading(machine, versions)
    )


def next_steps(report: Report) -> str:
    """Three lines of code with comments: enable, enable the fastest faithful method, print statistics.

    The lines are for the reader's own pipeline: schedules and measurements of the demo's model are left out.
    """
    pairs = zip(report.bench.methods, report.bench.rows, strict=True)
    calls = [
        (row.speedup, measured.contestant.call)
        for measured, row in pairs
        if _faithful(row) and measured.contestant.portable
    ]
    good = [pair for pair in calls if pair[1] != ")"]
    call = max(good, key=lambda pair: pair[0] or 0)[1] if good else ", dcache.methods.newton(interval=4))"
    lines = {
        "dcache.enable(pipe)": "next: on your own diffusers pipeline",
        f"dcache.enable(pipe{call}": f"the fastest preset above {FAITHFUL:.0f} dB here; yours: dcache bench"
        if good else "more speed, less fidelity; `dcache methods` lists more",
        "print(dcache.stats(pipe))": "what it computed, and why",
    }  # fmt: skip
    width = max(map(len, lines))
    return "\n".join(f"{line:<{width}}  # {comment}" for line, comment in lines.items())


def _faithful(row: Row) -> bool:
    # A method that predicted nothing has perfect fidelity, but any speedup is chance.
    return row.computed != 1 and (row.speedup or 0) > 1 and (row.mean_psnr or 0) >= FAITHFUL
