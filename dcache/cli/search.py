"""`dcache search`: the best schedules of a pipeline, found by rendering candidates; resumable."""

from __future__ import annotations

import argparse
import math
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import fields, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dcache.cli.bench import PROMPTS, add_pipeline, pipeline_options, prompts_of
from dcache.errors import DcacheError
from dcache.util.files import make_folder

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    from dcache.eval.processes import Team as Launch
    from dcache.profile import Profile
    from dcache.search.driver import Search, Team
    from dcache.search.evolve import Ways
    from dcache.search.found import Member
    from dcache.search.judge import Judge
    from dcache.search.space import Space

COSTED = {
    "seconds": "Speedups are expected ones, by the profile's seconds.",
    "flops": "Speedups are of the sites' FLOPs.",
    "measured": "Speedups are of single measured calls, noise and all.",
}
# ECAD (2025) as published: PixArt's setting of its code (the card in docs/search.md says where from).
ECAD = {
    "strategy": "nsga2",
    "units": "sublayers",
    "recipes": ("reuse",),
    "budget": 72 * 550,
    "population": 72,
    "mutation": 0.05,
    "convention": "some",
    "finishing": 0.0,
    "fitting": 0.0,
    "metrics": ("image-reward",),
    "cost": "flops",
    "first": 1000,
}


