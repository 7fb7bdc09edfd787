"""What a router of whole evaluations is worth as a start for `dcache calibrate --method auto`.

    python examples/measure_router.py

The search for places runs with and without the places that the router learned; with `--equal` once more
without them, for as many runs as the training cost. The number of computed evaluations is fixed, so no timing
matters.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Callable
from typing import Any

from dcache.eval.prompts import read
from dcache.eval.subject import load
from dcache.schedule import Schedule
from dcache.search.calibrate import calibrate
from dcache.search.rendering.results import Results
from dcache.search.route import whole_start

STEPS, COMPUTES, SPEEDUP = 20, 8, 2.5
TIMING = re.compile(r"(latency|start \d+|result):\d+:(.*)")
# Seconds by what is timed: half of 20 evaluations, and what a call costs with one of them, make 8 for 2.5x.
SECONDS = {"uncached": 1.0, "one": 1 / STEPS}


class NotTimed(Results):
    """Results of a calibration whose seconds are given."""

    def has(self, name: str) -> bool:
        """Timings are known."""
        return TIMING.fullmatch(name) is not None

    def number(self, name: str, make: Callable[[], Any]) -> Any:
        """The given seconds, or what is made."""
        timed = TIMING.fullmatch(name)
        return make() if timed is None else SECONDS.get(timed[2], 1 / SPEEDUP)


def main() -> None:
    """Measure and print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--captions", type=int, default=6, help="a third of them is held out (default: 6)")
    parser.add_argument("--runs", type=int, default=8, help="runs of the router's training (default: 8)")
    parser.add_argument("--budget", type=int, default=12, help="sets of places to try (default: 12)")
    parser.add_argument("--guidance", type=float, nargs="+", default=[3.0, 1.0], help="(default: 3 1)")
    parser.add_argument("--equal", action="store_true", help="also search for what the training cost")
    given = parser.parse_args()
    captions = read(f"demo-train:{given.captions}")
    fitting = given.captions - max(1, given.captions // 3)
    # A run of training calls the model twice for two captions; a set of places, 8 times in 20 for each.
    more = given.budget + round(4 * given.runs / (fitting * COMPUTES / STEPS))
    print("| guidance | places | PSNR |\n|---|---|---|")
    for guidance in given.guidance:
        subject = load("demo", guidance=guidance, steps=STEPS, device="cpu")
        start = whole_start(subject, captions, SPEEDUP, iterations=given.runs, repeats=1, results=NotTimed())
        ((row,),) = (tuple(set(plan.rows["*"].values())) for plan in start.components.values())
        print(
            f"| {guidance:g} | the router's: {[t for t, computed in enumerate(row) if computed]} | |",
            flush=True,
        )
        contests: list[tuple[int, list[Schedule]]] = [(given.budget, []), (given.budget, [start])]
        if given.equal:
            contests.append((more, []))
        for budget, starts in contests:
            made = calibrate(
                subject,
                captions,
                SPEEDUP,
                budget=budget,
                repeats=1,
                starts=starts,
                results=NotTimed(),
            )
            label = f"{budget} sets{', the router first' if starts else ''}"
            print(f"| {guidance:g} | {label} | {made.placed:.2f}, fitted {made.fitted:.2f} |", flush=True)


if __name__ == "__main__":
    main()
