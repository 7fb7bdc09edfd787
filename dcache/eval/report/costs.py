"""Costs of calls from their records: seconds, FLOPs and bytes, compared with the uncached pipeline."""

from __future__ import annotations

import statistics
from collections.abc import Mapping, Sequence
from typing import Any

from dcache.eval.report.figure import Column, Figure

COSTS = (
    Column("computed", "computed", "share of the site events that were computed", kind="share"),
    Column("speedup", "speedup", "uncached seconds per picture by these, whole call", "higher", kind="times"),
    Column("denoiser_speedup", "denoiser speedup", "the same inside the denoisers", "higher", kind="times"),
    Column(
        "seconds", "s / picture", "median seconds of a warm call by its pictures", "lower",
        digits=3, spread="middle half of the calls",
    ),
    Column("flops", "FLOPs", "share of the uncached call's, counted in a run", "lower", kind="share"),
    Column("bytes_held", "held", "most bytes that the cache held in a call", "lower", kind="bytes"),
    Column("peak_memory", "peak", "most bytes allocated (GPU) or resident (CPU)", "lower", kind="bytes"),
)  # fmt: skip
_COLUMNS = {column.key: column for column in COSTS}

Calls = Sequence[Mapping[str, Any]]


def costs(calls: Calls, uncached: Calls, broken: str) -> dict[str, Figure]:
    """The figures of `COSTS` for one method.

    Args:
        calls: records of its calls.
        uncached: records of the uncached pipeline's calls.
        broken: what is wrong with the pictures, so that no speedup is reported; "" if nothing is.
    """
    seconds, whole = _per_picture(calls, "seconds"), _per_picture(uncached, "seconds")
    inside, all_inside = (_per_picture(c, "denoiser_seconds") for c in (calls, uncached))
    flops, all_flops = _counted(calls), _counted(uncached)
    shares = _recorded(calls, "computed")
    bytes_held = None if calls is uncached else max(_recorded(calls, "bytes_held"), default=None)
    values = {
        "computed": statistics.fmean(shares) if shares else 1.0 if calls is uncached else None,
        "speedup": _ratio(whole, seconds),
        "denoiser_speedup": _ratio(all_inside, inside),
        "seconds": statistics.median(seconds) if seconds else None,
        "flops": flops / all_flops if flops and all_flops else None,
        "bytes_held": bytes_held,
        "peak_memory": max(_recorded(calls, "peak_memory"), default=None),
    }
    figures = {key: Figure.of(_COLUMNS[key], value) for key, value in values.items()}
    if len(seconds) > 1:
        low, _, high = statistics.quantiles(seconds, n=4, method="inclusive")
        figures["seconds"] = Figure.of(_COLUMNS["seconds"], values["seconds"], low, high)
    if broken:
        figures |= dict.fromkeys(("speedup", "denoiser_speedup"), Figure(why_not=broken))
    return figures


def timed(calls: Calls) -> Calls:
    """The calls whose seconds count: warm ones with the full batch size; cold ones if there are no others."""
    full = max((len(call["files"]) for call in calls), default=0)
    alike = [call for call in calls if len(call["files"]) == full]
    return [call for call in alike if call["warm"]] or alike


def unsteady(calls: Calls) -> float:
    """Third quartile of the seconds of equal calls over the first, minus 1."""
    seconds = _per_picture(calls, "seconds")
    if len(seconds) < 2:
        return 0.0
    low, _, high = statistics.quantiles(seconds, n=4, method="inclusive")
    return high / low - 1


def _per_picture(calls: Calls, clock: str) -> list[float]:
    return [call[clock] / len(call["files"]) for call in timed(calls)]


def _ratio(whole: Sequence[float], seconds: Sequence[float]) -> float | None:
    if not whole or not seconds or not statistics.median(seconds):
        return None
    return statistics.median(whole) / statistics.median(seconds)


def _counted(calls: Calls) -> float | None:
    """FLOPs per picture, from the first call with a count; None if there is none."""
    return next((call["flops"] / len(call["files"]) for call in calls if call["flops"]), None)


def _recorded(calls: Calls, key: str) -> list[Any]:
    return [call[key] for call in calls if call[key] is not None]
