"""Evaluation of methods on a pipeline, in three stages: generate pictures, score them, write a report."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dcache.errors import DcacheError
from dcache.eval.earlier import adopt
from dcache.eval.entries import BenchEntry, check_entry
from dcache.eval.folder import LOCK, alone
from dcache.eval.generate import generate
from dcache.eval.manifest import FILE, Manifest
from dcache.eval.metrics import check, chosen
from dcache.eval.metrics.options import MetricOptions
from dcache.eval.processes import ProcessGroup, join, own_device
from dcache.eval.progress import Progress, silent
from dcache.eval.prompts import digest, read
from dcache.eval.report import report
from dcache.eval.score import FILE as SCORES
from dcache.eval.score import score
from dcache.eval.settings import STAGES, Settings
from dcache.eval.specs import parse
from dcache.eval.store import Store
from dcache.eval.subject import Subject, coefficients, load, placed

# Default prompts of the shipped pipelines.
PROMPTS = {"demo": "demo:96", "demo-video": "demo-video:16"}


@dataclass(frozen=True)
class Result:
    """Result of an evaluation.

    Attributes:
        store: the pictures and the cost of their calls.
        scores: content of `scores.json`; None before the score stage, and in all processes but the first.
        files: paths of the reports.
        unfinished: labels of methods that are left out because some of their pictures are missing.
    """

    store: Store
    scores: dict[str, Any] | None
    files: list[Path]
    unfinished: list[str]


def evaluate(  # noqa: PLR0913
    pipeline: Any = None,
    prompts: str | Sequence[str] | None = None,
    methods: str | Sequence[BenchEntry] = "default",
    settings: Settings | None = None,
    *,
    out: str | Path,
    metrics: Sequence[str] | None = None,
    metric_options: MetricOptions | None = None,
    warm_up: bool = True,
    stages: Sequence[str] = STAGES,
    progress: Progress = silent,
) -> Result:
    """Make pictures without caching and with several methods, score them, and write a report.

    Resumable: the same call continues an earlier one that stopped or was killed, and makes nothing twice. A
    call with more methods adds them. Under `accelerate launch` the processes share the pictures.

    >>> result = evaluate("demo", "demo:2", out=folder, settings=Settings(steps=4))  # doctest: +SKIP

    Args:
        pipeline: `demo` (the default), `demo-video`, a folder written by `save_pretrained`, an id of the hub,
            or a loaded pipeline.
        prompts: the prompts, or a source for `dcache.eval.prompts.read`; None only for shipped pipelines.
        methods: specifications for `dcache.eval.specs.parse`, or contestants.
        settings: settings of the pipeline's calls.
        out: folder of all files.
        metrics: names in `dcache.eval.metrics.METRICS`; None takes those that need no download.
        metric_options: options of the metrics.
        warm_up: call each method once untimed first, and count its FLOPs in that call.
        stages: some of `generate`, `score`, `report`. Without `generate`, pipeline, prompts and settings are
            read from the folder, and those that are given must be equal.
        progress: called with the stage, the number of items done, and the number of items.

    Raises:
        DcacheError: an argument is wrong, or a stage failed; finished pictures stay in the folder.
    """
    _refuse(stages, metrics)
    settings, options, folder = settings or Settings(), metric_options or MetricOptions(), Path(out)
    group = join(settings.device)
    with ExitStack() as stack:
        lock = _lock_of(folder, group, stack)
        if "generate" in stages:
            # Before the pipeline is loaded, which may take long. A new folder is made once nothing is wrong.
            group.all(lambda: lock() if (folder / LOCK).exists() else None)
            job = group.all(lambda: job_of(pipeline, prompts, methods, settings, folder))
            if "score" in stages:
                job.check(metrics, options, group)
            group.all(lock)
            store = job.make(folder, group, warm_up, progress)
            # Frees the pipeline's memory for the networks of the metrics.
            del job
        else:
            store = Store.open(folder)
            store.manifest.refuse_other(_given(pipeline, prompts, settings), folder)
            group.all(lock)
        return _result(store, stages, metrics, options, group, progress)


def _lock_of(folder: Path, group: ProcessGroup, stack: ExitStack) -> Callable[[], None]:
    """What locks the folder until the stack ends; a second call does nothing."""
    held: list[Path] = []

    def lock() -> None:
        # One process locks the folder for the whole group.
        if group.first and not held:
            stack.enter_context(alone(folder))
            held.append(folder)

    return lock


def _refuse(stages: Sequence[str], metrics: Sequence[str] | None) -> None:
    """Refuse unknown stages and metrics, before anything is loaded."""
    if not stages or set(stages) - set(STAGES):
        raise DcacheError(f"stages must be some of {', '.join(STAGES)}, got {', '.join(stages) or 'none'}")
    if metrics is not None:
        chosen(metrics)


def usual_metrics(pipeline: str, kind: str, other_size: bool = False) -> list[str]:
    """The default metrics: those that need no download.

    Args:
        pipeline: name of the pipeline; `demo` has metrics of its own.
        kind: "image" or "video".
        other_size: whether a picture size is set; the demo's metrics know one size only.
    """
    judges = ["clip-shapes", "frechet-shapes"] if pipeline == "demo" and not other_size else []
    return ["psnr", "ssim", *(["flicker"] if kind == "video" else []), *judges]


def resized(settings: Mapping[str, Any]) -> bool:
    """Whether the settings set a picture size."""
    return any(settings.get(name) is not None for name in ("height", "width"))


@dataclass(frozen=True)
class Job:
    """The inputs of the generate stage, loaded and checked."""

    subject: Subject
    contestants: Sequence[BenchEntry]
    prompts: list[str]
    settings: dict[str, Any]

    def check(self, metrics: Sequence[str] | None, options: MetricOptions, group: ProcessGroup) -> None:
        """Check that the metrics can be computed, before any picture is made."""
        names = metrics or usual_metrics(self.subject.name, self.subject.kind, resized(self.settings))
        group.main_first(lambda: check(names, options, self.subject.kind))

    def make(self, folder: Path, group: ProcessGroup, warm_up: bool, progress: Progress) -> Store:
        """Make all missing pictures; every process makes its share."""
        store = group.main_first(lambda: self.begin(folder))
        group.all(
            lambda: generate(
                store, self.subject, self.contestants, warm_up=warm_up, process=group.place, progress=progress
            )
        )
        return store

    def begin(self, folder: Path) -> Store:
        """Create or extend the folder's manifest, and write it."""
        pipe = self.subject.pipe
        about = {
            "name": self.subject.name,
            "class": type(pipe).__name__,
            "kind": self.subject.kind,
            "steps": self.subject.steps,
            "guidance": self.subject.guidance,
            "digest": self.subject.digest,
        }
        store = Store(folder, Manifest.of(folder, self.settings, about, self.prompts))
        adopt(store, self.contestants)
        store.manifest.add(self.contestants)
        store.manifest.write(folder)
        return store


