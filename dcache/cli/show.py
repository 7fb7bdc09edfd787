"""`dcache show`: a schedule as text or as a PNG, a profile as a table, what is found in a pipeline."""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from dcache.cli.parser import path_of, png_of
from dcache.cli.show_profile import draw_profile, profile_content
from dcache.errors import DcacheError
from dcache.eval.packages import require
from dcache.eval.schedules import Panel, computed_share, draw_schedule, heading, panels, weight_lines
from dcache.eval.sources import SHIPPED
from dcache.profile import Profile
from dcache.schedule import Plan, Schedule
from dcache.util.files import try_file

if TYPE_CHECKING:
    from argparse import _SubParsersAction

MARKS = ("■", "·")
PLAIN_MARKS = ("#", ".")
WIDTH = 80


def add(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "show", help="draw a schedule or a profile, or say what dcache finds in a pipeline"
    )
    parser.add_argument(
        "what",
        type=_named,
        metavar="FILE|PIPE",
        help="a schedule file, a profile (.safetensors), or a pipeline: demo, demo-video, a folder of "
        "save_pretrained, a hub id",
    )
    parser.add_argument("--png", type=png_of, metavar="OUT.png", help="also draw it into this file")
    parser.add_argument("--json", action="store_true", help="print the schedule as JSON instead")
    parser.set_defaults(run=run)


def _named(text: str) -> str:
    """The text of a path or name: a `Path` would make ./name a name of the hub."""
    path_of(text)
    return text


def run(arguments: argparse.Namespace) -> int:
    """Print a schedule, one row for each group of sites with equal rows, or a profile.

    Of a pipeline: its blocks, sublayers and skips, and how they are found.
    """
    if _is_pipeline(arguments.what):
        return _show_pipeline(arguments)
    if Path(arguments.what).suffix == ".safetensors":
        return _profile(arguments)
    schedule = Schedule.load(arguments.what)
    if arguments.png is not None:
        require("bench", "--png", "matplotlib")
        try_file(arguments.png)
    if arguments.json:
        print(json.dumps(schedule.content(), indent=1))
        return 0
    for line in draw(schedule, _marks(sys.stdout.encoding)):
        print(line)
    if arguments.png is not None:
        print(f"\n{draw_schedule(arguments.png, schedule)}")
    return 0


def _is_pipeline(what: str) -> bool:
    path = Path(what)
    known = what in SHIPPED or path.is_dir()
    return not path.is_file() and (known or path.suffix not in (".json", ".safetensors"))


def _show_pipeline(arguments: argparse.Namespace) -> int:
    what = arguments.what
    if arguments.json or arguments.png is not None:
        raise DcacheError(f"--json and --png are for schedules, and {what!r} is no schedule file")
    from dcache.cli.show_pipeline import describe
    from dcache.eval.subject import load

    try:
        pipe = load(what, device="cpu").pipe
    except DcacheError as error:
        if Path(what).exists():
            raise
        raise DcacheError(f"{error} Nor is there a schedule or profile file of this name.") from error
    for line in describe(pipe):
        print(line)
    return 0


def _profile(arguments: argparse.Namespace) -> int:
    profile = Profile.load(arguments.what)
    if arguments.png is not None:
        raise DcacheError("--png draws a schedule, and this is a profile: leave --png out")
    if arguments.json:
        print(json.dumps(profile_content(profile), indent=1))
        return 0
    for line in draw_profile(profile):
        print(line)
    return 0


def draw(schedule: Schedule, marks: tuple[str, str] = MARKS) -> Iterator[str]:
    """The lines of the drawing; `marks` are those of computed and predicted."""
    yield heading(schedule)
    if schedule.sigmas:
        yield f"own noise levels: {', '.join(f'{s:.3g}' for s in schedule.sigmas)}"
    tables = panels(schedule)
    for name, plan in schedule.components.items():
        parts = [table for table in tables if table.component == name]
        yield ""
        yield f"{parts[0].denoiser}: predicted by {parts[0].predictor}"
        if plan.corrections is not None:
            yield f"corrected by channel: {', '.join(plan.corrections.sites)}"
        for table in parts:
            if table.branch:
                yield table.branch
            yield from _rows(table, schedule.steps, marks)
        yield computed_share(plan)
        yield from _weights(plan)
    yield ""
    yield f"{marks[0]} computed  {marks[1]} predicted"


def _weights(plan: Plan) -> Iterator[str]:
    """The table of a fitted predictor's weights; nothing for all other predictors."""
    lines = weight_lines(plan)
    if not lines:
        return
    heads = ["table", "site", "evaluation", "= weight of the output at each computed evaluation"]
    widths = [max(len(line[i]) for line in [heads, *lines]) for i in range(3)]
    yield ""
    for name, site, t, weights in [heads, *lines]:
        yield f"  {name:<{widths[0]}}  {site:<{widths[1]}}  {t:>{widths[2]}}  {weights}"


def _rows(table: Panel, steps: int, marks: tuple[str, str]) -> Iterator[str]:
    width = max(len(strip.name) for strip in table.strips)
    for start in range(0, steps, WIDTH):
        count = min(WIDTH, steps - start)
        ruler = "".join(f"{start + i:<10}" for i in range(0, count, 10))
        yield f"  {'':<{width}}  {ruler}".rstrip()
        for strip in table.strips:
            cells = strip.cells[start : start + count]
            picture = "".join(marks[0] if computed else marks[1] for computed in cells)
            yield f"  {strip.name:<{width}}  {picture}  {strip.share:4.0%}"


def _marks(encoding: str | None) -> tuple[str, str]:
    try:
        "".join(MARKS).encode(encoding or "ascii")
    except UnicodeEncodeError:
        return PLAIN_MARKS
    return MARKS
