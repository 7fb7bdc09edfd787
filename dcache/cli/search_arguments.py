"""Arguments of `dcache search`: what they are, and what is asked for by them."""

from __future__ import annotations

import argparse
import math
from dataclasses import fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dcache.cli.bench import PROMPTS, add_pipeline
from dcache.errors import DcacheError

if TYPE_CHECKING:
    from dcache.search.search import SearchConfig

# ECAD (2025) as published: PixArt's setting of its code (the card in docs/search.md says where from).
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
    """Add all of them to the command's parser."""
    add_pipeline(parser)
    parser.add_argument("--prompts", default="", metavar="P", help=PROMPTS.partition(";")[0])
    parser.add_argument("--profile", type=Path, required=True, metavar="FILE", help="of this pipeline")
    parser.add_argument("--ecad", action="store_true", help="the published setting; other options change it")
    _add_ways(parser)
    parser.add_argument(
        "--held-out", metavar="P", help="prompts that nothing is chosen by: the front is rendered on them too"
    )
    parser.add_argument("--no-seeds", action="store_true", help="begin with random schedules alone")
    _add_processes(parser)
    parser.add_argument("--resume", action="store_true", help="go on with the search in --out")
    parser.add_argument(
        "--pick", metavar="2.5x", help="save the best schedule of that speedup as picked.schedule.json"
    )
    out = Path("search-out")
    parser.add_argument("--out", type=Path, default=out, metavar="FOLDER", help=f"(default: {out})")


def _add_ways(parser: argparse.ArgumentParser) -> None:
    """Fields of `SearchConfig`; None marks an option that was not given."""
    from dcache.search.search import SearchConfig
    from dcache.search.space import RECIPES
    from dcache.search.strategies.registry import STRATEGIES

    usual = SearchConfig()

    def option(name: str, kind: Any, metavar: str, text: str) -> None:
        default = getattr(usual, name)
        shown = ",".join(default) if isinstance(default, tuple) else default
        text += "" if default is None else f" (default: {shown})"
        parser.add_argument(f"--{name}", type=kind, metavar=metavar, help=text)

    option("strategy", str, "S", f"one of {', '.join(STRATEGIES)}")
    option("units", str, "U", "what decides alone: whole, kinds, blocks, sublayers, sections:N")
    option("recipes", _names, "LIST", f"how predictions may be made: {', '.join(RECIPES)}")
    option("budget", int, "N", "most schedules to evaluate")
    option("population", int, "N", "schedules of a generation")
    option(
        "mutation",
        float,
        "R",
        "mutation rate; where none is given two bits of a genome, or 0.05 of the offspring",
    )
    option("convention", str, "C", "that rate is of each bit (each), or of mutated offspring (some)")
    option("finishing", float, "F", "share of the budget for the local search around the front")
    option(
        "fitting",
        float,
        "F",
        "share for fits of weights on the pictures, of the best at --pick (or 2x 3x 4x)",
    )
    option("metrics", _names, "LIST", "traded against cost, as in dcache eval")
    option("cost", str, "C", "seconds by the profile, flops, or measured")
    option("first", int, "N", "prompts that every schedule is rendered on; the rest for those worth it")
    option("seed", int, "S", "of pictures and decisions")


def _add_processes(parser: argparse.ArgumentParser) -> None:
    """How the work is dealt out."""
    parser.add_argument(
        "--batch-size", type=int, default=8, metavar="N", help="pictures in a call (default: 8)"
    )
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="processes (default: 1)")
    parser.add_argument(
        "--threads", type=int, metavar="N", help="of each process (default: a share of torch's own)"
    )


def ways_of(arguments: argparse.Namespace, wanted: float | None) -> SearchConfig:
    """How the search goes about it.

    Args:
        arguments: of the command line.
        wanted: the speedup that is picked in the end, if any.
    """
    from dcache.search.search import SearchConfig

    asked: dict[str, Any] = dict(ECAD) if arguments.ecad else {}
    for field in fields(SearchConfig):
        value = getattr(arguments, field.name, None)
        if value is not None:
            asked[field.name] = value
    if arguments.no_seeds:
        asked["seeds"] = False
    if wanted is not None:
        asked["wanted"] = (wanted,)
    return SearchConfig(**asked)


def held_out(source: str | None, prompts: list[str]) -> list[str]:
    """The held-out prompts.

    Raises:
        DcacheError: one of them is searched on.
    """
    from dcache.eval.prompts import read

    chosen = [] if source is None else read(source)
    both = sorted(set(chosen) & set(prompts))
    if both:
        raise DcacheError(
            f"{len(both)} of the held-out prompts are searched on too ({both[0]!r}): hold out others"
        )
    return chosen


def speedup_of(text: str | None) -> float | None:
    """The speedup of `--pick`.

    Raises:
        DcacheError: it is no positive number.
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


def set_threads(asked: int | None, workers: int) -> int:
    """Set the threads of each process: shares of torch's own number, which knows of OMP_NUM_THREADS.

    Raises:
        DcacheError: fewer than one was asked for.
    """
    import torch

    if asked is not None and asked < 1:
        raise DcacheError(f"--threads must be at least 1, got {asked}")
    threads = asked or max(1, torch.get_num_threads() // workers)
    torch.set_num_threads(threads)
    return threads


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())
