"""Progress of long commands: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from threading import Event, Thread
from typing import Any

from dcache.eval.progress import Progress

# A line is written at most so often while calls come and go, and at least so often in all: the sum is 10.
SECONDS_BETWEEN_LINES = 8.0
SECONDS_BETWEEN_BEATS = 2.0


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
    """Shows progress as a tqdm bar, or as lines if `tqdm` is None; each ignores the other's calls.

    Args:
        text: what goes on at the start.
        tqdm: the bar.
    """

    def __init__(self, text: str, tqdm: Any = None) -> None:
        self.tqdm = tqdm
        self.text = text
        self.began = self.last = time.perf_counter()
        self.timed = float("-inf")

    @property
    def quiet(self) -> bool:
        """Whether the last line with a time is more than `SECONDS_BETWEEN_LINES` ago."""
        return time.perf_counter() - self.timed > SECONDS_BETWEEN_LINES

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
        self.last = time.perf_counter()
        if self.tqdm is None:
            print(text, file=sys.stderr, flush=True)

    def timed_line(self, text: str, left: float | None = None) -> None:
        """Write a line with the seconds since the start, and with those that are expected to be left."""
        self.text, self.timed = text, time.perf_counter()
        more = "" if left is None else f", about {left:.0f} s left"
        self.line(f"{text} ({self.timed - self.began:.0f} s{more})")

    def still(self) -> None:
        """Show that the work goes on, if nothing was written for long: one call may take minutes."""
        if self.tqdm is not None:
            self.tqdm.refresh()
        elif time.perf_counter() - self.last > SECONDS_BETWEEN_LINES:
            self.line(f"still at it: {self.text} ({time.perf_counter() - self.began:.0f} s)")


@contextmanager
def _display(loading: str, total: int | None = None, position: int | None = None) -> Iterator[_Display]:
    with ExitStack() as stack:
        bar = None
        if sys.stderr.isatty():
            from tqdm import tqdm

            bar = tqdm(total=total, desc=loading, position=position, leave=False, file=sys.stderr)
            stack.enter_context(bar)
        display = _Display(loading, bar)
        ended = Event()
        clock = Thread(target=_beat, args=(display, ended), daemon=True)
        clock.start()
        stack.callback(clock.join)
        stack.callback(ended.set)
        yield display


def _beat(display: _Display, ended: Event) -> None:
    while not ended.wait(SECONDS_BETWEEN_BEATS):
        display.still()


class StageLog:
    """Progress of a command in stages: a bar on a terminal, elsewhere lines with the time left.

    Args:
        display: shows it.
    """

    def __init__(self, display: _Display) -> None:
        self.display = display
        self.stage = ""

    @property
    def seconds(self) -> float:
        """Seconds since the command began."""
        return time.perf_counter() - self.display.began

    def __call__(self, stage: str) -> None:
        """Show a stage of unknown length."""
        if self.display.tqdm is not None:
            self.display.tqdm.set_description(stage)
        self.display.timed_line(stage)

    def counted(self, stage: str, done: int, total: int) -> None:
        """Show a stage, with the number of calls done and planned in all stages."""
        self.display.bar(stage, done, total)
        if stage != self.stage:
            self(stage)
        elif self.display.quiet:
            left = self.seconds / done * (total - done) if done else None
            self.display.timed_line(f"{stage}: {done} of at most {total} calls", left)
        self.stage = stage


@contextmanager
def stages() -> Iterator[StageLog]:
    """Progress of stages of one process."""
    with _display("loading the model") as display:
        display.line("loading the model")
        yield StageLog(display)
