"""The registry of metrics, and the check that they can be computed here."""

from __future__ import annotations

import importlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import cached_property
from typing import Any

from dcache.errors import DcacheError
from dcache.eval.metrics import clip, distribution, image_reward, paired
from dcache.eval.metrics.base import Metric, Source
from dcache.eval.metrics.options import MetricOptions
from dcache.eval.metrics.reference import pictures_in
from dcache.eval.packages import missing
from dcache.util.distribution import install_line

# Modules above this package with metrics of a shipped pipeline, in `METRICS`.
SHIPPED = ("dcache.demo.metrics",)
# Packages of metrics that the extra `eval` installs.
EXTRA = frozenset({"torchmetrics", "torch-fidelity", "torchvision", "open-clip-torch"})


class Registry(Mapping[str, Metric]):
    """Name -> metric. The metric modules are imported on first use."""

    def register(self, metric: Metric) -> None:
        """Add a metric.

        Raises:
            DcacheError: another metric has this name.
        """
        if self._metrics.get(metric.name, metric) is not metric:
            raise DcacheError(f"a metric named {metric.name!r} is registered already: choose another name")
        self._metrics[metric.name] = metric

    @cached_property
    def _metrics(self) -> dict[str, Metric]:
        shipped = [importlib.import_module(name) for name in SHIPPED]
        modules = (paired, distribution, clip, image_reward, *shipped)
        return {metric.name: metric for module in modules for metric in module.METRICS}

    def __getitem__(self, name: str) -> Metric:
        return self._metrics[name]

    def __iter__(self) -> Iterator[str]:
        return iter(self._metrics)

    def __len__(self) -> int:
        return len(self._metrics)


METRICS = Registry()


def register(metric: Metric) -> None:
    """Register a metric, so that `dcache eval` and the search find it by name.

    Raises:
        DcacheError: another metric has this name.
    """
    METRICS.register(metric)


def chosen(names: Sequence[str]) -> list[Metric]:
    """The metrics of these names, each once, in this order.

    Raises:
        DcacheError: a name is unknown, or a package is not installed; the message has the pip command.
    """
    unknown = [name for name in names if name not in METRICS]
    if unknown or not names:
        raise DcacheError(f"no metric {', '.join(unknown) or 'named'}: expected some of {', '.join(METRICS)}")
    metrics = [METRICS[name] for name in dict.fromkeys(names)]
    absent = {package: metric.name for metric in metrics for package in missing(metric.packages)}
    if absent:
        raise DcacheError(
            f"not installed: {', '.join(f'{package} (for {name})' for package, name in absent.items())}; "
            f"{install_line('eval') if EXTRA.issuperset(absent) else 'pip install ' + ' '.join(absent)}"
        )
    return metrics


def sources(metrics: Sequence[Metric]) -> list[Source]:
    """The sources of metrics, each once."""
    return list({metric.source.name: metric.source for metric in metrics}.values())


def check(names: Sequence[str], options: MetricOptions, kind: str | None = None) -> None:
    """Check that metrics can be computed here, before anything is generated.

    Loads every network once, which downloads missing weights. With several processes, call it in one first
    and then in the others.

    Args:
        names: names of metrics.
        options: options of the metrics.
        kind: kind of the pictures, "image" or "video"; None if it is not known yet.

    Raises:
        DcacheError: a metric cannot be computed; the message says what is missing and where to get it.
    """
    metrics = chosen(names)
    for metric in metrics:
        if kind is not None and kind not in metric.kinds:
            raise DcacheError(
                f"{metric.name} is not defined for {kind}s. Leave it out: {fitting(names, kind)}"
            )
    if options.reference is not None:
        pictures_in(options.reference)
    for source in sources(metrics):
        source.load(options)


def fitting(names: Sequence[str], kind: str) -> str:
    """The names of the metrics that are defined for this kind of pictures, joined by commas."""
    return ",".join(name for name in names if kind in METRICS[name].kinds)


def about(metric: Metric, options: MetricOptions) -> dict[str, Any]:
    """The description of a metric in `scores.json`."""
    against = metric.against
    if against == "pictures":
        against = "uncached" if options.reference is None else "reference"
    return {
        "title": metric.title,
        "unit": metric.unit,
        "better": metric.better,
        "against": against,
        "what": metric.what.format(**asdict(options)),
        "digits": metric.digits,
    }
