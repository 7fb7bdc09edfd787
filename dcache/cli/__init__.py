"""The command line: one file for each command."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence

import dcache
from dcache.cli import bench, calibrate, convert, demo, env, methods, search, show
from dcache.cli import eval as evaluate
from dcache.errors import DcacheError

COMMANDS = (demo, bench, calibrate, search, convert, evaluate, methods, show, env)
WRONG, INTERRUPTED = 2, 130

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0, 2 for a user's error, 130 after Ctrl-C."""
    parser = _parser()
    arguments = parser.parse_args(argv)
    if arguments.run is None:
        parser.print_help()
        return WRONG
    try:
        return int(arguments.run(arguments))
    except DcacheError as error:
        print(f"dcache: {error}", file=sys.stderr)
        return WRONG
    except KeyboardInterrupt:
        print("dcache: interrupted", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader (such as `head`) closed the pipe. Python flushes at exit, which must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="dcache", description="Caching for diffusion models.")
    parser.add_argument("--version", action="version", version=f"dcache {dcache.__version__}")
    parser.set_defaults(run=None)
    commands = parser.add_subparsers(title="commands", metavar="")
    for command in COMMANDS:
        command.add(commands)
    return parser
