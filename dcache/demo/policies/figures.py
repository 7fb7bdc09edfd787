"""Figures of a bench: success and coverage, and paired differences to the reference with their intervals."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from dcache.demo.policies.closed_loop import Result
from dcache.eval.bootstrap import interval

RESAMPLES = 10_000
# Mean of paired differences, low and high end of its interval.
Difference = tuple[float, float, float]


@dataclass(frozen=True)
class Figures:
    """One row of the closed loop's table.

    Attributes:
        setting: its text.
        episodes: number of episodes.
        success: share of episodes that were solved.
        progress: mean best progress (PushT: coverage).
        steps: mean number of executed actions.
        difference: success minus the reference's over the episodes that both have, with the ends of
            its 95 % interval (bootstrap over episodes); None for the reference.
        progress_difference: the same of progress.
        chunks_per_second: chunks by CPU seconds of their batches.
        speedup: chunks_per_second divided by the reference's.
    """

    setting: str
    episodes: int
    success: float
    progress: float
    steps: float
    difference: Difference | None
    progress_difference: Difference | None
    chunks_per_second: float
    speedup: float | None


def figures(results: Mapping[str, Mapping[int, Result]], reference: str) -> list[Figures]:
    """The rows of all settings that have episodes.

    Args:
        results: setting -> episode -> result.
        reference: the setting that the others are compared with.
    """
    return [_row(spec, rows, results.get(reference, {})) for spec, rows in results.items() if rows]


def difference(values: Sequence[float], reference: Sequence[float]) -> Difference | None:
    """Mean paired difference and its 95 % interval; None for fewer than two pairs.

    >>> difference([1.0, 1.0], [0.0, 0.0])
    (1.0, 1.0, 1.0)
    """
    pairs = np.subtract(values, reference, dtype=np.float64)
    bounds = interval(pairs, range(len(pairs)), RESAMPLES)
    return None if bounds is None else (float(pairs.mean()), *bounds)


def _row(spec: str, rows: Mapping[int, Result], reference: Mapping[int, Result]) -> Figures:
    every = list(rows.values())
    shared = [] if rows is reference else sorted(set(rows) & set(reference))
    success = difference([rows[i].success for i in shared], [reference[i].success for i in shared])
    progress = difference([rows[i].progress for i in shared], [reference[i].progress for i in shared])
    rate = _rate(every)
    return Figures(
        spec,
        len(every),
        float(np.mean([row.success for row in every])),
        float(np.mean([row.progress for row in every])),
        float(np.mean([row.steps for row in every])),
        success,
        progress,
        rate,
        rate / _rate(list(reference.values())) if reference else None,
    )


def _rate(rows: Sequence[Result]) -> float:
    return sum(row.chunks for row in rows) / max(sum(row.seconds for row in rows), 1e-9)
