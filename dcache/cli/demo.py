"""`dcache demo`: everything on a shipped model, on a CPU, with and without caching."""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from pathlib import Path
from typing import TYPE_CHECKING

from dcache.demo.report import Row, notes, table
from dcache.demo.run import Report, make_folder, run, write_report
from dcache.demo.settings import Settings
from dcache.demo.specs import parse
from dcache.demo.video import run as video
from dcache.demo.video.clips import FRAMES

if TYPE_CHECKING:
    from argparse import _SubParsersAction

FAITHFUL = 35.0


def add(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    pictures, clips = Settings(), video.settings()
    parser = commands.add_parser(
        "demo",
        help="the shipped model with and without caching, on a CPU",
        description="Make the same pictures without caching and with several methods; compare them.",
    )
    parser.add_argument(
        "--video", action="store_true", help="clips of a small video model, instead of pictures"
    )

    def option(name: str, kind: Callable[[str], object], metavar: str, text: str) -> None:
        usual, other = getattr(pictures, name), getattr(clips, name)
        default = f"default: {usual}" + (f"; with --video: {other}" if other != usual else "")
        parser.add_argument(
            f"--{name}", type=kind, default=argparse.SUPPRESS, metavar=metavar, help=f"{text} ({default})"
        )

    option("out", Path, "FOLDER", "where the files go")
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
    """Run it, print the table, write the files, say what to do next."""
    usual = video.settings() if arguments.video else Settings()
    given = {field.name: getattr(arguments, field.name, None) for field in fields(Settings)}
    settings = replace(usual, **{name: value for name, value in given.items() if value is not None})
    count = len(parse(settings.methods)) + 1
    make_folder(settings.out)
    with _progress(count, settings.repeats) as tell:
        report = video.run(settings, tell) if arguments.video else run(settings, tell)
    extra = _flicker(report) if arguments.video else None
    print(_heading(report, arguments.video), table(report.uncached, report.rows, extra), sep="\n\n")
    print(_legend(arguments.video))
    for note in notes(report.uncached, report.methods, report.rows):
        print(f"note: {note}")
    files = video.write_report(report) if arguments.video else write_report(report)
    print(
        f"\nwrote {', '.join(map(str, files))} and {settings.out / 'schedules'} in {report.seconds:.0f} s\n"
    )
    print(_next(report))
    return 0


def _flicker(report: Report) -> dict[str, list[str]]:
    return {"flicker": ["-" if f is None else f"{f:.2f}" for f in video.flickers(report)]}


def _legend(clips: bool) -> str:
    if not clips:
        return "* best of its column; PSNR and SSIM are to the uncached pictures"
    return (
        "* best of its column; PSNR and SSIM are to the uncached clips, means over all frames;\n"
        "  flicker is how much the error changes from frame to frame, in levels of 255"
    )


def _heading(report: Report, clips: bool) -> str:
    settings, machine, versions = report.settings, report.machine, report.versions
    what = f"clips of {FRAMES} frames" if clips else "pictures"
    return (
        f"{what}: {settings.prompts}, steps: {settings.steps}, guidance: {settings.guidance:g}, "
        f"calls of the whole pipeline: {settings.repeats}, of which the median\n"
        f"{machine['processor']}, threads: {machine['threads']}; python {versions['python']}, "
        f"torch {versions['torch']}, diffusers {versions['diffusers']}, dcache {versions['dcache']}"
    )


def _next(report: Report) -> str:
    """Three lines: enable, enable the fastest faithful method, ask what it did."""
    pairs = zip(report.methods, report.rows, strict=True)
    good = [(its.speedup, one.choice.call) for one, its in pairs if _faithful(its) and one.choice.call != ")"]
    call = max(good, key=lambda pair: pair[0] or 0)[1] if good else ", dcache.methods.newton(interval=4))"
    lines = {
        "dcache.enable(pipe)": "next: on your own diffusers pipeline",
        f"dcache.enable(pipe{call}": f"the fastest above {FAITHFUL:.0f} dB here"
        if good else "more speed, less fidelity; `dcache methods` lists more",
        "print(dcache.stats(pipe))": "what it computed, and why",
    }  # fmt: skip
    width = max(map(len, lines))
    return "\n".join(f"{line:<{width}}  # {comment}" for line, comment in lines.items())


def _faithful(its: Row) -> bool:
    return (its.speedup or 0) > 1 and (its.mean_psnr or 0) >= FAITHFUL


@contextmanager
def _progress(contestants: int, repeats: int) -> Iterator[Callable[[int, str], None]]:
    """A bar on a terminal; elsewhere a line for each round."""
    if sys.stderr.isatty():
        from tqdm import tqdm

        with tqdm(
            total=contestants * (repeats + 1), desc="loading the model", leave=False, file=sys.stderr
        ) as bar:
            calls = 0

            def move(turn: int, label: str) -> None:
                nonlocal calls
                bar.update(int(calls > 0))
                bar.set_description(f"{_round(turn, repeats)}: {label}")
                calls += 1

            yield move
        return
    began, told = time.perf_counter(), -1

    def say(turn: int, _: str) -> None:
        nonlocal told
        if turn > told:
            told = turn
            print(
                f"{_round(turn, repeats)} ({time.perf_counter() - began:.0f} s)", file=sys.stderr, flush=True
            )

    print(f"loading the model; then {repeats + 1} x {contestants} calls", file=sys.stderr, flush=True)
    yield say


def _round(turn: int, repeats: int) -> str:
    return f"round {turn} of {repeats}" if turn else "warm-up"
