"""`dcache show FILE`: what a schedule does, as a picture made of text."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

from dcache.schedule import Plan, Schedule

if TYPE_CHECKING:
    from argparse import _SubParsersAction

MARKS = ("■", "·")
PLAIN_MARKS = ("#", ".")
WIDTH = 80


def add(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = commands.add_parser("show", help="draw a schedule: which site is computed at which evaluation")
    parser.add_argument("file", type=Path, metavar="FILE", help="a schedule file")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print one row per site (or run of sites alike): a filled mark where it is computed."""
    schedule = Schedule.load(arguments.file)
    for line in draw(schedule, _marks(sys.stdout.encoding)):
        print(line)
    return 0


def draw(schedule: Schedule, marks: tuple[str, str] = MARKS) -> Iterator[str]:
    """The lines of the picture."""
    sampler = f", {schedule.sampler}" if schedule.sampler else ""
    yield f"{schedule.method or 'schedule'}: {schedule.steps} evaluations{sampler}"
    for name, plan in schedule.components.items():
        parameters = ", ".join(f"{k}={v}" for k, v in plan.parameters.items())
        predictor = f"{plan.predictor}({parameters})"
        yield ""
        yield f"{name or 'denoiser'} {plan.model}".rstrip() + f": predicted by {predictor}"
        for branch, rows in plan.rows.items():
            if branch != "*":
                yield f"branch {branch}"
            yield from _rows(rows, schedule.steps, marks)
        yield f"computed {plan.computed} of {_events(plan)} ({plan.computed / _events(plan):.0%})"
    yield ""
    yield f"{marks[0]} computed  {marks[1]} predicted"


def _rows(rows: Mapping[str, tuple[bool, ...]], steps: int, marks: tuple[str, str]) -> Iterator[str]:
    groups = [
        (row, [site for site, _ in group]) for row, group in groupby(rows.items(), key=lambda item: item[1])
    ]
    names = [s[0] if len(s) == 1 else f"{s[0]} to {s[-1]} ({len(s)})" for _, s in groups]
    width = max(map(len, names))
    for start in range(0, steps, WIDTH):
        count = min(WIDTH, steps - start)
        ruler = "".join(f"{start + i:<10}" for i in range(0, count, 10))
        yield f"  {'':<{width}}  {ruler}".rstrip()
        for name, (row, _) in zip(names, groups, strict=True):
            picture = "".join(marks[0] if computed else marks[1] for computed in row[start : start + count])
            yield f"  {name:<{width}}  {picture}  {sum(row) / len(row):4.0%}"


def _events(plan: Plan) -> int:
    return sum(len(row) for rows in plan.rows.values() for row in rows.values())


def _marks(encoding: str | None) -> tuple[str, str]:
    try:
        "".join(MARKS).encode(encoding or "ascii")
    except UnicodeEncodeError:
        return PLAIN_MARKS
    return MARKS
