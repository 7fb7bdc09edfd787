"""What commands have in common: parts, as in `dcache lm eval`, options of a model, lists of names."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from argparse import _SubParsersAction


def add_group(
    commands: _SubParsersAction[argparse.ArgumentParser], name: str, summary: str, description: str
) -> _SubParsersAction[argparse.ArgumentParser]:
    """Register a command that prints its help without a part; returns where its parts are registered."""
    parser = commands.add_parser(name, help=summary, description=description)
    parser.set_defaults(run=partial(_help, parser))
    return parser.add_subparsers(title="commands", metavar="COMMAND")


def add_methods(
    parts: _SubParsersAction[argparse.ArgumentParser],
    summary: str,
    available: Callable[[], Mapping[str, str]],
) -> None:
    """Register the part `methods`.

    Args:
        parts: where parts are registered.
        summary: the part's help.
        available: gives name -> summary of each policy.
    """
    parser = parts.add_parser("methods", help=summary)
    parser.add_argument("--json", action="store_true", help="print them as JSON")
    parser.set_defaults(run=partial(_print_methods, available))


def add_device(parser: argparse.ArgumentParser) -> None:
    """Add the options of a model's device and dtype."""
    parser.add_argument("--device", default="cpu", metavar="DEVICE", help="cpu (default) or a GPU")
    parser.add_argument("--dtype", default="float32", choices=("float32", "bfloat16", "float16"))


def print_named(values: Mapping[str, Any], as_json: bool) -> int:
    """Print names and values, one pair a line or all as JSON; returns the exit code."""
    if as_json:
        print(json.dumps(values, indent=1))
        return 0
    width = max(map(len, values))
    for name, value in values.items():
        print(f"{name:<{width}}  {value}")
    return 0


def _help(parser: argparse.ArgumentParser, _: argparse.Namespace) -> int:
    parser.print_help()
    return 2


def _print_methods(available: Callable[[], Mapping[str, str]], arguments: argparse.Namespace) -> int:
    return print_named(available(), arguments.json)
