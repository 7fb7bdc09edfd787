"""Progress of long commands: a bar on a terminal, lines elsewhere."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

SECONDS_BETWEEN_LINES = 10.0


@contextmanager
def rounds(contestants: int, repeats: int) -> Iterator[Callable[[int, str], None]]:
    """A bar on a terminal; elsewhere a line for each round."""
    if sys.stderr.isatty():
        from tqdm import tqdm

        with tqdm(
            total=contestants * (repeats + 1), desc="loading the model", leave=False, file=sys.stderr
        ) as bar:
            calls = 0

            def move(turn: int, label: str) -> None:
                nonlocal calls
                bar.update(int(calls > 0))
                bar.set_description(f"{_round(turn, repeats)}: {label}")
                calls += 1

            yield move
        return
    began, told = time.perf_counter(), -1

    def say(turn: int, _: str) -> None:
        nonlocal told
        if turn > told:
            told = turn
            print(
                f"{_round(turn, repeats)} ({time.perf_counter() - began:.0f} s)", file=sys.stderr, flush=True
            )

    print(f"loading the model; then {repeats + 1} x {contestants} calls", file=sys.stderr, flush=True)
    yield say


@contextmanager
def shares(index: int, count: int) -> Iterator[Callable[[str, int, int], None]]:
    """A bar on a terminal, that of each process below the one before; elsewhere a line now and then.

    Args:
        index: of this process.
        count: of processes.
    """
    before = f"process {index} of {count}: " if count > 1 else ""
    if sys.stderr.isatty():
        from tqdm import tqdm

        with tqdm(desc=f"{before}loading", position=index, leave=False, file=sys.stderr) as bar:

            def move(what: str, done: int, total: int) -> None:
                if done < bar.n or total != bar.total:
                    bar.reset(total)
                bar.set_description(before + what, refresh=False)
                bar.update(done - bar.n)
                bar.refresh()

            yield move
        return
    began, told = time.perf_counter(), float("-inf")

    def say(what: str, done: int, total: int) -> None:
        nonlocal told
        now = time.perf_counter()
        if now - told > SECONDS_BETWEEN_LINES or done == total:
            told = now
            print(f"{before}{what}: {done} of {total} ({now - began:.0f} s)", file=sys.stderr, flush=True)

    yield say


def _round(turn: int, repeats: int) -> str:
    return f"round {turn} of {repeats}" if turn else "warm-up"
