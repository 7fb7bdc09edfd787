"""`dcache import` and `dcache export`: conversion of other methods' files to schedules, and back."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

from dcache.cli.parser import path_of
from dcache.errors import DcacheError
from dcache.importers import FORMATS
from dcache.importers.imported import ORDERS
from dcache.schedule import Schedule
from dcache.util.files import try_file, write, write_json

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    from dcache.importers import Imported

TARGETS = ("cache-dit", "diffusers", "ecad", "schedule", "sglang")
LAYOUT = ("layout", "blocks", "single-blocks")
OPTIONS = ("steps", "blocks", "threshold", "order", "interleaved")


def add(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register both commands."""
    _add_import(commands)
    _add_export(commands)


def _add_import(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser("import", help="turn another method's file into a schedule or coefficients")
    parser.add_argument("file", type=path_of, metavar="FILE", help="the file; for BAC also a folder of lists")
    parser.add_argument(
        "--from",
        dest="source",
        choices=FORMATS,
        metavar="FORMAT",
        help=f"{', '.join(FORMATS)} (default: detected from the content)",
    )
    parser.add_argument("--out", type=path_of, required=True, metavar="OUT.json", help="where to write it")
    parser.add_argument("--steps", type=int, metavar="N", help="evaluations of a run (bac; magcache)")
    parser.add_argument("--blocks", type=int, metavar="N", help="blocks of the model (smoothcache)")
    parser.add_argument(
        "--threshold", type=float, metavar="T", help="threshold of routers (l2c, harmonica; default: 0.1)"
    )
    parser.add_argument(
        "--order", choices=ORDERS, help="whether the file's first row is the run's first step (harmonica)"
    )
    parser.add_argument(
        "--interleaved",
        action=argparse.BooleanOptionalAction,
        help="the numbers of the two guidance branches alternate (magcache)",
    )
    parser.set_defaults(run=run_import)


def _add_export(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    parser = commands.add_parser(
        "export", help="turn a schedule into another method's file, or one for another number of evaluations"
    )
    parser.add_argument("file", type=path_of, metavar="FILE", help="a schedule file")
    parser.add_argument("--to", choices=TARGETS, required=True, help="the format")
    parser.add_argument("--out", type=path_of, required=True, metavar="OUT.json", help="where to write it")
    parser.add_argument("--steps", type=int, metavar="N", help="transfer it to a run of N evaluations")
    parser.add_argument("--layout", choices=("flux", "pixart"), help="if it cannot be inferred")
    parser.add_argument(
        "--blocks",
        type=int,
        metavar="N",
        help="blocks (ecad: default those with sites; cache-dit: of the model)",
    )
    parser.add_argument(
        "--request", type=path_of, metavar="FILE", help="JSON of the request that it is for (sglang)"
    )
    parser.add_argument("--single-blocks", type=int, metavar="N", help="FLUX's single blocks after them")
    parser.set_defaults(run=run_export)


def run_import(arguments: argparse.Namespace) -> int:
    """Read a file, print a summary, and write a schedule or a coefficients file."""
    from dcache.importers import read

    options = {name: getattr(arguments, name) for name in OPTIONS}
    _refuse_same(arguments)
    imported = read(arguments.file, arguments.source, **options)
    for line in describe(imported):
        print(line)
    if imported.schedule is not None:
        written = imported.schedule.save(arguments.out)
    else:
        content = {"format": "dcache.coefficients", "version": 1, "of": {"imported": arguments.file.name}}
        written = write_json(arguments.out, {**content, **imported.coefficients})
    print(f"wrote {written}\n\n{_how(imported, written)}")
    return 0


def run_export(arguments: argparse.Namespace) -> int:
    """Write a schedule in another format, or for another number of evaluations."""
    from dcache.search.transfer import resample_steps

    _refuse_same(arguments)
    schedule = Schedule.load(arguments.file)
    if arguments.steps is not None:
        schedule = resample_steps(schedule, arguments.steps)
    if arguments.to == "ecad":
        return _to_ecad(schedule, arguments)
    if arguments.to != "schedule":
        return _to_engine(schedule, arguments)
    if arguments.steps is None:
        raise DcacheError(
            "--to schedule transfers a schedule to another number of evaluations: give --steps N"
        )
    foreign = [name for name in LAYOUT if getattr(arguments, name.replace("-", "_")) is not None]
    if foreign:
        raise DcacheError(f"--{' and --'.join(foreign)} belong to --to ecad: leave them out")
    written = schedule.save(arguments.out)
    print(f"{schedule.steps} evaluations\nwrote {written}")
    return 0


def _to_engine(schedule: Schedule, arguments: argparse.Namespace) -> int:
    """Write a schedule for another engine, and say what its format cannot hold."""
    from dcache.importers import cache_dit, diffusers_hooks, sglang
    from dcache.importers.content import content_of

    engine = arguments.to
    takes = {"cache-dit": ("blocks",), "sglang": ("request",)}.get(engine, ())
    given = [name for name in ("layout", "blocks", "single_blocks", "request") if getattr(arguments, name)]
    foreign = [name for name in given if name not in takes]
    if foreign:
        raise DcacheError(f"--to {engine} has no use for --{foreign[0].replace('_', '-')}: leave it out")
    if engine == "cache-dit":
        exported = cache_dit.export(schedule, arguments.blocks)
        text = cache_dit.yaml_text(exported.content)
        written = write(arguments.out, lambda path: path.write_text(text, encoding="utf-8"))
    else:
        request = None if arguments.request is None else content_of(arguments.request)
        to_sglang = engine == "sglang"
        exported = sglang.export(schedule, request) if to_sglang else diffusers_hooks.export(schedule)
        written = write_json(arguments.out, dict(exported.content))
    print("\n".join([*exported.notes, f"wrote {written}"]))
    return 0


def _to_ecad(schedule: Schedule, arguments: argparse.Namespace) -> int:
    from dcache.importers.ecad_export import export

    content = export(schedule, arguments.layout, arguments.blocks, arguments.single_blocks)
    written = write_json(arguments.out, content)
    table = content["cache_schedule"]
    singles = table.get("num_single_blocks")
    print(
        f"{table['num_inference_steps']} steps, {table['num_blocks']} blocks"
        + (f" and {singles} single blocks" if singles is not None else "")
        + f"\nwrote {written}"
    )
    return 0


def describe(imported: Imported) -> Iterator[str]:
    """Lines that summarise an imported file."""
    if imported.schedule is None:
        for preset, numbers in imported.coefficients.items():
            for name, values in numbers.items():
                yield f"{imported.format}: {name} of {preset}, {len(values)} numbers"
    else:
        (plan,) = imported.schedule.components.values()
        events = imported.schedule.steps * len(plan.sites)
        yield f"{imported.format}: {imported.schedule.steps} evaluations, {len(plan.sites)} sites" + (
            f" of {plan.model}" if plan.model else ""
        )
        dead = plan.computed - next(iter(imported.schedule.canonical().components.values())).computed
        yield (
            f"computed {plan.computed} of {events} ({plan.computed / events:.0%}); {dead} of them are dead"
            + (": Schedule.canonical() drops them" if dead else "")
        )
    for note in imported.notes:
        yield f"note: {note}"


def _how(imported: Imported, written: Path) -> str:
    if imported.schedule is not None:
        return f"dcache.enable(pipe, {str(written)!r})  # dcache show {written}"
    (preset,) = imported.coefficients
    (name,) = imported.coefficients[preset]
    return f"dcache.enable(pipe, {preset!r}, {name}={str(written)!r})"


def _refuse_same(arguments: argparse.Namespace) -> None:
    try_file(arguments.out)
    if arguments.out.resolve() == arguments.file.resolve():
        raise DcacheError(f"--out is the input file, {arguments.file}: choose another name")
