"""`Studio`: pipelines, one comparison at a time on a thread of its own, and the results of this session."""

from __future__ import annotations

import inspect
import sys
import traceback
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from queue import SimpleQueue
from secrets import token_hex
from threading import RLock, Thread
from time import perf_counter
from typing import Any

import dcache
from dcache import methods
from dcache.errors import DcacheError
from dcache.eval.entries import BenchEntry, check_entry
from dcache.eval.machine import heading as machine_line
from dcache.eval.machine import machine, versions
from dcache.eval.specs import parse
from dcache.eval.studio.compare import Comparison, Picture, Uncached, compare, uncached_side
from dcache.eval.studio.events import Events
from dcache.eval.studio.form import Form
from dcache.eval.studio.kept import Kept
from dcache.eval.studio.watch import StoppedError, Watch
from dcache.eval.subject import Subject
from dcache.util.text import first_sentence

# Comparisons and uncached calls that are kept, and the bytes of each kind.
MOST_COMPARISONS, MOST_UNCACHED = 100, 8
MOST_BYTES = 256 << 20
SECONDS_TO_END = 10.0


class BusyError(DcacheError):
    """A comparison is under way, and there is one at a time."""


@dataclass(frozen=True)
class Shown:
    """A pipeline of the page.

    Attributes:
        subject: the pipeline, with the options of its calls.
        numbers: coefficients file of a shipped pipeline, as for `dcache.eval.specs.parse`.
        prompts: examples of prompts.
    """

    subject: Subject
    numbers: Path | None = None
    prompts: Sequence[str] = ()


@dataclass
class _Job:
    number: int
    form: Form
    subject: Subject
    entry: BenchEntry
    watch: Watch
    state: dict[str, Any] = field(default_factory=dict)


