"""`dcache methods`: what there is."""

from __future__ import annotations

import argparse
import inspect
import textwrap
from typing import TYPE_CHECKING

from dcache import methods

if TYPE_CHECKING:
    from argparse import _SubParsersAction

WIDTH = 110


def add(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = commands.add_parser("methods", help="list the methods and their options")
    parser.set_defaults(run=run)


def run(_: argparse.Namespace) -> int:
    """Print one paragraph per preset: name, what it is, options with defaults, what it is for and needs."""
    found = methods.available()
    width = max(map(len, found)) + 2
    for name, what in found.items():
        print(f"{name:<{width}}{what}")
        options = [str(p).partition(": ")[0] + "=" + repr(p.default) for p in _parameters(name)]
        fits = "any denoiser" if "any" in what.families else " with ".join(what.families)
        lines = [", ".join(options) or "no options", f"for: {fits}; sites: {what.sites}; from: {what.paper}"]
        lines += [f"needs: {what.needs}"] if what.needs else []
        for line in lines:
            print(textwrap.fill(line, WIDTH, initial_indent=" " * width, subsequent_indent=" " * width))
    return 0


def _parameters(name: str) -> list[inspect.Parameter]:
    return list(inspect.signature(getattr(methods, name)).parameters.values())
