"""`dcache eval`: evaluation of methods on many prompts, in the stages generate, score and report."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Iterator
from dataclasses import Field, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dcache.cli.bench import LIST, METHODS
from dcache.cli.parser import path_of
from dcache.cli.progress import shares
from dcache.cli.run_settings import RunSettings, add_pipeline, add_prompts
from dcache.eval.metrics import METRICS
from dcache.eval.metrics.options import MetricOptions
from dcache.eval.packages import require
from dcache.eval.settings import STAGES, Settings
from dcache.util.files import try_folder

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    from dcache.eval.evaluation import Result


def add(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "eval",
        help="pictures of many prompts, metrics, one report",
        description=(
            "Make pictures without caching and with several methods, score them, and write a report. The "
            "same command continues where an earlier one stopped. With several processes: accelerate launch "
            "-m dcache.cli eval ..."
        ),
    )
    defaults = Settings()
    add_pipeline(parser)

    def option(name: str, default: Any, metavar: str, text: str, kind: Callable[[str], object] = str) -> None:
        shown = "" if default is None else f" (default: {default})"
        flag = f"--{name.replace('_', '-')}"
        parser.add_argument(flag, type=kind, default=default, metavar=metavar, help=text + shown)

    add_prompts(parser)
    option("methods", METHODS, "LIST", LIST)
    option("images_per_prompt", defaults.images_per_prompt, "N", "pictures or clips of each prompt", int)
    option("seed", defaults.seed, "S", "seed of the first picture; picture i has seed S + i", int)
    option("batch_size", defaults.batch_size, "N", "pictures in a call", int)
    option("metrics", None, "LIST", f"some of {','.join(METRICS)} (default: those that need no download)")
    option("out", Path("eval-out"), "FOLDER", "folder for all files", path_of)
    parser.add_argument(
        "--stage",
        action="append",
        choices=STAGES,
        help="run only this stage; may be repeated (default: all three)",
    )
    parser.add_argument(
        "--no-warm-up",
        action="store_true",
        help="no untimed first call of each method; FLOPs are not counted then",
    )
    metric_options = parser.add_argument_group("options of metrics")
    for field in fields(MetricOptions):
        _metric_option(metric_options, field)
    # None, so that without the generate stage the pipeline of the folder is used.
    parser.set_defaults(run=run, pipeline=None)


def _metric_option(group: argparse._ArgumentGroup, field: Field[Any]) -> None:
    shown = "" if field.default is None else f" (default: {field.default})"
    group.add_argument(
        f"--{field.name.replace('_', '-')}",
        type=path_of if field.default is None else type(field.default),
        default=field.default,
        choices=field.metadata.get("choices"),
        metavar="PATH" if field.default is None else None,
        help=field.metadata["help"] + shown,
    )


def run(arguments: argparse.Namespace) -> int:
    """Evaluate; print the table, the paths of the files, and the next command."""
    from dcache.eval.evaluation import evaluate
    from dcache.eval.processes import join

    require("eval", "dcache eval", "filelock", "jinja2", "matplotlib", "PIL")
    metrics, given = arguments.metrics, RunSettings.of(arguments)
    settings = Settings(
        **given.call(),
        images_per_prompt=arguments.images_per_prompt,
        seed=given.seed,
        batch_size=arguments.batch_size,
    )
    try_folder(arguments.out)
    group = join(settings.device)
    with shares(group.rank, group.world_size) as progress:
        result = evaluate(
            arguments.pipeline,
            None if given.prompts is None else given.texts(),
            arguments.methods,
            settings,
            out=arguments.out,
            metrics=None if metrics is None else [name.strip() for name in metrics.split(",")],
            metric_options=MetricOptions(
                **{f.name: getattr(arguments, f.name) for f in fields(MetricOptions)}
            ),
            warm_up=not arguments.no_warm_up,
            stages=arguments.stage or STAGES,
            progress=progress,
        )
    if group.first:
        for line in _summary(result):
            print(line)
    return 0


def _summary(result: Result) -> Iterator[str]:
    """Lines of the table, its notes, the paths of the files, and the next command."""
    from dcache.eval.machine import heading
    from dcache.eval.report.content import gather
    from dcache.eval.rows import aligned

    store = result.store
    again = f"dcache eval --out {store.folder}"
    if result.scores is None:
        pictures = f"{len(store.items)} pictures of each of {len(store.methods)} methods"
        yield f"{pictures} in {store.folder}\nnext: {again} --stage score --stage report"
        return
    content = gather(store, result.scores)
    yield f"{store.settings['pipeline']}: {', '.join(content.facts())}"
    yield heading(content.machine, content.versions) + "\n"
    lines = [["method", *(f"{column.title} " for column in content.columns)]]
    for row in content.rows:
        figures = [row.figures[column.key] for column in content.columns]
        lines.append([row.label, *(figure.text + "* "[not figure.best] for figure in figures)])
    yield aligned(lines) + "\n\n* best of its column"
    for note in content.notes:
        yield f"note: {note.about}: {note.text}" if note.about else f"note: {note.text}"
    for label in result.unfinished:
        yield f"note: {label} is left out, because its generation was interrupted and pictures are missing"
    if result.files:
        yield f"\nwrote {', '.join(map(str, result.files))}\nnext: open {result.files[0]} in a browser"
    else:
        yield f"\nnext: {again} --stage report"
