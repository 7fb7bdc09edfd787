"""What `dcache search` prints and leaves: progress, the front, the picked schedule."""

from __future__ import annotations

import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dcache.errors import DcacheError

if TYPE_CHECKING:
    from dcache.search.front_report import FrontEntry
    from dcache.search.loop import Search
    from dcache.search.search import SearchConfig

COSTED = {
    "seconds": "Speedups are expected ones, by the profile's seconds.",
    "flops": "Speedups are of the sites' FLOPs.",
    "measured": "Speedups are of single measured calls, noise and all.",
}


class Progress:
    """Says how far the search is, and what its front is like.

    Args:
        damaged: lines of the journal that could not be read.

    Attributes:
        latest: the search, after its last batch.
    """

    def __init__(self, damaged: int) -> None:
        self.began = time.perf_counter()
        self.latest: Search | None = None
        self.said = 0
        if damaged:
            print(
                f"{damaged} damaged line(s) of the journal are skipped and evaluated again", file=sys.stderr
            )

    def __call__(self, search: Search) -> None:
        """After a batch."""
        self.latest = search
        if search.spent == self.said:
            # Twins alone: a strategy that has seen nearly all there is asks for them again and again.
            return
        self.said = search.spent
        metric, sign = next(iter(search.signs.items()))
        front, full, marks = search.front(), search.uncached, []
        for speedup in (2.0, 3.0, 4.0):
            values = [c.value(metric, search.rungs) for c in front if full / c.cost >= speedup]
            if values:
                marks.append(f"{speedup:g}x {sign * max(sign * v for v in values):.4g}")
        print(
            f"{search.spent} of {search.budget} evaluated, {search.twins} twins spared, front of "
            f"{len(front)}: {metric} at {', '.join(marks) or 'no 2x yet'} "
            f"({time.perf_counter() - self.began:.0f} s)",
            file=sys.stderr,
            flush=True,
        )


def silent(_: Search) -> None:
    """All processes but the first."""


def finish_interrupted(
    done: Search, ways: SearchConfig, about: dict[str, Any], out: Path, wanted: float | None
) -> None:
    """Write what there is; that nothing is as fast yet is no error."""
    done.stop()
    print("interrupted: this is the front so far; --resume goes on", file=sys.stderr)
    try:
        finish(done, ways, about, out, wanted)
    except DcacheError as error:
        print(error, file=sys.stderr)


def finish(done: Search, ways: SearchConfig, about: dict[str, Any], out: Path, wanted: float | None) -> None:
    """Write everything, print the front, pick from it."""
    from dcache.search.front_report import members, pick, write

    paths, front, metric = write(done, ways, about, out), members(done), ways.metrics[0]
    _report(done, front, ways)
    print(f"\nwrote {', '.join(map(str, paths[:4]))} and {out / 'schedules'}")
    if wanted is not None:
        best = pick(front, wanted, metric, done.signs[metric])
        path = best.schedule.save(out / "picked.schedule.json")
        print(f"\npicked {best.name}: dcache.enable(pipe, {str(path)!r})")


def _report(done: Search, front: list[FrontEntry], ways: SearchConfig) -> None:
    metric, held = ways.metrics[0], any(one.held_out_result for one in front)
    print(f"{'speedup':>8}  {metric:>8}  {'held out  ' if held else ''}computes  predicted by")
    for one in front:
        (plan,) = one.schedule.components.values()
        share = plan.computed / (one.schedule.steps * len(plan.sites) * len(plan.rows))
        value = one.held_out_result.get(metric)
        other = "" if not held else f"{'–' if value is None else format(value, '.4g'):>8}  "
        print(f"{one.speedup:7.2f}x  {one.values[metric]:8.4g}  {other}{share:8.0%}  {one.recipe}")
    noise = sorted(one.noise[metric] for one in front)[len(front) // 2]
    words = (
        f"the column 'held out' is of {metric} on prompts that nothing was chosen by."
        if held
        else "compare on other prompts and seeds (--held-out, or dcache bench)."
    )
    print(
        f"\n{len(done.candidates)} schedules evaluated; {done.twins} of {done.asked} that were asked for "
        f"were twins of them ({done.twins / max(done.asked, 1):.0%}){_fits(done, ways)}. {metric} on "
        f"{done.rungs} rung(s) of prompts; its standard error on the first: {noise:.2g}. "
        f"{COSTED[ways.cost]} They were chosen by these very figures, which flatter them: {words}"
    )
    if done.broken:
        print(
            f"{done.broken} with broken pictures, or a metric that is no number, count as the worst there is."
        )


def _fits(done: Search, ways: SearchConfig) -> str:
    """Text on the renderings that went into fits of weights, or on why there were none."""
    from dcache.search.loop import AROUND

    if done.fits:
        return f"; {done.fits} renderings went into fits of weights"
    if not ways.fitting:
        return ""
    return (
        "; no weights were fitted: that takes two prompts, a schedule that is as fast as wanted and computes "
        f"all units together, and a share (--fitting) of {AROUND} renderings and one or two for each "
        "prediction"
    )
