"""Weights of a schedule's predictions, fitted on the pictures that come out in the end.

Weights that bring a predicted feature closest to the true one need not bring the picture closest: errors of
different evaluations add up or cancel, guidance magnifies them, and every error changes what the later
evaluations see. So each weight is moved a little, the pipeline is run, and the change of the pictures is
seen: one Gauss-Newton step then sets all weights at once. It costs one cached run for each weight and is
right for any sampler, guidance and decoder, since nothing is assumed about them.

Of a prediction from two anchors one number is free: with weights that sum to one it goes on from the newest
anchor along the line through both, by `slope` times their difference. Of a guided batch there are two: one
for the mean of its halves, one for what is between them (`dcache.predictors.guided_pair`).
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
from dcache.search.render import Pictures, Renderer

# How far a slope is moved to see what it changes: far above rounding, well inside where the change is linear.
NUDGE = 0.05
# Shares of the curvature that are added to it: a bold, a usual and a careful step.
DAMPINGS = (0.03, 0.3, 3.0)
# Slopes beyond this were fitted to noise; weights as large are refused by `dcache.predictors.fitted` anyway.
STEEPEST = 20.0
Slopes = Mapping[int, float]
MEAN, APART = "mean", "apart"
_Slopes = Mapping[tuple[str, int], float]


class Share(NamedTuple):
    """How far predictions follow the line through the last two anchors: 0 is reuse, 1 all the way.

    Attributes:
        mean: of both halves of a guided batch, or of everything.
        apart: of the difference between the halves; None: as the mean.
    """

    mean: float
    apart: float | None = None


@dataclass(frozen=True)
class Fit:
    """A fitted schedule.

    Attributes:
        schedule: with the predictor `fitted`.
        slopes: of each predicted evaluation with two anchors before it.
        apart: the same of the difference between the halves of a guided batch, None where it follows them.
        before, after: mean PSNR on the prompts that it was checked on, of the slopes it began with and of the
            fitted ones, in dB.
        rendered: cached runs it took.
    """

    schedule: Schedule
    slopes: dict[int, float]
    apart: dict[int, float] | None
    before: float
    after: float
    rendered: int


def with_slopes(schedule: Schedule, slopes: Slopes, apart: Slopes | None = None) -> Schedule:
    """The schedule with predictions along the line through the last two anchors, by these slopes.

    Args:
        schedule: whose sites are all computed at the same evaluations.
        slopes: of predicted evaluations; one without is predicted by reuse.
        apart: of the difference between the halves of a guided batch; `slopes` are then of their mean.
    """
    name, plan, row = _only(schedule)
    tables = {"weights": {EVERYWHERE: table(row, slopes)}}
    if apart is not None:
        tables["apart"] = {EVERYWHERE: table(row, apart)}
    fitted = replace(plan, predictor="fitted", parameters=tables, clock="step")
    return replace(schedule, components={name: fitted})


def table(row: Sequence[bool], slopes: Slopes) -> dict[str, dict[str, float]]:
    """The weights of each predicted evaluation of one row, as the parameters of `Fitted` have them."""
    anchors = [t for t, computed in enumerate(row) if computed]
    found: dict[int, dict[int, float]] = {}
    for t in range(len(row)):
        before = last_before(t, anchors, 2)
        if row[t] or not before:
            continue
        slope = slopes.get(t, 0.0) if len(before) > 1 else 0.0
        found[t] = {before[-1]: 1.0 + slope} | ({before[0]: -slope} if len(before) > 1 else {})
    return as_json({EVERYWHERE: found})[EVERYWHERE]


def along(rows: Mapping[str, Sequence[bool]], share: Share) -> dict[str, Any]:
    """Parameters of the predictor `fitted` that follow each site's own line for a share of its way."""

    def tables(of: float) -> dict[str, Any]:
        found = {site: table(row, line(row, of)) for site, row in rows.items()}
        # Rows that are all alike are one table.
        same = len(set(map(tuple, rows.values()))) == 1
        return {EVERYWHERE: next(iter(found.values()))} if same else found

    return {"weights": tables(share.mean)} | ({} if share.apart is None else {"apart": tables(share.apart)})


def straight(schedule: Schedule, share: float = 0.5) -> dict[int, float]:
    """Slopes that follow the line through the last two anchors, on the clock of evaluations, for a share."""
    return line(_only(schedule)[2], share)


def line(row: Sequence[bool], share: float) -> dict[int, float]:
    """The same of one row, True where is computed."""
    return {t: share * (t - newest) / (newest - older) for t, (older, newest) in anchored(row).items()}


