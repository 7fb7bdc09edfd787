"""The command line: one file for each command."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator, Sequence

import dcache
from dcache.cli import (
    bench,
    cache,
    calibrate,
    convert,
    demo,
    dlm,
    env,
    lm,
    memo,
    methods,
    policy,
    search,
    show,
    studio,
)
from dcache.cli import eval as evaluate
from dcache.cli.parser import Parser, add_verbose
from dcache.errors import DcacheError
from dcache.eval.packages import torchvision_problem

COMMANDS = (
    demo,
    studio,
    bench,
    calibrate,
    search,
    convert,
    evaluate,
    methods,
    show,
    lm,
    dlm,
    policy,
    memo,
    cache,
    env,
)
WRONG, INTERRUPTED = 2, 130

__all__ = ["main"]


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command; returns the exit status: 0, 2 for a user's error, 130 after Ctrl-C."""
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        return _run(arguments)
    except DcacheError as error:
        print(f"dcache: {_sentences(str(error), error)}", file=sys.stderr)
        if "--verbose" in arguments:
            for line in _causes(error):
                print(line, file=sys.stderr)
        return WRONG
    except KeyboardInterrupt as interrupt:
        print(f"dcache: {_sentences('interrupted', interrupt)}", file=sys.stderr)
        return INTERRUPTED
    except BrokenPipeError:
        # The reader (such as `head`) closed the pipe. Python flushes at exit, which must not fail again.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0


def _run(argv: Sequence[str]) -> int:
    parser = command_parser()
    arguments = parser.parse_args(argv)
    if arguments.run is None:
        parser.print_help()
        return WRONG
    try:
        return int(arguments.run(arguments))
    except DcacheError:
        raise
    except (ImportError, RuntimeError) as error:
        # transformers and diffusers say neither that torchvision is the reason nor what to do.
        if (problem := torchvision_problem()) is None:
            raise
        raise DcacheError(problem) from error


def command_parser() -> Parser:
    """The parser of the whole command, with that of each subcommand."""
    parser = Parser(prog="dcache", description="Caching for diffusion models.")
    parser.add_argument("--version", action="version", version=f"dcache {dcache.__version__}")
    add_verbose(parser)
    parser.set_defaults(run=None)
    commands = parser.add_subparsers(title="commands", metavar="COMMAND")
    for command in COMMANDS:
        command.add(commands)
    for each in commands.choices.values():
        add_verbose(each)
    return parser


def _sentences(message: str, error: BaseException) -> str:
    """A message and the notes of its error, such as how the work goes on, in one line."""
    notes: list[str] = getattr(error, "__notes__", [])
    whole = ". ".join([message.rstrip().removesuffix(".") if notes else message, *notes])
    return " ".join(line.strip() for line in whole.splitlines())


def _causes(error: BaseException) -> Iterator[str]:
    """The errors that led to this one, the last one first, each with its type and its whole message."""
    cause = error.__cause__ or error.__context__
    while cause is not None:
        if str(cause) and str(cause) not in str(error):
            yield f"caused by {type(cause).__name__}: {cause}"
        cause = cause.__cause__ or cause.__context__
