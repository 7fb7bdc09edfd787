"""Progress of long commands: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from dcache.eval.progress import Progress

SECONDS_BETWEEN_LINES = 10.0


@contextmanager
def rounds(contestants: int, repeats: int) -> Iterator[Callable[[int, str], None]]:
    """A bar on a terminal; elsewhere a line for each round, and now and then one within a long round."""
    total = contestants * (repeats + 1)
    with _display("loading the model", total) as display:
        display.line(f"loading the model; then {repeats + 1} x {contestants} calls")
        calls, told = 0, -1

        def tell(turn: int, label: str) -> None:
            nonlocal calls, told
            name = f"round {turn} of {repeats}" if turn else "warm-up"
            display.bar(f"{name}: {label}", calls, total)
            if turn > told:
                display.timed_line(name)
            elif display.quiet:
                display.timed_line(f"{name}: {label}")
            calls, told = calls + 1, turn

        yield tell


@contextmanager
def shares(index: int, count: int) -> Iterator[Progress]:
    """A bar on a terminal, that of each process below the one before; elsewhere a line now and then.

    Args:
        index: of this process.
        count: of processes.
    """
    before = f"process {index} of {count}: " if count > 1 else ""
    with _display(f"{before}loading", position=index) as display:

        def tell(what: str, done: int, total: int) -> None:
            display.bar(before + what, done, total)
            if display.quiet or done == total:
                display.timed_line(f"{before}{what}: {done} of {total}")

        yield tell


class _Display:
    """Where progress is shown: a bar of tqdm, which ignores lines, or lines, if there is no bar."""

    def __init__(self, tqdm: Any = None) -> None:
        self.tqdm = tqdm
        self.began = time.perf_counter()
        self.last = float("-inf")

    @property
    def quiet(self) -> bool:
        """Whether the last line with a time is a while ago."""
        return time.perf_counter() - self.last > SECONDS_BETWEEN_LINES

    def bar(self, text: str, done: int, total: int) -> None:
        """Move the bar; it begins anew where there is another total, or less is done."""
        if self.tqdm is None:
            return
        if done < self.tqdm.n or total != self.tqdm.total:
            self.tqdm.reset(total)
        self.tqdm.set_description(text, refresh=False)
        self.tqdm.update(done - self.tqdm.n)
        self.tqdm.refresh()

    def line(self, text: str) -> None:
        """Write a line."""
        if self.tqdm is None:
            print(text, file=sys.stderr, flush=True)

    def timed_line(self, text: str) -> None:
        """Write a line with the seconds since the beginning."""
        self.last = time.perf_counter()
        self.line(f"{text} ({self.last - self.began:.0f} s)")


@contextmanager
def _display(loading: str, total: int | None = None, position: int | None = None) -> Iterator[_Display]:
    if not sys.stderr.isatty():
        yield _Display()
        return
    from tqdm import tqdm

    with tqdm(total=total, desc=loading, position=position, leave=False, file=sys.stderr) as bar:
        yield _Display(bar)


class Teller:
    """Says what is under way, and how long it has been."""

    def __init__(self) -> None:
        self.began = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Since the command began."""
        return time.perf_counter() - self.began

    def __call__(self, what: str) -> None:
        """Print it on the error stream."""
        print(f"{what} ({self.seconds:.0f} s)", file=sys.stderr, flush=True)
