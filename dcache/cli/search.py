"""`dcache search`: the Pareto front of schedules of a pipeline, from rendered candidates; resumable."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any

from dcache.cli.progress import stages
from dcache.cli.run_settings import RunSettings
from dcache.cli.search_arguments import add_arguments, config_of, held_out, set_threads, speedup_of
from dcache.cli.search_output import Progress, finish, finish_interrupted, silent
from dcache.errors import DcacheError
from dcache.eval.packages import require
from dcache.util.files import make_folder, try_folder

if TYPE_CHECKING:
    from argparse import _SubParsersAction

    from dcache.eval.processes import ProcessGroup
    from dcache.profile import Profile
    from dcache.search.evaluating.loop import Evaluator
    from dcache.search.evaluating.quality import QualityEvaluator
    from dcache.search.genomes.space import Space
    from dcache.search.search import SearchConfig


def add(commands: _SubParsersAction[argparse.ArgumentParser]) -> None:
    """Register the command."""
    parser = commands.add_parser(
        "search",
        help="search the front of schedules, cost against quality, by rendering candidates",
        description=(
            "Search schedules of a pipeline that was observed (dcache calibrate PIPE --out X.safetensors). "
            "Every evaluation is logged in --out; --resume continues a search that was stopped. Several "
            "processes: --workers N, or accelerate launch -m dcache.cli search ..."
        ),
    )
    add_arguments(parser)
    parser.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Search, write the front and print it."""
    from dcache.eval.processes import join, own_device
    from dcache.profile import Profile
    from dcache.search.search import identity_of, open_journal, rungs, search, space_of

    require("search", "dcache search", "filelock", "jinja2", "matplotlib")
    settings, wanted = RunSettings.of(arguments), speedup_of(arguments.pick)
    config, prompts = config_of(arguments, wanted), settings.texts()
    if config.strategy == "nsga2":
        require("search", "--strategy nsga2", "deap")
    unseen = held_out(arguments.held_out, prompts, settings.prompt_column)
    _refuse_nothing_to_resume(arguments)
    profile, group = Profile.load(arguments.profile), join(settings.device)
    try_folder(arguments.out)
    options, parts = settings.call() | {"device": own_device(settings.device)}, rungs(prompts, config.first)
    make = partial(
        make_quality, arguments.pipeline, options, parts, config, arguments.batch_size, profile, unseen
    )
    threads = set_threads(arguments.threads, arguments.workers)
    progress = None
    try:
        with stages() if group.first else nullcontext() as log:
            quality = make()
            about = _about(arguments, options, quality)
            config = replace(config, paired=quality.paired)
            # Refused before anything is written.
            _refuse_beyond(wanted, space_of(profile, config), config.cost)
            make_folder(arguments.out)
            identity = identity_of(config, prompts, about, unseen)
            # Process 0 creates the journal; the others read it afterwards.
            journal = group.main_first(
                lambda: open_journal(arguments.out, identity, arguments.resume, group.first)
            )
            signs = {name: quality.direction(name) for name in config.metrics}
            progress = silent if log is None else Progress(log, journal.damaged)
            with _evaluator(quality, group, make, arguments.workers, threads) as evaluator:
                done = search(profile, config, evaluator, prompts, signs, journal, bool(unseen), progress)
    except KeyboardInterrupt:
        if group.world_size == 1 and isinstance(progress, Progress) and progress.latest is not None:
            finish_interrupted(progress.latest, config, about, arguments.out, wanted)
        raise
    if group.first:
        if done.spent < config.budget:
            print(
                f"the search ended before its budget of {config.budget}: it proposed nothing new",
                file=sys.stderr,
            )
        finish(done, config, about, arguments.out, wanted)
    return 0


def _refuse_nothing_to_resume(arguments: argparse.Namespace) -> None:
    from dcache.search.search import JOURNAL

    if arguments.resume and not (arguments.out / JOURNAL).is_file():
        raise DcacheError(
            f"--resume: there is no search in {arguments.out} (no {JOURNAL}). Leave --resume out, or give "
            "the --out of the search"
        )


def _about(
    arguments: argparse.Namespace, options: dict[str, Any], quality: QualityEvaluator
) -> dict[str, Any]:
    """The pipeline, its options and the digest of its weights, for the journal."""
    return {
        "pipeline": arguments.pipeline,
        "options": {k: str(v) for k, v in options.items() if k != "device"},
        "components": quality.subject.digest,
        "batch_size": arguments.batch_size,
    }


@contextmanager
def _evaluator(
    quality: QualityEvaluator,
    group: ProcessGroup,
    make: Callable[[], QualityEvaluator],
    workers: int,
    threads: int,
) -> Iterator[Evaluator]:
    """The evaluator for this process, for the processes of a launch, or with a pool of workers."""
    from dcache.search.evaluating.evaluators import DistributedEvaluator, LocalEvaluator, ProcessPoolEvaluator

    if group.world_size > 1 and workers > 1:
        raise DcacheError("accelerate launch starts the processes: leave --workers out")
    if workers == 1:
        yield DistributedEvaluator(quality, group) if group.world_size > 1 else LocalEvaluator(quality)
        return
    pool = ProcessPoolEvaluator(make, workers, threads)
    try:
        yield pool
    finally:
        pool.close()


def make_quality(
    pipeline: str,
    options: dict[str, Any],
    parts: list[list[str]],
    config: SearchConfig,
    batch_size: int,
    profile: Profile,
    unseen: list[str],
) -> QualityEvaluator:
    """The quality evaluator of one process; `unseen` are the held-out prompts.

    Raises:
        DcacheError: the pipeline cannot be loaded, or the profile is of another one.
    """
    from dcache.eval.subject import load
    from dcache.search.check import refuse_other
    from dcache.search.evaluating.quality import QualityEvaluator

    subject = load(pipeline, **options)
    refuse_other(profile, subject)
    return QualityEvaluator(subject, parts, config.metrics, config.seed, batch_size, held_out=unseen)


def _refuse_beyond(wanted: float | None, space: Space, by: str) -> None:
    from dcache.search.search import fastest

    most = fastest(space, by)
    if wanted is not None and wanted > most:
        raise DcacheError(
            f"--pick {wanted:g}x is out of reach: one computed evaluation alone is expected to be "
            f"{most:.2f}x here. Choose a smaller speedup"
        )
