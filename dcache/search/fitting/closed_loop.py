"""Weights of a schedule's predictions, fitted on the final pictures.

The weights that minimise the error of a feature need not minimise the error of the picture: errors of
different evaluations add up or cancel, guidance magnifies them, and every error changes the inputs of later
evaluations. So the derivative of the pictures by each weight is measured, by moving the weight a little and
running the pipeline; one Gauss-Newton step then sets all weights. A step costs one cached run for each
weight. It holds for any sampler, guidance and decoder, because it assumes nothing about them.

A prediction from two anchors has one free number: its weights sum to one, so that it continues from the
newest anchor along the line through both, by `slope` times their difference. In a guided batch there are two
slopes: one for the mean of the halves, one (`apart`) for their difference (`dcache.predictors.guided_pair`).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import groupby
from typing import Any, NamedTuple

import numpy as np

from dcache.errors import DcacheError
from dcache.predictors.fitted import EVERYWHERE, as_json
from dcache.schedule import Plan, Schedule
from dcache.schedule.anchors import last_before
from dcache.search.rendering.render import Pictures, Renderer

# Change of a slope for the finite difference: far above rounding, small enough to stay linear.
NUDGE = 0.05
# Levenberg-Marquardt damping, as shares of the diagonal: a long, a usual and a short step.
DAMPINGS = (0.03, 0.3, 3.0)
# Larger slopes are fitted to noise; `dcache.predictors.fitted` refuses such weights too.
STEEPEST = 20.0
Slopes = Mapping[int, float]
MEAN, APART = "mean", "apart"
_Slopes = Mapping[tuple[str, int], float]


class Share(NamedTuple):
    """How far predictions follow the line through the last two anchors: 0 is reuse, 1 full extrapolation.

    Attributes:
        mean: share for the mean of the halves of a guided batch; without halves, for everything.
        apart: share for the difference of the halves; None is the same as `mean`.
        planned: of the slopes that a plan from an observed call has, instead of the line's on the step.
    """

    mean: float
    apart: float | None = None
    planned: bool = False


@dataclass(frozen=True)
class Fit:
    """A fitted schedule.

    Attributes:
        schedule: the schedule, with the predictor `fitted`.
        slopes: evaluation -> slope, for each predicted evaluation with two anchors before it.
        apart: the same for the difference of the halves of a guided batch; None if it has the slopes of the
            mean.
        before, after: mean PSNR in dB on the checking prompts, with the initial and with the fitted slopes.
        rendered: number of cached runs.
    """

    schedule: Schedule
    slopes: dict[int, float]
    apart: dict[int, float] | None
    before: float
    after: float
    rendered: int


def with_slopes(schedule: Schedule, slopes: Slopes, apart: Slopes | None = None) -> Schedule:
    """The schedule with predictions along the line through the last two anchors, with these slopes.

    Args:
        schedule: a schedule whose sites are all computed at the same evaluations.
        slopes: slopes of predicted evaluations; 0 (reuse) for those that are missing.
        apart: slopes for the difference of the halves of a guided batch; `slopes` are then for their mean.
    """
    name, plan, row = _only(schedule)
    tables = {"weights": {EVERYWHERE: table(row, slopes)}}
    if apart is not None:
        tables["apart"] = {EVERYWHERE: table(row, apart)}
    fitted = replace(plan, predictor="fitted", parameters=tables, clock="step")
    return replace(schedule, components={name: fitted})


def table(row: Sequence[bool], slopes: Slopes) -> dict[str, dict[str, float]]:
    """Weights of each predicted evaluation of one row, in the format of `Fitted`'s parameters."""
    anchors = [t for t, computed in enumerate(row) if computed]
    weights: dict[int, dict[int, float]] = {}
    for t in range(len(row)):
        before = last_before(t, anchors, 2)
        if row[t] or not before:
            continue
        slope = slopes.get(t, 0.0) if len(before) > 1 else 0.0
        weights[t] = {before[-1]: 1.0 + slope} | ({before[0]: -slope} if len(before) > 1 else {})
    return as_json({EVERYWHERE: weights})[EVERYWHERE]


