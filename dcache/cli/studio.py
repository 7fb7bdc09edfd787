"""`dcache studio`: a local page that shows a picture uncached and cached, side by side."""

from __future__ import annotations

import argparse
import sys
from argparse import Namespace
from typing import TYPE_CHECKING

from dcache.cli.progress import stages
from dcache.cli.run_settings import PIPE, RunSettings, add_call
from dcache.errors import DcacheError
from dcache.eval.packages import require
from dcache.eval.policy_list import named_twice

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    from dcache.eval.entries import BenchEntry
    from dcache.eval.studio.studio import Shown, Studio

HOST, PORT = "127.0.0.1", 7861
# Prompts that the page offers for a shipped pipeline.
EXAMPLES = 6


def add(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "studio",
        help="compare uncached and cached on a page in your browser",
        description="Serve a page on this machine: choose a pipeline, a method and a speedup, and see both "
        "pictures, what was computed, seconds and PSNR. Ctrl-C ends it.",
    )
    parser.add_argument("pipelines", nargs="*", default=["demo"], metavar="PIPE", help=PIPE)
    add_call(parser)
    parser.add_argument(
        "--methods",
        metavar="LIST",
        help="offer these too: presets with options and schedule files, separated by ';'",
    )
    parser.add_argument(
        "--host", default=HOST, help=f"address to listen on (default: {HOST}, this machine alone)"
    )
    parser.add_argument(
        "--port", type=int, default=PORT, help=f"port to listen on; 0: any free one (default: {PORT})"
    )
    parser.add_argument("--open", action="store_true", help="open the page in a browser")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Load the pipelines and serve the page until Ctrl-C."""
    require("studio", "dcache studio", "PIL", "starlette", "torchmetrics", "uvicorn")
    names = arguments.pipelines
    twice = named_twice([(name, name) for name in names])
    if twice:
        raise DcacheError(f"{', '.join(twice)} is named more than once: name each pipeline once")
    settings = [RunSettings.of(Namespace(**vars(arguments), pipeline=name)) for name in names]
    entries = _entries(arguments.methods)
    from dcache.eval.studio.guard import is_loopback
    from dcache.eval.studio.server import Server, address_of, listen

    # Before the work: a port may be taken.
    with listen(arguments.host, arguments.port) as listener:
        if not is_loopback(arguments.host):
            print(
                f"warning: {arguments.host} is reached from other machines too, and whoever reaches it can "
                f"start runs; --host {HOST} is this machine alone",
                file=sys.stderr,
            )
        studio, address = _studio(settings, entries), address_of(listener, arguments.host)
        try:
            Server(studio, arguments.host, lambda: _ready(address, arguments.open)).run([listener])
        except KeyboardInterrupt:
            # uvicorn has ended in good order, and raises the signal again.
            pass
        finally:
            studio.close()
    print("stopped", flush=True)
    return 0


def _entries(methods: str | None) -> list[BenchEntry]:
    """The methods that the command line names."""
    from dcache.eval.specs import parse

    return [] if methods is None else list(parse(methods))


def _studio(settings: list[RunSettings], entries: list[BenchEntry]) -> Studio:
    from dcache.eval.studio.studio import Studio

    with stages() as display:
        shown = {}
        for each in settings:
            display(f"loading {each.pipeline}")
            shown[str(each.pipeline)] = _shown(each)
        display("looking which methods fit")
        return Studio(shown, entries)


def _shown(settings: RunSettings) -> Shown:
    """A loaded pipeline, with prompts to begin with."""
    from dcache.eval.prompts import SETS, read
    from dcache.eval.studio.studio import Shown
    from dcache.eval.subject import coefficients, load

    name = str(settings.pipeline)
    prompts = read(f"{name}:{EXAMPLES}") if name in SETS else []
    return Shown(load(name, **settings.call()), coefficients(name), prompts)


def _ready(address: str, opens: bool) -> None:
    """Print the address, and open it."""
    print(f"dcache studio: {address} (Ctrl-C ends it)", flush=True)
    if opens:
        import webbrowser

        webbrowser.open(address)
