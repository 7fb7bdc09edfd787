"""Arguments of `dcache search`, and the `SearchConfig` made from them."""

from __future__ import annotations

import argparse
import math
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dcache.cli.parser import path_of
from dcache.cli.run_settings import add_pipeline, add_prompts
from dcache.errors import DcacheError
from dcache.eval.prompts import COLUMN, read

if TYPE_CHECKING:
    from dcache.search.search import SearchConfig

# ECAD (2025) as published: the setting for PixArt in its code (source: the card in docs/search.md).
ECAD = {
    "strategy": "nsga2",
    "units": "sublayers",
    "recipes": ("reuse",),
    "budget": 72 * 550,
    "population": 72,
    "mutation": 0.05,
    "convention": "some",
    "finishing": 0.0,
    "fitting": 0.0,
    "metrics": ("image-reward",),
    "cost": "flops",
    "first": 1000,
}


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Add all arguments to the command's parser."""
    add_pipeline(parser)
    add_prompts(parser)
    parser.add_argument(
        "--profile", type=path_of, required=True, metavar="FILE", help="profile of this pipeline"
    )
    parser.add_argument("--ecad", action="store_true", help="the published setting; other options change it")
    _add_config(parser)
    parser.add_argument(
        "--held-out",
        metavar="P",
        help="prompts that no choice is based on: the front is rendered on them too, at the end",
    )
    parser.add_argument("--no-seeds", action="store_true", help="start from random schedules only")
    _add_processes(parser)
    parser.add_argument("--resume", action="store_true", help="continue the search in --out")
    parser.add_argument(
        "--pick", metavar="2.5x", help="save the best schedule of that speedup as picked.schedule.json"
    )
    out = Path("search-out")
    parser.add_argument("--out", type=path_of, default=out, metavar="FOLDER", help=f"(default: {out})")


def _add_config(parser: argparse.ArgumentParser) -> None:
    """Add the fields of `SearchConfig`; an option that is not given is None."""
    from dcache.search.genomes.space import RECIPES
    from dcache.search.search import SearchConfig
    from dcache.search.strategies.registry import STRATEGIES

    defaults = SearchConfig()

    def option(name: str, kind: Any, metavar: str, description: str) -> None:
        default = getattr(defaults, name)
        shown = ",".join(default) if isinstance(default, tuple) else default
        description += "" if default is None else f" (default: {shown})"
        parser.add_argument(f"--{name}", type=kind, metavar=metavar, help=description)

    option("strategy", str, "S", f"one of {', '.join(STRATEGIES)}")
    option("units", str, "U", "sites that decide together: whole, kinds, blocks, sublayers, sections:N")
    option("recipes", _names, "LIST", f"how predictions may be made: {', '.join(RECIPES)}")
    option("budget", int, "N", "most schedules to evaluate")
    option("population", int, "N", "schedules of a generation")
    option(
        "mutation",
        float,
        "R",
        "mutation rate (default: two bits of a genome, or 0.05 of the offspring)",
    )
    option("convention", str, "C", "each: the rate is of each bit; some: of the offspring")
    option("finishing", float, "F", "share of the budget for the local search around the front")
    option(
        "fitting",
        float,
        "F",
        "share of the budget for fits of weights, of the best schedules at --pick (or 2x 3x 4x)",
    )
    option("metrics", _names, "LIST", "metrics traded against cost, as in dcache eval")
    option("cost", str, "C", "seconds from the profile, flops, or measured")
    option("first", int, "N", "prompts that every schedule is rendered on; the better ones on the rest too")
    option("seed", int, "S", "seed of the first picture and of random decisions")


def _add_processes(parser: argparse.ArgumentParser) -> None:
    """Add the arguments on batches, processes and threads."""
    parser.add_argument(
        "--batch-size", type=int, default=8, metavar="N", help="pictures in a call (default: 8)"
    )
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="processes (default: 1)")
    parser.add_argument(
        "--threads", type=int, metavar="N", help="torch threads of each process (default: an equal share)"
    )


def config_of(arguments: argparse.Namespace, wanted: float | None) -> SearchConfig:
    """The settings of the search.

    Args:
        arguments: arguments of the command line.
        wanted: the speedup of `--pick`; None if it is not given.
    """
    from dcache.search.search import SearchConfig

    settings: dict[str, Any] = dict(ECAD) if arguments.ecad else {}
    for field in fields(SearchConfig):
        value = getattr(arguments, field.name, None)
        if value is not None:
            settings[field.name] = value
    if arguments.no_seeds:
        settings["seeds"] = False
    if wanted is not None:
        settings["wanted"] = (wanted,)
    return SearchConfig(**settings)


def held_out(source: str | None, prompts: list[str], column: str = COLUMN) -> list[str]:
    """The held-out prompts; `column` is that of a csv, parquet or jsonl file.

    Raises:
        DcacheError: a held-out prompt is among the prompts of the search.
    """
    chosen = [] if source is None else read(source, column)
    both = sorted(set(chosen) & set(prompts))
    if both:
        verb = "is" if len(both) == 1 else "are"
        raise DcacheError(
            f"{len(both)} of the held-out prompts {verb} among the prompts of the search too ({both[0]!r}): "
            "hold out others"
        )
    return chosen


def speedup_of(text: str | None) -> float | None:
    """The speedup of `--pick`.

    Raises:
        DcacheError: the text is no positive number.
    """
    if text is None:
        return None
    try:
        value = float(text.removesuffix("x"))
    except ValueError:
        value = math.nan
    if not 0.0 < value < math.inf:
        raise DcacheError(f"--pick expects a speedup such as 2.5x, got {text!r}")
    return value


def set_threads(count: int | None, workers: int) -> int:
    """Set torch's threads of each process; returns their number.

    None is an equal share of torch's current number, which respects OMP_NUM_THREADS.
    """
    import torch

    threads = count or max(1, torch.get_num_threads() // workers)
    torch.set_num_threads(threads)
    return threads


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())
