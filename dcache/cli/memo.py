"""`dcache memo`: which weights of a pipeline depend on the timestep alone, from its configs."""

from __future__ import annotations

import argparse
import json
from typing import TYPE_CHECKING, Any

from dcache.errors import DcacheError
from dcache.eval.sources import SHIPPED, check_source
from dcache.util.bytes import format_bytes

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    from dcache.time_memo import MemoReport


def add(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = commands.add_parser("memo", help="the weights that dcache.memo can take off the device")
    parser.add_argument("pipeline", metavar="PIPE", help="demo, demo-video, a folder, or a pipeline's hub id")
    parser.add_argument("--modules", action="store_true", help="list every module")
    parser.add_argument("--text", action="store_true", help="also what depends on the text's embeddings")
    parser.add_argument("--json", action="store_true", help="print it as JSON")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print a table for each denoiser; no weights are loaded."""
    from dcache.time_memo.share import share_of

    check_source(arguments.pipeline, {})
    models = on_meta(arguments.pipeline)
    reports = {name: share_of(module, arguments.text) for name, module in models.items()}
    if arguments.json:
        print(json.dumps({name: report.to_dict() for name, report in reports.items()}, indent=1))
        return 0
    for name, report in reports.items():
        print("\n".join(_lines(name, report, arguments.modules)))
    return 0


def on_meta(pipeline: str) -> dict[str, Any]:
    """Name -> denoiser of a pipeline, made of its config without weights.

    Raises:
        DcacheError: the configs cannot be read, or none of the parts takes a timestep.
    """
    import diffusers
    import torch

    from dcache.identity.timestep import takes_time

    made: dict[str, Any] = {}
    for name, config in _configs(pipeline).items():
        kind = getattr(diffusers, str(config["_class_name"]), None)
        if kind is None or not hasattr(kind, "forward"):
            continue
        with torch.device("meta"):
            module = kind.from_config(config).eval()
        if takes_time(module):
            made[name] = module
    if not made:
        raise DcacheError(f"{pipeline} has no part of diffusers that takes a timestep, so nothing to keep")
    return made


def _configs(pipeline: str) -> dict[str, dict[str, Any]]:
    """Name -> config of a pipeline's parts that are models of diffusers."""
    import importlib

    import diffusers

    if pipeline in SHIPPED:
        parts = importlib.import_module(SHIPPED[pipeline]).load_pipeline().components
        models = {name: part for name, part in parts.items() if isinstance(part, diffusers.ModelMixin)}
        return {n: {**part.config, "_class_name": type(part).__name__} for n, part in models.items()}
    try:
        index = diffusers.DiffusionPipeline.load_config(pipeline)
        kinds = {name: getattr(diffusers, entry[1], None) for name, entry in index.items() if _is_part(entry)}
        models = {name: kind for name, kind in kinds.items() if hasattr(kind, "forward")}
        return {name: kind.load_config(pipeline, subfolder=name) for name, kind in models.items()}
    except (OSError, ValueError) as error:
        raise DcacheError(f"the configs of {pipeline} cannot be read: {error}") from error


def _is_part(entry: Any) -> bool:
    return isinstance(entry, list | tuple) and entry[0] == "diffusers"


def _lines(name: str, report: MemoReport, every: bool) -> list[str]:
    share = f"{100 * report.share:.1f} % of {report.parameters / 1e9:.2f} B parameters"
    lines = [
        f"{name}: {share} depend on {', '.join(report.depends_on) or 'nothing but weights'}",
        f"  {format_bytes(2 * report.timed_parameters)} in 16 bits, {len(report.modules)} modules",
    ]
    if every:
        lines += [f"  {module}: {', '.join(sources)}" for module, sources in report.modules.items()]
    return lines
