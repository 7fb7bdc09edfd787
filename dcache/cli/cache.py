"""`dcache cache`: what methods that plan by themselves keep for later processes."""

from __future__ import annotations

import argparse
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from argparse import _SubParsersAction


def add(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "cache",
        help="the folder of what the method tuned observed",
        description=(
            "The folder is DCACHE_HOME, else the platform's folder for caches; DCACHE_HOME=off keeps nothing."
        ),
    )
    parser.add_argument("action", choices=("list", "clear"), help="list the files, or remove them")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """List the files, or remove them."""
    from dcache.observation.tuning import folder

    if arguments.action == "list":
        print(folder.describe())
        return 0
    removed = folder.clear()
    print(f"removed {removed} {'file' if removed == 1 else 'files'} from {folder.describe().splitlines()[0]}")
    return 0
