"""Evaluate methods on a pipeline: generate pictures, score them, report; each stage by itself or all."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from dcache.errors import DcacheError
from dcache.eval.earlier import adopt
from dcache.eval.entries import BenchEntry, check_entry
from dcache.eval.folder import alone
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

# What the shipped pipelines are asked for unless other prompts are given.
PROMPTS = {"demo": "demo:96", "demo-video": "demo-video:16"}


@dataclass(frozen=True)
class Result:
    """What an evaluation left.

    Attributes:
        store: the pictures, and what their calls cost.
        scores: the content of `scores.json`; None before the score stage, and in all processes but the first.
        files: the reports.
        unfinished: labels of methods in the folder that are in neither, since pictures of theirs are missing.
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
    tell: Progress = silent,
) -> Result:
    """Make pictures without caching and with several methods, score them, report.

    The same call goes on where an earlier one stopped, however that ended, and makes nothing twice; with more
    methods it adds theirs. Under `accelerate launch` every process makes and reads its share of the pictures.

    >>> result = evaluate("demo", "demo:2", out=folder, settings=Settings(steps=4))  # doctest: +SKIP

    Args:
        pipeline: `demo` (the default), `demo-video`, a folder that `save_pretrained` wrote, an id of the hub,
            or a pipeline that is loaded already.
        prompts: the prompts, or where `dcache.eval.prompts.read` finds them; the shipped pipelines have some.
        methods: as `dcache.eval.specs.parse` reads them, or contestants.
        settings: how the pipeline is called.
        out: the folder.
        metrics: names of `dcache.eval.metrics.METRICS`; None takes those that need no download.
        metric_options: theirs.
        warm_up: call each method once off the clock first, and count its FLOPs in that call.
        stages: some of `generate`, `score`, `report`. Without the first, pipeline, prompts and settings are
            the folder's; those that are given must be the same.
        tell: called with what is under way, how much of it is done, and how much of it there is.

    Raises:
        DcacheError: something that was asked for cannot be done; what was finished before stays.
    """
    _refuse(stages, metrics)
    settings, options, folder = settings or Settings(), metric_options or MetricOptions(), Path(out)
    team = join(settings.device)
    with ExitStack() as held:

        def hold() -> None:
            if team.first:
                held.enter_context(alone(folder))

        if "generate" in stages:
            job = team.all(lambda: job_of(pipeline, prompts, methods, settings, folder))
            if "score" in stages:
                job.check(metrics, options, team)
            team.all(hold)
            store = job.make(folder, team, warm_up, tell)
            # Its memory is the metrics' now.
            del job
        else:
            store = Store.open(folder)
            store.manifest.refuse_other(_given(pipeline, prompts, settings), folder)
            team.all(hold)
        return _result(store, stages, metrics, options, team, tell)


def _refuse(stages: Sequence[str], metrics: Sequence[str] | None) -> None:
    """Refuse stages and metrics that are not there, before anything else is looked at."""
    if not stages or set(stages) - set(STAGES):
        raise DcacheError(f"stages must be some of {', '.join(STAGES)}, got {', '.join(stages) or 'none'}")
    if metrics is not None:
        chosen(metrics)


def usual_metrics(pipeline: str, kind: str, other_size: bool = False) -> list[str]:
    """The metrics that need no download.

    Args:
        pipeline: its name; the shipped ones have judges of their own.
        kind: "image" or "video".
        other_size: whether a size was asked for: the demo's judges know one only.
    """
    judges = ["clip-shapes", "frechet-shapes"] if pipeline == "demo" and not other_size else []
    return ["psnr", "ssim", *(["flicker"] if kind == "video" else []), *judges]


def resized(settings: Mapping[str, Any]) -> bool:
    """Whether a folder's settings ask for a size of their own."""
    return any(settings.get(name) is not None for name in ("height", "width"))


