"""The score stage: every metric of every method, written to `scores.json`."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from dcache.eval.metrics import about, chosen, sources
from dcache.eval.metrics.base import Metric, Sample, Score
from dcache.eval.metrics.batches import REFERENCE, Batches
from dcache.eval.metrics.features import Features
from dcache.eval.metrics.options import MetricOptions
from dcache.eval.progress import Progress, silent
from dcache.util.files import write_json

if TYPE_CHECKING:
    from dcache.eval.manifest import Entry
    from dcache.eval.store import Store

FORMAT, VERSION, FILE = "dcache.eval.scores", 1, "scores.json"


def score(
    store: Store,
    names: Sequence[str],
    options: MetricOptions | None = None,
    progress: Progress = silent,
    process: tuple[int, int] = (0, 1),
    run_on_all: Callable[[Callable[[], Any]], Any] = lambda work: work(),
) -> dict[str, Any] | None:
    """Compute metrics of all methods of a run and write `scores.json` into its folder.

    Networks read pictures in fixed batches, which are split over the processes; the features are stored in
    `features/`, so that a second run computes none again. Process 0 does the rest. The results do not depend
    on the number of processes (but on the number of threads of each, in the last bit).

    Args:
        store: a finished run.
        names: names of metrics.
        options: options of the metrics; None is the defaults.
        progress: called with the stage, the items done, and the items of this process.
        process: rank and world size.
        run_on_all: runs work in every process and waits for all, as `ProcessGroup.all`.

    Returns:
        The content of `scores.json`; None in every process but the first.

    Raises:
        DcacheError: pictures are missing, or a metric is unknown or cannot be computed here.
    """
    options, metrics = options or MetricOptions(), chosen(names)
    batches = Batches(store, options)
    features = run_on_all(lambda: _read(store, metrics, batches, options, progress, process))
    if process[0] != 0:
        return None
    described = {metric.name: about(metric, options) for metric in metrics}
    scores: dict[str, dict[str, Score]] = {entry.folder: {} for entry in store.methods}
    for done, metric in enumerate(metrics):
        progress("scores", done, len(metrics))
        for entry in store.methods:
            against = described[metric.name]["against"]
            scores[entry.folder][metric.name] = _score(metric, entry, against, batches, features)
    progress("scores", len(metrics), len(metrics))
    warnings = dict.fromkeys(
        text for by_metric in scores.values() for value in by_metric.values() for text in value.warnings
    )
    content = {
        "format": FORMAT,
        "version": VERSION,
        "metrics": described,
        "methods": {
            folder: {name: value.content() for name, value in by_metric.items()}
            for folder, by_metric in scores.items()
        },
        "warnings": list(warnings),
    }
    write_json(Path(store.folder, FILE), content)
    return content


def _read(
    store: Store,
    metrics: Sequence[Metric],
    batches: Batches,
    options: MetricOptions,
    progress: Progress,
    process: tuple[int, int],
) -> dict[str, Features]:
    """Compute the features of this process's batches, source by source: one network is loaded at a time."""
    features = {}
    defined = [metric for metric in metrics if batches.kind in metric.kinds]
    for source in sources(defined):
        compared = any(metric.against == "pictures" for metric in defined if metric.source == source)
        folder = Path(store.folder, "features", source.name)
        reader = source.load(options)
        features[source.name] = Features(folder, reader.identity, batches.sets(source, compared))
        features[source.name].fill(reader.read, process, partial(progress, source.name))
    return features


def _score(
    metric: Metric, entry: Entry, against: str, batches: Batches, features: dict[str, Features]
) -> Score:
    if why := batches.why_not(metric, against, entry):
        return Score(why_not=why)
    rows, other = features[metric.source.name].rows, None
    if metric.against == "pictures":
        other = rows(REFERENCE if against == "reference" else batches.uncached.folder)
    return metric.summary(Sample(rows(entry.folder), other, batches.prompts))