def along(rows: Mapping[str, Sequence[bool]], share: Share) -> dict[str, Any]:
    """Parameters of the predictor `fitted` for a share of each site's line; `rows` is by site."""

    def tables(part: float) -> dict[str, Any]:
        by_site = {site: table(row, line(row, part)) for site, row in rows.items()}
        # Equal rows share one table, so that equal functions have equal schedules.
        same = len(set(map(tuple, rows.values()))) == 1
        return {EVERYWHERE: next(iter(by_site.values()))} if same else by_site

    return {"weights": tables(share.mean)} | ({} if share.apart is None else {"apart": tables(share.apart)})


def straight(schedule: Schedule, share: float = 0.5) -> dict[int, float]:
    """Slopes of all predictions that follow a share of the line through the last two anchors."""
    return line(_only(schedule)[2], share)


def line(row: Sequence[bool], share: float) -> dict[int, float]:
    """The same for one row (True is computed), with evaluation numbers as times."""
    return {t: share * (t - newest) / (newest - older) for t, (older, newest) in anchored(row).items()}


def anchored(row: Sequence[bool]) -> dict[int, tuple[int, int]]:
    """Evaluation -> its last two anchors (older, newer), for each prediction that has two."""
    anchors = [t for t, computed in enumerate(row) if computed]
    before = {t: last_before(t, anchors, 2) for t, computed in enumerate(row) if not computed}
    return {t: (pair[0], pair[1]) for t, pair in before.items() if len(pair) > 1}


def fit(
    schedule: Schedule,
    fitting: Renderer,
    checking: Renderer,
    start: Slopes | None = None,
    iterations: int = 2,
    apart: Slopes | None = None,
) -> Fit:
    """Fit the slopes of a schedule by Gauss-Newton steps on the final pictures.

    Args:
        schedule: a schedule of one denoiser whose sites are all computed at the same evaluations.
        fitting: renderer of the prompts that the slopes are fitted on.
        checking: renderer of other prompts. Of three damped steps the best there is taken, none if it does
            not improve their PSNR.
        start: initial slopes; None is half of the line's slopes.
        iterations: most steps; each takes one run for each slope and a few more.
        apart: initial slopes for the difference of the halves of a guided batch, fitted too; None: the
            difference has the slopes of the mean.

    Raises:
        DcacheError: the schedule is for several denoisers, its sites differ, or no prediction has two
            anchors.
    """
    slopes = {(MEAN, t): s for t, s in (straight(schedule) if start is None else start).items()}
    slopes |= {(APART, t): s for t, s in (apart or {}).items()}

    def at(slopes: _Slopes) -> Schedule:
        return with_slopes(schedule, _of(slopes, MEAN), None if apart is None else _of(slopes, APART))

    if not slopes:
        raise DcacheError("nothing to fit: no evaluation is predicted after two or more computed ones")
    began = fitting.rendered + checking.rendered
    first = best = checking.quality(at(slopes))
    for _ in range(iterations):
        here = fitting.pictures(at(slopes))
        changes = [
            (fitting.pictures(at(slopes | {key: slope + NUDGE})) - here) / NUDGE
            for key, slope in slopes.items()
        ]
        tried = [
            {key: s + float(d) for (key, s), d in zip(slopes.items(), move, strict=True)}
            for move in _moves(here, changes, fitting.reference)
        ]
        sane = [trial for trial in tried if all(abs(slope) <= STEEPEST for slope in trial.values())]
        checked = [(checking.quality(at(trial)), trial) for trial in sane]
        quality, better = max(checked, key=lambda pair: pair[0], default=(best, slopes))
        if not quality > best:
            break
        best, slopes = quality, better
    rendered = fitting.rendered + checking.rendered - began
    fitted, other = _of(slopes, MEAN), None if apart is None else _of(slopes, APART)
    return Fit(at(slopes), fitted, other, first, best, rendered)