@dataclass(frozen=True)
class Job:
    """What the generate stage is asked for, loaded and checked."""

    subject: Subject
    contestants: Sequence[BenchEntry]
    prompts: list[str]
    settings: dict[str, Any]

    def check(self, metrics: Sequence[str] | None, options: MetricOptions, team: ProcessGroup) -> None:
        """Make sure that the pictures can be scored, before there are any."""
        names = metrics or usual_metrics(self.subject.name, self.subject.kind, resized(self.settings))
        team.main_first(lambda: check(names, options, self.subject.kind))

    def make(self, folder: Path, team: ProcessGroup, warm_up: bool, tell: Progress) -> Store:
        """Make all pictures, each process its share."""
        store = team.main_first(lambda: self.begin(folder))
        team.all(
            lambda: generate(
                store, self.subject, self.contestants, warm_up=warm_up, process=team.place, tell=tell
            )
        )
        return store

    def begin(self, folder: Path) -> Store:
        """Write what is asked for into the folder, or find it there."""
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
    """Check everything that can be checked without the pipeline, then load it."""
    pipeline = "demo" if pipeline is None else pipeline
    name = _name(pipeline)
    prompts = PROMPTS.get(name) if prompts is None else prompts
    if prompts is None:
        raise DcacheError(f"{name} needs prompts (--prompts): a file, a named set or a prompt")
    texts = _texts(prompts)
    contestants = parse(methods, coefficients(name)) if isinstance(methods, str) else methods
    if isinstance(pipeline, str):
        settings = replace(settings, device=own_device(settings.device))
        dtype, device = placed(settings.dtype, settings.device)
    else:
        dtype, device = str(pipeline.dtype).removeprefix("torch."), str(pipeline.device)
    asked = _given(name, texts, settings) | replace(settings, dtype=dtype, device=device).content()
    if (folder / FILE).exists():
        Manifest.read(folder).refuse_other(asked, folder)
    subject = load(pipeline, **settings.call())
    for one in contestants:
        check_entry(subject, one)
    return Job(subject, contestants, texts, asked)


def _given(pipeline: Any, prompts: str | Sequence[str] | None, settings: Settings) -> dict[str, Any]:
    """What was asked for, without what was left to others to choose."""
    found = {} if pipeline is None else {"pipeline": _name(pipeline)}
    if prompts is not None:
        texts = _texts(prompts)
        found["prompts"] = f"{len(texts)} ({digest(texts)})"
    return found | settings.given()


def _result(
    store: Store,
    stages: Sequence[str],
    metrics: Sequence[str] | None,
    options: MetricOptions,
    team: ProcessGroup,
    tell: Progress,
) -> Result:
    """Score and report the methods whose pictures are all there."""
    done, scores = store.finished(), None
    if "score" in stages:
        scores = _score(done, metrics, options, team, tell)
    elif "report" in stages:
        scores = _scores(store.folder)
    wanted = "report" in stages and team.first
    files = team.all(lambda: report(done, scores or {}) if wanted else [])
    return Result(done, scores, files, [one.label for one in store.methods if one not in done.methods])


def _score(
    done: Store, metrics: Sequence[str] | None, options: MetricOptions, team: ProcessGroup, tell: Progress
) -> dict[str, Any] | None:
    settings, kind = done.settings, done.manifest.pipeline["kind"]
    names = metrics or usual_metrics(settings["pipeline"], kind, resized(settings))
    return team.all(lambda: score(done, names, options, tell, team.place, team.all))


def _scores(folder: Path) -> dict[str, Any]:
    try:
        found: dict[str, Any] = json.loads((folder / SCORES).read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DcacheError(f"cannot read {folder / SCORES}: {error}. The score stage writes it.") from None
    return found


def _name(pipeline: Any) -> str:
    return pipeline if isinstance(pipeline, str) else type(pipeline).__name__


def _texts(prompts: str | Sequence[str]) -> list[str]:
    return read(prompts) if isinstance(prompts, str) else list(prompts)
