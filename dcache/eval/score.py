"""Score the pictures of a run: every metric of every method, written to `scores.json`."""

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
    tell: Progress = silent,
    process: tuple[int, int] = (0, 1),
    together: Callable[[Callable[[], Any]], Any] = lambda work: work(),
) -> dict[str, Any] | None:
    """Compute metrics of all methods of a run and write `scores.json` into its folder.

    Networks read pictures in fixed batches, which are dealt to the processes and kept in `features/`; process
    0 does all else. So the numbers do not depend on how many processes there are (of equally many threads
    each: sums of another number of threads differ in the last bit), and a second run reads nothing anew.

    Args:
        store: a finished run.
        names: of metrics.
        options: theirs; None leaves the defaults.
        tell: called with what is under way, how much of it is done, and how much of it this process has.
        process: index and count.
        together: does the work that it is given, and returns its result when every process has done its own.

    Returns:
        What was written; None in every process but the first.

    Raises:
        DcacheError: pictures are missing, or a metric is unknown or cannot be computed here.
    """
    options, metrics = options or MetricOptions(), chosen(names)
    batches = Batches(store, options)
    features = together(lambda: _read(store, metrics, batches, options, tell, process))
    if process[0] != 0:
        return None
    described = {metric.name: about(metric, options) for metric in metrics}
    scores: dict[str, dict[str, Score]] = {entry.folder: {} for entry in store.methods}
    for done, metric in enumerate(metrics):
        tell("scores", done, len(metrics))
        for entry in store.methods:
            against = described[metric.name]["against"]
            scores[entry.folder][metric.name] = _score(metric, entry, against, batches, features)
    tell("scores", len(metrics), len(metrics))
    told = dict.fromkeys(text for its in scores.values() for one in its.values() for text in one.warnings)
    content = {
        "format": FORMAT,
        "version": VERSION,
        "metrics": described,
        "methods": {
            folder: {name: one.content() for name, one in its.items()} for folder, its in scores.items()
        },
        "warnings": list(told),
    }
    write_json(Path(store.folder, FILE), content)
    return content


def _read(
    store: Store,
    metrics: Sequence[Metric],
    batches: Batches,
    options: MetricOptions,
    tell: Progress,
    process: tuple[int, int],
) -> dict[str, Features]:
    """Have every source of the metrics read this process's batches; one network is loaded at a time."""
    found = {}
    defined = [metric for metric in metrics if batches.kind in metric.kinds]
    for source in sources(defined):
        compared = any(metric.against == "pictures" for metric in defined if metric.source == source)
        folder = Path(store.folder, "features", source.name)
        reader = source.load(options)
        found[source.name] = Features(folder, reader.identity, batches.sets(source, compared))
        found[source.name].fill(reader.read, process, partial(tell, source.name))
    return found


def _score(
    metric: Metric, entry: Entry, against: str, batches: Batches, features: dict[str, Features]
) -> Score:
    if why := batches.why_not(metric, against, entry):
        return Score(why_not=why)
    rows, other = features[metric.source.name].rows, None
    if metric.against == "pictures":
        other = rows(REFERENCE if against == "reference" else batches.uncached.folder)
    return metric.summary(Sample(rows(entry.folder), other, batches.prompts))