def beginning(schedule: Schedule, paired: bool) -> tuple[dict[int, float], dict[int, float] | None]:
    """Initial slopes of a fit, for the mean and the difference: the schedule's own, or half of the line's.

    Args:
        schedule: as in `fit`.
        paired: whether guidance makes one batch of both branches; if not, the second result is None.
    """
    _, plan, row = _only(schedule)
    if plan.predictor != "fitted":
        half = straight(schedule)
        return half, (half if paired else None)
    mean = _read(plan.parameters["weights"], row)
    apart = _read(plan.parameters["apart"], row) if "apart" in plan.parameters else mean
    return mean, (apart if paired else None)


def slopes_from_json(content: Mapping[str, Any]) -> tuple[dict[int, float], dict[int, float] | None]:
    """`slopes` and `apart` of a fit, from the output of `slopes_to_json` after a round trip through JSON."""
    mean, apart = ({int(t): float(s) for t, s in (content[part] or {}).items()} for part in (MEAN, APART))
    return mean, (None if content[APART] is None else apart)


def slopes_to_json(fitted: Fit) -> dict[str, Any]:
    """The slopes of a fit, for the journal."""
    return {MEAN: fitted.slopes, APART: fitted.apart}


def can_fit(schedule: Schedule) -> bool:
    """Whether `fit` accepts a schedule: one denoiser, equal rows, and a prediction from two anchors."""
    plans = schedule.components.values()
    rows = [row for plan in plans for sites in plan.rows.values() for row in sites.values()]
    return len(plans) == 1 and len(set(rows)) == 1 and bool(anchored(rows[0]))


def weights_of(schedule: Schedule, paired: bool) -> int:
    """Number of weights of a fit: one for each prediction from two anchors, two if guidance is paired."""
    return len(straight(schedule)) * (2 if paired else 1)


def _read(tables: Mapping[str, Mapping[Any, Mapping[Any, float]]], row: Sequence[bool]) -> dict[int, float]:
    """Inverse of `table`: the slopes, 0 where it has no weights."""
    rows = {
        int(t): {int(a): w for a, w in weights.items()} for t, weights in next(iter(tables.values())).items()
    }
    return {t: -rows.get(t, {}).get(before, 0.0) for t, (before, _) in anchored(row).items()}


def _of(slopes: _Slopes, which: str) -> dict[int, float]:
    return {t: slope for (part, t), slope in slopes.items() if part == which}


def _moves(here: Pictures, changes: list[Pictures], reference: Pictures) -> list[np.ndarray]:
    """The Gauss-Newton step of all slopes, for each damping; maximises the mean PSNR of the pictures."""
    count = len(here)
    residual = (reference - here).reshape(count, -1)
    # PSNR is a log: its gradient is the gradient of the squared error, divided by that error.
    scale = 1.0 / np.sqrt((residual**2).mean(axis=1, keepdims=True) + 1e-10)
    A = np.stack([(change.reshape(count, -1) * scale).ravel() for change in changes], axis=1)
    H, g = A.T @ A, A.T @ (residual * scale).ravel()
    return [np.linalg.solve(H + share * np.diag(np.diag(H) + 1e-12), g) for share in DAMPINGS]


def _only(schedule: Schedule) -> tuple[str, Plan, tuple[bool, ...]]:
    """The denoiser's name, its plan, and the row shared by all its sites."""
    plans = list(schedule.components.items())
    rows = [row for _, plan in plans for sites in plan.rows.values() for row in sites.values()]
    if len(plans) != 1 or len(list(groupby(rows))) != 1:
        raise DcacheError(
            "expected a schedule of one denoiser whose sites are all computed at the same evaluations, got "
            f"{len(plans)} denoiser(s) and {len(set(rows))} different rows"
        )
    return plans[0][0], plans[0][1], rows[0]
