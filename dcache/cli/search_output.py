"""Output of `dcache search`: progress lines, the front, the picked schedule."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dcache.errors import DcacheError

if TYPE_CHECKING:
    from dcache.cli.progress import StageLog
    from dcache.search.evaluating.loop import Search
    from dcache.search.front_report import FrontEntry
    from dcache.search.search import SearchConfig

COSTED = {
    "seconds": "Speedups are expected from the profile's seconds.",
    "flops": "Speedups are of the sites' FLOPs.",
    "measured": "Speedups are of single measured calls, with their noise.",
}


class Progress:
    """Shows the state of a search and of its front after every batch.

    Args:
        log: shows it, and that the work goes on during a long batch.
        damaged: number of lines of the journal that could not be read.

    Attributes:
        latest: the search after its last batch; None before the first.
    """

    def __init__(self, log: StageLog, damaged: int) -> None:
        self.log = log
        self.latest: Search | None = None
        self.printed = 0
        if damaged:
            print(
                f"{damaged} damaged line(s) of the journal are skipped and evaluated again", file=sys.stderr
            )

    def __call__(self, search: Search) -> None:
        """Show the front after a batch."""
        self.latest = search
        if search.spent == self.printed:
            # Known schedules only: late in a small space a strategy proposes them again and again.
            return
        self.printed = search.spent
        metric, sign = next(iter(search.signs.items()))
        front, full, marks = search.front(), search.uncached, []
        for speedup in (2.0, 3.0, 4.0):
            values = [c.value(metric, search.rungs) for c in front if full / c.cost >= speedup]
            if values:
                marks.append(f"{speedup:g}x {sign * max(sign * v for v in values):.4g}")
        state = (
            f"{search.spent} of {search.budget} evaluated, {search.twins} twins spared, front of "
            f"{len(front)}: " + (f"{metric} at {', '.join(marks)}" if marks else "none reaches 2x yet")
        )
        self.log.counted(state, search.spent, search.budget)


def silent(_: Search) -> None:
    """Print nothing, in all processes but the first."""


def finish_interrupted(
    done: Search, config: SearchConfig, about: dict[str, Any], out: Path, wanted: float | None
) -> None:
    """Write the front so far; it is no error here if no schedule reaches `wanted` yet."""
    done.stop()
    print("interrupted: this is the front so far; --resume continues the search", file=sys.stderr)
    try:
        finish(done, config, about, out, wanted)
    except DcacheError as error:
        print(error, file=sys.stderr)


def finish(
    done: Search, config: SearchConfig, about: dict[str, Any], out: Path, wanted: float | None
) -> None:
    """Print the front, write all files, and save the best schedule of the `wanted` speedup, if any."""
    from dcache.search.front_report import members, pick, write

    front, metric = members(done), config.metrics[0]
    # Printed before it is saved: a disk that is full by now must not cost the figures.
    _report(done, front, config)
    paths = write(done, config, about, out)
    print(f"\nwrote {', '.join(map(str, paths[:4]))} and {out / 'schedules'}")
    if wanted is not None:
        best = pick(front, wanted, metric, done.signs[metric])
        path = best.schedule.save(out / "picked.schedule.json")
        print(f"\npicked {best.name}: dcache.enable(pipe, {str(path)!r})")


def _report(done: Search, front: list[FrontEntry], config: SearchConfig) -> None:
    metric, held_out = config.metrics[0], any(entry.held_out_result for entry in front)
    print(f"{'speedup':>8}  {metric:>8}  {'held out  ' if held_out else ''}computes  predicted by")
    for entry in front:
        (plan,) = entry.schedule.components.values()
        share = plan.computed / (entry.schedule.steps * len(plan.sites) * len(plan.rows))
        value = entry.held_out_result.get(metric)
        other = "" if not held_out else f"{'–' if value is None else format(value, '.4g'):>8}  "
        print(f"{entry.speedup:7.2f}x  {entry.values[metric]:8.4g}  {other}{share:8.0%}  {entry.recipe}")
    noise = sorted(entry.noise[metric] for entry in front)[len(front) // 2]
    words = (
        f"the column 'held out' is {metric} on prompts that no choice was based on."
        if held_out
        else "compare on other prompts and seeds (--held-out, or dcache bench)."
    )
    print(
        f"\n{len(done.candidates)} schedules evaluated; {done.twins} of {done.asked} proposals "
        f"were twins of them ({done.twins / max(done.asked, 1):.0%}){_fits(done, config)}. {metric} on "
        f"{done.rungs} rung(s) of prompts; its standard error on the first: {noise:.2g}. "
        f"{COSTED[config.cost]} The schedules were chosen by these figures, so they are optimistic: {words}"
    )
    if done.broken:
        print(f"{done.broken} schedules have broken pictures or a metric that is no number, and rank last.")


def _fits(done: Search, config: SearchConfig) -> str:
    """How many renderings the fits of weights took, or why there were no fits."""
    from dcache.search.evaluating.loop import AROUND

    if done.fits:
        return f"; fits of weights took {done.fits} renderings"
    if not config.fitting:
        return ""
    return (
        "; no weights were fitted: a fit needs two prompts, a schedule that reaches a wanted speedup and "
        f"computes all units together, and a share (--fitting) of {AROUND} renderings plus one or two for "
        "each prediction"
    )
