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
    """Progress of timed rounds: a bar on a terminal; elsewhere a line for each round, more in long rounds.

    Yields:
        A function of round (0 is the warm-up) and label, to call before every pipeline call.
    """
    total = contestants * (repeats + 1)
    with _display("loading the model", total) as display:
        display.line(f"loading the model; then {repeats + 1} x {contestants} calls")
        calls, last = 0, -1

        def report(turn: int, label: str) -> None:
            nonlocal calls, last
            name = f"round {turn} of {repeats}" if turn else "warm-up"
            display.bar(f"{name}: {label}", calls, total)
            if turn > last:
                display.timed_line(name)
            elif display.quiet:
                display.timed_line(f"{name}: {label}")
            calls, last = calls + 1, turn

        yield report


@contextmanager
def shares(index: int, count: int) -> Iterator[Progress]:
    """Progress of stages: a bar on a terminal, one below the other for several processes; elsewhere lines.

    Args:
        index: rank of this process.
        count: number of processes.
    """
    prefix = f"process {index} of {count}: " if count > 1 else ""
    with _display(f"{prefix}loading", position=index) as display:

        def report(what: str, done: int, total: int) -> None:
            display.bar(prefix + what, done, total)
            if display.quiet or done == total:
                display.timed_line(f"{prefix}{what}: {done} of {total}")

        yield report


class _Display:
    """Shows progress as a tqdm bar, or as lines if `tqdm` is None; each ignores the other's calls."""

    def __init__(self, tqdm: Any = None) -> None:
        self.tqdm = tqdm
        self.began = time.perf_counter()
        self.last = float("-inf")

    @property
    def quiet(self) -> bool:
        """Whether the last line with a time is more than `SECONDS_BETWEEN_LINES` ago."""
        return time.perf_counter() - self.last > SECONDS_BETWEEN_LINES

    def bar(self, text: str, done: int, total: int) -> None:
        """Move the bar; a new total, or fewer items done, restarts it."""
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
        """Write a line with the seconds since the start."""
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


class StageLog:
    """Prints a line for every stage of a command, with the seconds since its start."""

    def __init__(self) -> None:
        self.began = time.perf_counter()

    @property
    def seconds(self) -> float:
        """Seconds since the command began."""
        return time.perf_counter() - self.began

    def __call__(self, stage: str) -> None:
        """Print a stage to standard error."""
        print(f"{stage} ({self.seconds:.0f} s)", file=sys.stderr, flush=True)