class Studio:
    """Compares, one at a time.

    Args:
        pipelines: name -> pipeline.
        entries: methods that the command line named, such as schedule files.
        clock: gives the seconds, as for `dcache.eval.entries.run_once`.

    Attributes:
        events: what happens: "began", "progress", "uncached", "done", "failed", "stopped".
        comparisons: number -> finished comparison.
        session: a page that finds another one is of a server that has ended, and loads itself again.
        setup: pipelines with their defaults, and which methods fit each of them, as JSON values.
    """

    def __init__(
        self,
        pipelines: Mapping[str, Shown],
        entries: Sequence[BenchEntry] = (),
        clock: Callable[[], float] = perf_counter,
    ) -> None:
        self.pipelines, self.clock = dict(pipelines), clock
        self.entries = {entry.spec: entry for entry in entries}
        self.events, self.session = Events(), token_hex(8)
        self.comparisons: Kept[Comparison] = Kept(MOST_COMPARISONS, MOST_BYTES, lambda kept: kept.nbytes)
        self._uncached: Kept[Uncached] = Kept(MOST_UNCACHED, MOST_BYTES, lambda kept: kept.nbytes)
        # No comparison is under way yet: methods are enabled and disabled to see which fit.
        self.setup = self._described()
        # Reentrant: a signal's handler stops the run, wherever its thread stands.
        self._lock, self._number = RLock(), 0
        self._job: _Job | None = None
        self._picture: tuple[int, Picture] | None = None
        self._jobs: SimpleQueue[_Job | None] = SimpleQueue()
        self._thread = Thread(target=self._work, name="dcache studio", daemon=True)
        self._thread.start()

    def start(self, form: Form) -> int:
        """Begin a comparison; returns its number.

        Raises:
            BusyError: another one is under way.
            DcacheError: the form asks for something that there is not.
        """
        subject = form.subject({name: shown.subject for name, shown in self.pipelines.items()})
        entry = form.entry(self.entries, self.pipelines[form.pipeline].numbers)
        with self._lock:
            if self._job is not None:
                raise BusyError(
                    f"run {self._job.number} is under way: wait for it, or stop it; there is one at a time"
                )
            self._number += 1
            job = _Job(self._number, form, subject, entry, Watch(self._progress))
            job.state = {"number": job.number, "form": form.content(), "label": entry.label}
            self._job = job
            self.events.publish("began", job.state)
        self._jobs.put(job)
        return job.number

    def stop(self) -> bool:
        """End the comparison under way before its next evaluation; returns whether there was one."""
        with self._lock:
            if self._job is not None:
                self._job.watch.stop.set()
            return self._job is not None

    def close(self) -> None:
        """End the comparison under way, the thread and all streams."""
        self.stop()
        self.events.close()
        self._jobs.put(None)
        self._thread.join(SECONDS_TO_END)

    def state(self) -> dict[str, Any]:
        """This session, the comparison under way, and the numbers of those that are kept, as JSON values."""
        job = self._job
        run = None if job is None else job.state
        return {"session": self.session, "run": run, "kept": self.comparisons.keys()}

    def picture(self, number: int, side: str) -> Picture | None:
        """A picture of a comparison, also the uncached one of that under way; None if it is not kept."""
        comparison, early = self.comparisons.get(number), self._picture
        if comparison is not None:
            return comparison.uncached if side == "uncached" else comparison.picture
        return early[1] if early is not None and early[0] == number and side == "uncached" else None

    def _described(self) -> dict[str, Any]:
        return {
            "version": dcache.__version__,
            "machine": machine_line(machine(), versions()),
            "pipelines": [_pipeline(name, shown) for name, shown in self.pipelines.items()],
            "entries": [{"name": entry.spec, "label": entry.label} for entry in self.entries.values()],
            "methods": {
                name: {"summary": about.summary, "needs": about.needs, "options": _defaults(name)}
                for name, about in methods.available().items()
            },
        }

    def _work(self) -> None:
        while (job := self._jobs.get()) is not None:
            name, content = self._result(job)
            # In one step, so that the next comparison begins behind it on every page.
            with self._lock:
                self._job = None
                self.events.publish(name, content)

    def _result(self, job: _Job) -> tuple[str, dict[str, Any]]:
        """Make a comparison; returns the event that ends it."""
        try:
            return "done", self._compare(job)
        except StoppedError:
            return "stopped", {"number": job.number}
        except DcacheError as error:
            return "failed", {"number": job.number, "message": str(error)}
        except Exception as error:  # A pipeline may raise anything; the page must say so, and live on.
            traceback.print_exc(file=sys.stderr)
            message = f"{type(error).__name__}: {first_sentence(error)}. The terminal has all of it"
            return "failed", {"number": job.number, "message": message}

    def _compare(self, job: _Job) -> dict[str, Any]:
        form = job.form
        # Refused before the uncached call, which may take long.
        check_entry(job.subject, job.entry)
        key = (form.pipeline, form.prompt, form.seed, form.warm_up, str(job.subject.options))
        uncached = self._uncached.get(key)
        remembered = uncached is not None
        if uncached is None:
            uncached = uncached_side(job.subject, form, job.watch, self.clock)
            self._uncached.put(key, uncached)
        self._picture = (job.number, uncached.picture)
        # A new object each time: pages read it from another thread.
        job.state = job.state | {
            "remembered": remembered,
            "picture": uncached.picture.content(),
            "seconds": uncached.measured.median,
        }
        self.events.publish("uncached", job.state)
        comparison = compare(job.subject, job.entry, form, uncached, job.watch, self.clock, remembered)
        self.comparisons.put(job.number, comparison)
        if comparison.drifted:
            self._uncached.drop(key)
        return {"number": job.number, **comparison.content()}

    def _progress(self, side: str, phase: str, done: int, total: int) -> None:
        job = self._job
        if job is not None:
            progress = {"side": side, "phase": phase, "done": done, "total": total}
            job.state = job.state | {"progress": progress}
            self.events.publish("progress", {"number": job.number, **progress})


def _pipeline(name: str, shown: Shown) -> dict[str, Any]:
    """One pipeline, with the reason for each method that cannot be used on it."""
    subject = shown.subject
    return {
        "name": name,
        "class": type(subject.pipe).__name__,
        "kind": subject.kind,
        "condition": subject.condition,
        "steps": subject.steps,
        "guidance": subject.guidance,
        "prompts": list(shown.prompts),
        "unfit": {
            method: reason
            for method in methods.available()
            if (reason := _unfit(subject, method, shown.numbers))
        },
    }


def _unfit(subject: Subject, method: str, numbers: Path | None) -> str:
    """Why a method with its default options cannot be used on a pipeline; "" if it can."""
    try:
        (entry,) = parse(method, numbers)
        check_entry(subject, entry)
    except DcacheError as error:
        return str(error).removeprefix(f"{method}: ")
    return ""


def _defaults(method: str) -> dict[str, str]:
    """The options of a preset with their defaults, as one types them."""
    parameters = inspect.signature(getattr(methods, method)).parameters.values()
    return {p.name: _typed(p.default) for p in parameters}


def _typed(value: Any) -> str:
    if value is None or isinstance(value, bool):
        return str(value).lower()
    return "+".join(map(str, value)) if isinstance(value, list | tuple) else str(value)