def anchored(row: Sequence[bool]) -> dict[int, tuple[int, int]]:
    """The last two anchors of each prediction that has as many."""
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
        schedule: of one denoiser, whose sites are all computed at the same evaluations.
        fitting: the pictures that the slopes are fitted on.
        checking: other prompts: a step is taken only as far as it helps there, and not at all if it does not.
        start: slopes to begin with; None follows the line for half of its way.
        iterations: most steps; each takes one run for each slope and a few more.
        apart: slopes to begin with of the difference between the halves of a guided batch, fitted beside the
            others; None: it is carried as the halves are.

    Raises:
        DcacheError: the schedule is of several denoisers or its sites differ, or it predicts nothing from two
            anchors.
    """
    slopes = {(MEAN, t): s for t, s in (straight(schedule) if start is None else start).items()}
    slopes |= {(APART, t): s for t, s in (apart or {}).items()}

    def at(slopes: _Slopes) -> Schedule:
        return with_slopes(schedule, _of(slopes, MEAN), None if apart is None else _of(slopes, APART))

    if not slopes:
        raise DcacheError("nothing to fit: no evaluation is predicted after two computed ones")
    began = fitting.rendered + checking.rendered
    first = best = checking.quality(at(slopes))
    for _ in range(iterations):
        here = fitting.pictures(at(slopes))
        changes = [
            (fitting.pictures(at(slopes | {one: slope + NUDGE})) - here) / NUDGE
            for one, slope in slopes.items()
        ]
        tried = [
            {one: s + float(d) for (one, s), d in zip(slopes.items(), move, strict=True)}
            for move in _moves(here, changes, fitting.reference)
        ]
        sane = [one for one in tried if all(abs(slope) <= STEEPEST for slope in one.values())]
        found = [(checking.quality(at(one)), one) for one in sane]
        quality, better = max(found, key=lambda pair: pair[0], default=(best, slopes))
        if not quality > best:
            break
        best, slopes = quality, better
    rendered = fitting.rendered + checking.rendered - began
    fitted, other = _of(slopes, MEAN), None if apart is None else _of(slopes, APART)
    return Fit(at(slopes), fitted, other, first, best, rendered)


def beginning(schedule: Schedule, paired: bool) -> tuple[dict[int, float], dict[int, float] | None]:
    """Slopes to begin a fit with: those that a schedule has, else half of the line's.

    Args:
        schedule: as in `fit`.
        paired: whether guidance makes one batch of both branches; their difference then has slopes too.
    """
    _, plan, row = _only(schedule)
    if plan.predictor != "fitted":
        half = straight(schedule)
        return half, (half if paired else None)
    mean = _read(plan.parameters["weights"], row)
    apart = _read(plan.parameters["apart"], row) if "apart" in plan.parameters else mean
    return mean, (apart if paired else None)


def slopes_of(told: Mapping[str, Any]) -> tuple[dict[int, float], dict[int, float] | None]:
    """The slopes of a fit, from what a journal has of it (`told_of`)."""
    mean, apart = ({int(t): float(s) for t, s in (told[one] or {}).items()} for one in (MEAN, APART))
    return mean, (None if told[APART] is None else apart)


def told_of(found: Fit) -> dict[str, Any]:
    """The slopes of a fit as JSON has them."""
    return {MEAN: found.slopes, APART: found.apart}


def can_fit(schedule: Schedule) -> bool:
    """Whether `fit` takes a schedule, and finds weights in it."""
    plans = schedule.components.values()
    rows = [row for plan in plans for sites in plan.rows.values() for row in sites.values()]
    return len(plans) == 1 and len(set(rows)) == 1 and bool(anchored(rows[0]))


def weights_of(schedule: Schedule, paired: bool) -> int:
    """How many weights a fit has: those of predictions from two anchors, twice where halves are apart."""
    return len(straight(schedule)) * (2 if paired else 1)


def _read(tables: Mapping[str, Mapping[Any, Mapping[Any, float]]], row: Sequence[bool]) -> dict[int, float]:
    """The slopes of `table`, 0 where it has no row."""
    rows = {int(t): {int(a): w for a, w in own.items()} for t, own in next(iter(tables.values())).items()}
    return {t: -rows.get(t, {}).get(before, 0.0) for t, (before, _) in anchored(row).items()}


def _of(slopes: _Slopes, which: str) -> dict[int, float]:
    return {t: slope for (one, t), slope in slopes.items() if one == which}


def _moves(here: Pictures, changes: list[Pictures], reference: Pictures) -> list[np.ndarray]:
    """A Gauss-Newton move of all slopes for each damping; every picture counts by its relative error."""
    count = len(here)
    residual = (reference - here).reshape(count, -1)
    # The gradient of a mean PSNR: of each picture's squared error, divided by that error.
    scale = 1.0 / np.sqrt((residual**2).mean(axis=1, keepdims=True) + 1e-10)
    A = np.stack([(change.reshape(count, -1) * scale).ravel() for change in changes], axis=1)
    H, g = A.T @ A, A.T @ (residual * scale).ravel()
    return [np.linalg.solve(H + share * np.diag(np.diag(H) + 1e-12), g) for share in DAMPINGS]


def _only(schedule: Schedule) -> tuple[str, Plan, tuple[bool, ...]]:
    """The denoiser's name, its plan, and the row that all its sites have."""
    plans = list(schedule.components.items())
    rows = [row for _, plan in plans for sites in plan.rows.values() for row in sites.values()]
    if len(plans) != 1 or len(list(groupby(rows))) != 1:
        raise DcacheError(
            "slopes are fitted of schedules of one denoiser whose sites are all computed at the same "
            f"evaluations: this one has {len(plans)} denoiser(s) and {len(set(rows))} different rows"
        )
    return plans[0][0], plans[0][1], rows[0]
