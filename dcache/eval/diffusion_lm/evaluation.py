"""The evaluation: every policy and the uncached loop of its decode order, on all prompts, with every seed."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from dcache.diffusion_lm import RowMethod
from dcache.diffusion_lm.decoders import make_decoder
from dcache.diffusion_lm.limits import check_order
from dcache.eval.diffusion_lm.entries import Order, RowEntry, by_order
from dcache.eval.diffusion_lm.runs import run
from dcache.eval.diffusion_lm.settings import RowSettings
from dcache.eval.diffusion_lm.subject import Batch, RowSubject
from dcache.eval.digest import digest_of
from dcache.eval.results_folder import made_once, model_facts, open_results

FORMAT, VERSION = "dcache.dlm", 1
NONE = "none"
Progress = Callable[[str, int, int], None]


@dataclass(frozen=True)
class Measured:
    """A policy on all prompts.

    Attributes:
        label: the policy; "none" for the uncached loop.
        order: its decode order.
        runs: of each seed and batch, as `RowRun.plain`, seeds first.
    """

    label: str
    order: Order
    runs: list[dict[str, Any]]


@dataclass(frozen=True)
class Job:
    """What `Measured` is made by: a method, or None for the model as it is."""

    label: str
    order: Order
    method: RowMethod | None

    @property
    def file_name(self) -> str:
        """Begins the names of its files."""
        if self.method is None or self.label == NONE:
            return f"{NONE}.{self.order.block}.{self.order.window or 'all'}"
        return f"{RowEntry(self.label, self.method).file_name}.{digest_of(self.method)}"


def jobs_of(entries: Sequence[RowEntry], block: int) -> Iterator[Job]:
    """The policies by decode order, the uncached loop first in each."""
    for order, members in by_order(list(entries), block).items():
        yield Job(NONE, order, order.reference())
        for entry in members:
            yield Job(entry.label, order, entry.method)


def evaluate(
    subject: RowSubject,
    entries: Sequence[RowEntry],
    settings: RowSettings,
    out: Path | None = None,
    progress: Progress = lambda _what, _done, _total: None,
) -> list[Measured]:
    """Run every policy, and the uncached loop of each decode order.

    Args:
        subject: the model.
        entries: the policies.
        settings: what is generated.
        out: folder of the results; those of the same settings are read from it. None keeps nothing.
        progress: called with what is at work, the number done and all.

    Raises:
        DcacheError: the folder holds results of other settings, or cannot be written to; or a policy does
            not go with the decoder or the model.
    """
    settings = settings.of(subject)
    for entry in entries:
        check_order(entry.method, make_decoder(settings.decoder, settings.threshold))
    folder = None
    if out is not None:
        facts = model_facts(subject.name, subject.model)
        about = {"format": FORMAT, "version": VERSION, **facts, **vars(settings)}
        folder = open_results(out, about, "runs")
    batches = subject.batches(settings.prompts, settings.length)
    jobs = list(jobs_of(entries, settings.block or subject.block))
    seeds = range(settings.seed, settings.seed + settings.seeds)
    total, done = len(jobs) * len(seeds) * len(batches), 0
    measured = []
    for job in jobs:
        runs = []
        for seed in seeds:
            for index, batch in enumerate(batches):
                progress(f"{job.label}, {job.order.text}", done, total)
                make = _running(subject, batch, job, settings, seed)
                path = None if folder is None else folder / f"{job.file_name}.{seed}.{index}.json"
                runs.append(make() if path is None else made_once(path, ("scores", "forwards"), make))
                done += 1
        measured.append(Measured(job.label, job.order, runs))
    progress("done", total, total)
    return measured


def _running(
    subject: RowSubject, batch: Batch, job: Job, settings: RowSettings, seed: int
) -> Callable[[], dict[str, Any]]:
    return lambda: run(subject, batch, job.method, job.order.block, settings, seed).plain()
