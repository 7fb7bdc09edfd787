"""`dcache search`: the best schedules of a pipeline, found by rendering candidates; resumable."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from dcache.cli.bench import pipeline_options, prompts_of
from dcache.cli.search_arguments import add_arguments, held_out, set_threads, speedup_of, ways_of
from dcache.cli.search_output import Progress, finish, finish_interrupted, silent
from dcache.errors import DcacheError
from dcache.util.files import make_folder

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    from dcache.eval.processes import ProcessGroup as Launch
    from dcache.profile import Profile
    from dcache.search.loop import Evaluator
    from dcache.search.quality import QualityEvaluator
    from dcache.search.search import SearchConfig
    from dcache.search.space import Space


def add(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "search",
        help="a front of schedules, cost against quality, found by rendering candidates",
        description=(
            "Search schedules of a pipeline that was observed (dcache calibrate PIPE --out X.safetensors). "
            "Every evaluation is kept in --out; a search that was stopped goes on with --resume. Several "
            "processes: --workers N, or accelerate launch -m dcache.cli search ..."
        ),
    )
    add_arguments(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Search, write the front, print it."""
    from dcache.eval.processes import join, own_device
    from dcache.profile import Profile
    from dcache.search.search import identity_of, open_journal, rungs, search, space_of

    wanted = speedup_of(arguments.pick)
    ways, prompts = ways_of(arguments, wanted), prompts_of(arguments)
    if arguments.workers < 1:
        raise DcacheError(f"--workers must be at least 1, got {arguments.workers}")
    profile, launch = Profile.load(arguments.profile), join(arguments.device)
    options = pipeline_options(arguments) | {"device": own_device(arguments.device)}
    parts, held = rungs(prompts, ways.first), held_out(arguments.held_out, prompts)
    make = partial(make_judge, arguments.pipeline, options, parts, ways, arguments.batch_size, profile, held)
    threads = set_threads(arguments.threads, arguments.workers)
    judge = make()
    about = _about(arguments, options, judge)
    # Before anything is written.
    ways = replace(ways, paired=judge.paired)
    _refuse_beyond(wanted, space_of(profile, ways), ways.cost)
    make_folder(arguments.out)
    identity = identity_of(ways, prompts, about, held)
    journal = launch.main_first(lambda: open_journal(arguments.out, identity, arguments.resume, launch.first))
    signs = {name: judge.direction(name) for name in ways.metrics}
    tell = Progress(journal.damaged) if launch.first else silent
    try:
        with _team(judge, launch, make, arguments.workers, threads) as team:
            done = search(profile, ways, team, prompts, signs, journal, bool(held), tell)
    except KeyboardInterrupt:
        if launch.world_size == 1 and isinstance(tell, Progress) and tell.latest is not None:
            finish_interrupted(tell.latest, ways, about, arguments.out, wanted)
        raise
    if launch.first:
        if done.spent < ways.budget:
            print(f"it ended before its budget of {ways.budget}: nothing new was asked for", file=sys.stderr)
        finish(done, ways, about, arguments.out, wanted)
    return 0


def _about(arguments: argparse.Namespace, options: dict[str, Any], judge: QualityEvaluator) -> dict[str, Any]:
    """The pipeline that is searched on, its options and weights."""
    return {
        "pipeline": arguments.pipeline,
        "options": {k: str(v) for k, v in options.items() if k != "device"},
        "components": judge.subject.digest,
        "batch_size": arguments.batch_size,
    }


@contextmanager
def _team(
    judge: QualityEvaluator, launch: Launch, make: Callable[[], QualityEvaluator], workers: int, threads: int
) -> Iterator[Evaluator]:
    """Who renders: this process, the processes of a launch, or workers of its own."""
    from dcache.search.evaluators import DistributedEvaluator, LocalEvaluator, ProcessPoolEvaluator

    if launch.world_size > 1 and workers > 1:
        raise DcacheError("accelerate launch brings the processes: leave --workers out")
    if workers == 1:
        yield DistributedEvaluator(judge, launch) if launch.world_size > 1 else LocalEvaluator(judge)
        return
    pool = ProcessPoolEvaluator(make, workers, threads)
    try:
        yield pool
    finally:
        pool.close()


def make_judge(
    pipeline: str,
    options: dict[str, Any],
    parts: list[list[str]],
    ways: SearchConfig,
    batch_size: int,
    profile: Profile,
    held: list[str],
) -> QualityEvaluator:
    """The judge of one process.

    Raises:
        DcacheError: the pipeline cannot be loaded, or the profile is of another one.
    """
    from dcache.eval.subject import load
    from dcache.search.check import refuse_other
    from dcache.search.quality import QualityEvaluator

    subject = load(pipeline, **options)
    refuse_other(profile, subject)
    return QualityEvaluator(subject, parts, ways.metrics, ways.seed, batch_size, held_out=held)


def _refuse_beyond(wanted: float | None, space: Space, by: str) -> None:
    from dcache.search.search import fastest

    most = fastest(space, by)
    if wanted is not None and wanted > most:
        raise DcacheError(
            f"--pick {wanted:g}x cannot be had: one compute alone is expected to be {most:.2f}x here. Ask "
            "for less"
        )
