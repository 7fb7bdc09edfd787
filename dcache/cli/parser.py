"""The argument parser of all commands: a wrong command line is a `DcacheError`, said in one line."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any, NoReturn

from dcache.errors import DcacheError
from dcache.util.options import did_you_mean


class Parser(argparse.ArgumentParser):
    """An `ArgumentParser` that raises `DcacheError` in place of printing its usage and leaving Python.

    Options cannot be shortened: a script with `--prompt` would change its meaning with every new option.
    """

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs | {"allow_abbrev": False})
        # That of the part that was called, for messages.
        self.set_defaults(parser=self)

    def parse_args(self, args: Any = None, namespace: Any = None) -> Any:
        """Parse a command line; what no part of it takes is refused in the name of the part that was called.

        Raises:
            DcacheError: the command line is wrong.
        """
        arguments, rest = self.parse_known_args(args, namespace)
        if rest:
            called: Parser = arguments.parser
            options = [option for option in called._option_string_actions if option.startswith("--")]
            wrong = next((text for text in rest if text.startswith("-")), "").partition("=")[0]
            called.error(f"unrecognized arguments: {' '.join(rest)}.{did_you_mean(wrong, options)}")
        return arguments

    def error(self, message: str) -> NoReturn:
        """Raise the message of a wrong command line.

        Raises:
            DcacheError: always.
        """
        stop = "" if message.endswith((".", "?")) else "."
        raise DcacheError(f"{message}{stop} See `{self.prog} --help`.")


def path_of(text: str) -> Path:
    """The path of an argument; `Path("")` would be the current folder.

    Raises:
        argparse.ArgumentTypeError: the text is empty or has a null character.
    """
    if not text.strip() or "\0" in text:
        raise argparse.ArgumentTypeError(f"expected a path, got {text!r}")
    return Path(text)


def png_of(text: str) -> Path:
    """The path of a picture to draw.

    Raises:
        argparse.ArgumentTypeError: it does not end with .png.
    """
    path = path_of(text)
    if path.suffix.lower() != ".png":
        raise argparse.ArgumentTypeError(f"expected the name of a PNG file (.png), got {text!r}")
    return path


def add_verbose(parser: argparse.ArgumentParser) -> None:
    """Add `--verbose`; a command's own does not reset that of `dcache --verbose COMMAND`."""
    parser.add_argument(
        "--verbose",
        action="store_true",
        default=argparse.SUPPRESS,
        help="with an error, also print the messages of other libraries that led to it",
    )