def job_of(
    pipeline: Any,
    prompts: str | Sequence[str] | None,
    methods: str | Sequence[BenchEntry],
    settings: Settings,
    folder: Path,
) -> Job:
    """The job of these arguments. All that needs no pipeline is checked before it is loaded.

    Raises:
        DcacheError: an argument is wrong, or the folder holds an evaluation with other settings.
    """
    pipeline = "demo" if pipeline is None else pipeline
    name = _name(pipeline)
    prompts = PROMPTS.get(name) if prompts is None else prompts
    if prompts is None:
        raise DcacheError(f"{name} has no default prompts: give --prompts, a file, a named set or a prompt")
    texts = _texts(prompts)
    contestants = parse(methods, coefficients(name)) if isinstance(methods, str) else methods
    if isinstance(pipeline, str):
        settings = replace(settings, device=own_device(settings.device))
        dtype, device = placed(settings.dtype, settings.device)
    else:
        dtype, device = str(pipeline.dtype).removeprefix("torch."), str(pipeline.device)
    wanted = _given(name, texts, settings) | replace(settings, dtype=dtype, device=device).content()
    if (folder / FILE).exists():
        Manifest.read(folder).refuse_other(wanted, folder)
    subject = load(pipeline, **settings.call())
    for contestant in contestants:
        check_entry(subject, contestant)
    return Job(subject, contestants, texts, wanted)


def _given(pipeline: Any, prompts: str | Sequence[str] | None, settings: Settings) -> dict[str, Any]:
    """The settings that were given explicitly, without defaults."""
    given = {} if pipeline is None else {"pipeline": _name(pipeline)}
    if prompts is not None:
        texts = _texts(prompts)
        given["prompts"] = f"{len(texts)} ({digest(texts)})"
    return given | settings.given()


def _result(
    store: Store,
    stages: Sequence[str],
    metrics: Sequence[str] | None,
    options: MetricOptions,
    group: ProcessGroup,
    progress: Progress,
) -> Result:
    """Score and report the methods whose pictures are complete."""
    done, scores = store.finished(), None
    if "score" in stages:
        scores = _score(done, metrics, options, group, progress)
    elif "report" in stages:
        scores = _scores(store.folder)
    wanted = "report" in stages and group.first
    files = group.all(lambda: report(done, scores or {}) if wanted else [])
    return Result(done, scores, files, [entry.label for entry in store.methods if entry not in done.methods])


def _score(
    done: Store,
    metrics: Sequence[str] | None,
    options: MetricOptions,
    group: ProcessGroup,
    progress: Progress,
) -> dict[str, Any] | None:
    settings, kind = done.settings, done.manifest.pipeline["kind"]
    names = metrics or usual_metrics(settings["pipeline"], kind, resized(settings))
    return group.all(lambda: score(done, names, options, progress, group.place, group.all))


def _scores(folder: Path) -> dict[str, Any]:
    try:
        scores: dict[str, Any] = json.loads((folder / SCORES).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DcacheError(f"cannot read {folder / SCORES}: {error}. Run the score stage first.") from None
    return scores


def _name(pipeline: Any) -> str:
    return pipeline if isinstance(pipeline, str) else type(pipeline).__name__


def _texts(prompts: str | Sequence[str]) -> list[str]:
    return read(prompts) if isinstance(prompts, str) else list(prompts)