def add(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    from dcache.search.evolve import STRATEGIES, Ways
    from dcache.search.space import RECIPES

    usual = Ways()
    parser = commands.add_parser(
        "search",
        help="a front of schedules, cost against quality, found by rendering candidates",
        description=(
            "Search schedules of a pipeline that was observed (dcache calibrate PIPE --out X.safetensors). "
            "Every evaluation is kept in --out; a search that was stopped goes on with --resume. Several "
            "processes: --workers N, or accelerate launch -m dcache.cli search ..."
        ),
    )
    add_pipeline(parser)
    parser.add_argument("--prompts", default="", metavar="P", help=PROMPTS.partition(";")[0])
    parser.add_argument("--profile", type=Path, required=True, metavar="FILE", help="of this pipeline")
    parser.add_argument("--ecad", action="store_true", help="the published setting; other options change it")

    def option(name: str, kind: Any, metavar: str, text: str) -> None:
        default = getattr(usual, name)
        shown = ",".join(default) if isinstance(default, tuple) else default
        text += "" if default is None else f" (default: {shown})"
        parser.add_argument(f"--{name}", type=kind, metavar=metavar, help=text)

    option("strategy", str, "S", f"one of {', '.join(STRATEGIES)}")
    option("units", str, "U", "what decides alone: whole, kinds, blocks, sublayers, sections:N")
    option("recipes", _names, "LIST", f"how predictions may be made: {', '.join(RECIPES)}")
    option("budget", int, "N", "most schedules to evaluate")
    option("population", int, "N", "schedules of a generation")
    option(
        "mutation",
        float,
        "R",
        "mutation rate; where none is given two bits of a genome, or 0.05 of the offspring",
    )
    option("convention", str, "C", "that rate is of each bit (each), or of mutated offspring (some)")
    option("finishing", float, "F", "share of the budget for the local search around the front")
    option(
        "fitting",
        float,
        "F",
        "share for fits of weights on the pictures, of the best at --pick (or 2x 3x 4x)",
    )
    option("metrics", _names, "LIST", "traded against cost, as in dcache eval")
    option("cost", str, "C", "seconds by the profile, flops, or measured")
    option("first", int, "N", "prompts that every schedule is rendered on; the rest for those worth it")
    option("seed", int, "S", "of pictures and decisions")
    parser.add_argument(
        "--held-out", metavar="P", help="prompts that nothing is chosen by: the front is rendered on them too"
    )
    parser.add_argument("--no-seeds", action="store_true", help="begin with random schedules alone")
    parser.add_argument(
        "--batch-size", type=int, default=8, metavar="N", help="pictures in a call (default: 8)"
    )
    parser.add_argument("--workers", type=int, default=1, metavar="N", help="processes (default: 1)")
    parser.add_argument(
        "--threads", type=int, metavar="N", help="of each process (default: a share of torch's own)"
    )
    parser.add_argument("--resume", action="store_true", help="go on with the search in --out")
    parser.add_argument(
        "--pick", metavar="2.5x", help="save the best schedule of that speedup as picked.schedule.json"
    )
    out = Path("search-out")
    parser.add_argument("--out", type=Path, default=out, metavar="FOLDER", help=f"(default: {out})")
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Search, write the front, print it."""
    from dcache.eval.processes import join, own_device
    from dcache.profile import Profile
    from dcache.search.evolve import identity_of, opened, rungs, search, space_of

    wanted = _speedup(arguments.pick)
    ways, prompts = _ways(arguments, wanted), prompts_of(arguments)
    if arguments.workers < 1:
        raise DcacheError(f"--workers must be at least 1, got {arguments.workers}")
    profile, launch = Profile.load(arguments.profile), join(arguments.device)
    options = pipeline_options(arguments) | {"device": own_device(arguments.device)}
    parts, held = rungs(prompts, ways.first), _held_out(arguments.held_out, prompts)
    make = partial(make_judge, arguments.pipeline, options, parts, ways, arguments.batch_size, profile, held)
    threads = _threads(arguments.threads, arguments.workers)
    judge = make()
    about = _about(arguments, options, judge)
    # Before anything is written.
    ways = replace(ways, paired=judge.paired)
    _refuse_beyond(wanted, space_of(profile, ways), ways.cost)
    make_folder(arguments.out)
    identity = identity_of(ways, prompts, about, held)
    journal = launch.in_turn(lambda: opened(arguments.out, identity, arguments.resume, launch.first))
    signs = {name: judge.better(name) for name in ways.metrics}
    tell = Progress(journal.damaged) if launch.first else _silent
    try:
        with _team(judge, launch, make, arguments.workers, threads) as team:
            done = search(profile, ways, team, prompts, signs, journal, bool(held), tell)
    except KeyboardInterrupt:
        if launch.count == 1 and isinstance(tell, Progress) and tell.latest is not None:
            _interrupted(tell.latest, ways, about, arguments.out, wanted)
        raise
    if launch.first:
        if done.spent < ways.budget:
            print(f"it ended before its budget of {ways.budget}: nothing new was asked for", file=sys.stderr)
        _finished(done, ways, about, arguments.out, wanted)
    return 0


def _about(arguments: argparse.Namespace, options: dict[str, Any], judge: Judge) -> dict[str, Any]:
    """What is searched: the pipeline, its options and weights."""
    return {
        "pipeline": arguments.pipeline,
        "options": {k: str(v) for k, v in options.items() if k != "device"},
        "components": judge.subject.digest,
        "batch_size": arguments.batch_size,
    }


@contextmanager
def _team(
    judge: Judge, launch: Launch, make: Callable[[], Judge], workers: int, threads: int
) -> Iterator[Team]:
    """Who renders: this process, the processes of a launch, or workers of its own."""
    from dcache.search.team import Dealt, Here, Workers

    if launch.count > 1 and workers > 1:
        raise DcacheError("accelerate launch brings the processes: leave --workers out")
    if workers == 1:
        yield Dealt(judge, launch) if launch.count > 1 else Here(judge)
        return
    pool = Workers(make, workers, threads)
    try:
        yield pool
    finally:
        pool.close()


def _interrupted(done: Search, ways: Ways, about: dict[str, Any], out: Path, wanted: float | None) -> None:
    """Write what there is; that nothing is as fast yet is no error."""
    done.stop()
    print("interrupted: this is the front so far; --resume goes on", file=sys.stderr)
    try:
        _finished(done, ways, about, out, wanted)
    except DcacheError as error:
        print(error, file=sys.stderr)


def _finished(done: Search, ways: Ways, about: dict[str, Any], out: Path, wanted: float | None) -> None:
    """Write everything, print the front, pick from it."""
    from dcache.search.found import members, pick, write

    paths, front, metric = write(done, ways, about, out), members(done), ways.metrics[0]
    _report(done, front, ways)
    print(f"\nwrote {', '.join(map(str, paths[:4]))} and {out / 'schedules'}")
    if wanted is not None:
        best = pick(front, wanted, metric, done.signs[metric])
        path = best.schedule.save(out / "picked.schedule.json")
        print(f"\npicked {best.name}: dcache.enable(pipe, {str(path)!r})")


def make_judge(
    pipeline: str,
    options: dict[str, Any],
    parts: list[list[str]],
    ways: Ways,
    batch_size: int,
    profile: Profile,
    held: list[str],
) -> Judge:
    """The judge of one process.

    Raises:
        DcacheError: the pipeline cannot be loaded, or the profile is of another one.
    """
    from dcache.eval.subject import load
    from dcache.search.judge import Judge
    from dcache.search.planned import refuse_other

    subject = load(pipeline, **options)
    refuse_other(profile, subject)
    return Judge(subject, parts, ways.metrics, ways.seed, batch_size, held=held)


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


def _silent(_: Search) -> None:
    """All processes but the first."""


def _ways(arguments: argparse.Namespace, wanted: float | None) -> Ways:
    from dcache.search.evolve import Ways

    asked: dict[str, Any] = dict(ECAD) if arguments.ecad else {}
    for field in fields(Ways):
        value = getattr(arguments, field.name, None)
        if value is not None:
            asked[field.name] = value
    if arguments.no_seeds:
        asked["seeds"] = False
    if wanted is not None:
        asked["wanted"] = (wanted,)
    return Ways(**asked)


def _held_out(source: str | None, prompts: list[str]) -> list[str]:
    """The held-out prompts.

    Raises:
        DcacheError: one of them is searched on.
    """
    from dcache.eval.prompts import read

    held = [] if source is None else read(source)
    both = sorted(set(held) & set(prompts))
    if both:
        raise DcacheError(
            f"{len(both)} of the held-out prompts are searched on too ({both[0]!r}): hold out others"
        )
    return held


def _names(text: str) -> tuple[str, ...]:
    return tuple(name.strip() for name in text.split(",") if name.strip())


def _speedup(text: str | None) -> float | None:
    if text is None:
        return None
    try:
        value = float(text.removesuffix("x"))
    except ValueError:
        value = math.nan
    if not 0.0 < value < math.inf:
        raise DcacheError(f"--pick expects a speedup such as 2.5x, got {text!r}")
    return value


def _refuse_beyond(wanted: float | None, space: Space, by: str) -> None:
    from dcache.search.evolve import fastest

    most = fastest(space, by)
    if wanted is not None and wanted > most:
        raise DcacheError(
            f"--pick {wanted:g}x cannot be had: one compute alone is expected to be {most:.2f}x here. Ask "
            "for less"
        )


def _threads(asked: int | None, workers: int) -> int:
    """Set the threads of each process: shares of torch's own number, which knows of OMP_NUM_THREADS."""
    import torch

    if asked is not None and asked < 1:
        raise DcacheError(f"--threads must be at least 1, got {asked}")
    threads = asked or max(1, torch.get_num_threads() // workers)
    torch.set_num_threads(threads)
    return threads


def _report(done: Search, front: list[Member], ways: Ways) -> None:
    metric, held = ways.metrics[0], any(one.held for one in front)
    print(f"{'speedup':>8}  {metric:>8}  {'held out  ' if held else ''}computes  predicted by")
    for one in front:
        (plan,) = one.schedule.components.values()
        share = plan.computed / (one.schedule.steps * len(plan.sites) * len(plan.rows))
        value = one.held.get(metric)
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


def _fits(done: Search, ways: Ways) -> str:
    """What became of the share for fits of weights."""
    from dcache.search.driver import AROUND

    if done.fits:
        return f"; {done.fits} renderings went into fits of weights"
    if not ways.fitting:
        return ""
    return (
        "; no weights were fitted: that takes two prompts, a schedule that is as fast as wanted and computes "
        f"all units together, and a share (--fitting) of {AROUND} renderings and one or two for each "
        "prediction"
    )
