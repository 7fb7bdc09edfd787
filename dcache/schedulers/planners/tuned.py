"""Ours: the places and the predictor of one site, from one observed call.

The predictor follows from how guidance calls the denoiser, because under guidance its predicted error does
not rank predictors. The places minimise the predicted error of what the sampler is given, the guided
combination, weighted by how much each evaluation moves the final sample (`dcache.identity.step_effects`).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

import numpy as np

from dcache.errors import DcacheError
from dcache.identity.step_effects import noise_level_effects
from dcache.predictors.fitted import EVERYWHERE, as_json
from dcache.profile import Floats, Profile
from dcache.schedule import Schedule
from dcache.schedule.anchors import last_before
from dcache.schedulers.planners.algorithms import Anchors, pair_partition
from dcache.schedulers.planners.gram import (
    RIDGE,
    errors_under_plan,
    line_slopes,
    slope_errors,
    slopes,
    table,
)
from dcache.schedulers.planners.pairs import clock_values
from dcache.schedulers.planners.registry import scheduled
from dcache.util.checks import check_whole

# Share of the line's slope for the difference of a guided batch's halves.
DIFFERENCE = 0.25
# Share of the line's slope where the branches of guidance are called apart.
APART = 0.5
# Guidance scale of a guided batch whose scale is not known.
USUAL_GUIDANCE = 5.0
# Shares of computed evaluations at which the predictor changes, and from which on evaluation 1 is computed
# without guidance too; measured, docs/methods/tuned.md.
FEW, MANY, FORCED = 0.3, 0.4, 0.35
# PSNR of the demo's pictures less what `estimated_quality` has without it, in dB; 10 to 15 over 36 plans.
QUALITY_OFFSET = 12.0


@dataclass(frozen=True)
class Halves:
    """Gram matrices of the two halves u and c of a guided batch, (T, T) each.

    Attributes:
        mean: of (u + c) / 2.
        difference: of c - u.
        cross: `[t, s]`, the mean over elements of mean_t * difference_s.
    """

    mean: Floats
    difference: Floats
    cross: Floats


@dataclass(frozen=True)
class ObservedCall:
    """What one full call showed of one site.

    Attributes:
        gram: (T, T), the mean over elements and branches of z_t * z_s.
        clock: name of the clock of `taus`; None for the run's best, as in `dcache.identity.run`.
        taus: (T,), clock value of every evaluation.
        effects: (T,), |d final sample / d output| of every evaluation, up to a factor.
        halves: of a batch that holds the unconditional and the conditional half, else None.
        guided: True if guidance combines two or more branches, in one batch or in several calls.
        guidance: the guidance scale, None if it is not known.
    """

    gram: Floats
    clock: str | None
    taus: Floats
    effects: Floats
    halves: Halves | None = None
    guided: bool = False
    guidance: float | None = None


def halves_of(unconditional: Floats, conditional: Floats) -> Halves:
    """The Gram matrices of two halves, each given by (T, N) features."""
    mean, difference = (unconditional + conditional) / 2.0, conditional - unconditional
    return Halves(gram_of(mean), gram_of(difference), mean @ difference.T / mean.shape[1])


def gram_of(features: Floats) -> Floats:
    """(T, T), the mean over N of z_t * z_s, for features (T, N)."""
    gram: Floats = features @ features.T / features.shape[1]
    return gram


def guided_errors(halves: Halves, guidance: float, mean_slopes: Floats, difference_slopes: Floats) -> Floats:
    """(T, T, T), `[a, b, t]`: mean squared error of the guided combination, predicted from anchors a and b.

    With m and d the mean and the difference of the halves, u + s (c - u) = m + (s - 1/2) d, so the error is
    e_m + (s - 1/2) e_d.

    Args:
        halves: their Gram matrices.
        guidance: the scale s.
        mean_slopes: (T, T, T), slopes of the mean's prediction, as in `slope_errors`.
        difference_slopes: the same for the difference.
    """
    factor = guidance - 0.5
    count = len(halves.mean)
    a, b, t = np.meshgrid(*[np.arange(count)] * 3, indexing="ij")

    def error(slopes: Floats) -> list[tuple[Any, Any]]:
        """z_t - z_b - slope (z_b - z_a), as evaluations and their coefficients."""
        return [(t, 1.0), (b, -(1.0 + slopes)), (a, slopes)]

    cross = sum(
        w * v * halves.cross[i, j] for i, w in error(mean_slopes) for j, v in error(difference_slopes)
    )
    errors = slope_errors(halves.mean, mean_slopes)
    errors = errors + factor**2 * slope_errors(halves.difference, difference_slopes) + 2.0 * factor * cross
    return np.maximum(errors, 0.0)


def step_weights(observed: ObservedCall) -> Floats:
    """(T,): weights of the squared errors, |effect|; under guidance its root, for early errors grow."""
    weights = np.abs(np.asarray(observed.effects, np.float64)) ** (0.5 if observed.guided else 1.0)
    return weights if weights.any() else np.ones(len(weights))


def errors_and_terms(observed: ObservedCall, computes: int) -> tuple[Floats, dict[str, Any]]:
    """The predicted errors `[a, b, t]` of the predictor for so many computes, and its fields of a `Plan`.

    The parameters of fitted weights depend on the anchors and are left out.
    """
    share = computes / len(observed.gram)
    if observed.halves is not None:
        difference = 0.0 if share < FEW else DIFFERENCE
        line = line_slopes(range(len(observed.gram)))
        guidance = USUAL_GUIDANCE if observed.guidance is None else observed.guidance
        errors = guided_errors(observed.halves, guidance, line, difference * line)
        return errors, {
            "predictor": "guided_line",
            "parameters": {"difference": difference},
            "clock": "step",
        }
    table, terms = slopes_and_terms(observed, computes)
    return slope_errors(observed.gram, table), terms


def slopes_and_terms(observed: ObservedCall, computes: int) -> tuple[Floats, dict[str, Any]]:
    """Slopes of the predictor as in `slope_errors`, and its fields of a `Plan`, for all but guided batches.

    The parameters of fitted weights are left out.
    """
    share = computes / len(observed.gram)
    if observed.guided:
        part = 0.0 if share < FEW else APART
        half = part * line_slopes(range(len(observed.gram)))
        return half, {"predictor": "fitted" if part else "reuse", "clock": "step"}
    if share >= MANY:
        return slopes(observed.gram, RIDGE), {"predictor": "fitted", "clock": "step"}
    terms = {"predictor": "newton", "parameters": {"order": 1}, "clock": observed.clock}
    return line_slopes(observed.taus), terms


def planned(observed: ObservedCall, computes: int) -> tuple[Anchors, dict[str, Any]]:
    """The computed evaluations, and the fields predictor, parameters and clock of a `Plan`.

    Raises:
        DcacheError: there are not so many evaluations.
    """
    count = len(observed.gram)
    check_whole("computes", computes, 1)
    if computes > count:
        raise DcacheError(f"{computes} computes do not fit {count} evaluations")
    errors, terms = errors_and_terms(observed, computes)
    # Evaluation 1 shows the first change: without it a guided run extrapolates from nothing.
    forced = (1,) if computes > 1 and count > 1 and (observed.guided or computes / count >= FORCED) else ()
    anchors = pair_partition(errors * step_weights(observed), computes, forced).anchors(computes)
    if terms["predictor"] == "fitted":
        weights = _along(anchors, count) if observed.guided else table(observed.gram, anchors)
        terms["parameters"] = {"weights": as_json({EVERYWHERE: weights})}
    return anchors, terms


def _along(anchors: Anchors, count: int) -> dict[int, dict[int, float]]:
    """Weights that follow the share `APART` of the line through the last two anchors, as in `Fitted`."""
    weights: dict[int, dict[int, float]] = {}
    for t in (t for t in range(count) if t not in anchors):
        before = last_before(t, anchors, 2)
        slope = APART * (t - before[-1]) / (before[-1] - before[0]) if len(before) > 1 else 0.0
        weights[t] = {before[-1]: 1.0} if len(before) < 2 else {before[0]: -slope, before[1]: 1.0 + slope}
    return weights


def computes_for(speedup: float, steps: int, share: float) -> int:
    """The most computed evaluations with which a call is fast enough, at least 1.

    Args:
        speedup: operations of the uncached call over those of the cached one.
        steps: evaluations.
        share: share of the call's operations that the site takes, in all evaluations.
    """
    left = 1.0 - (1.0 - 1.0 / speedup) / share
    # A little more than the share allows may be lost to rounding, such as 2x of 20 where all can be saved.
    return max(1, min(steps, int(np.floor(steps * left + 1e-9))))


def speedup_of(computes: int, steps: int, share: float) -> float:
    """Operations of the uncached call over those with so many computed evaluations."""
    return 1.0 / (1.0 - share * (1.0 - computes / steps))


def estimated_quality(observed: ObservedCall, computes: int) -> float:
    """Estimated PSNR in dB of the pictures of a plan to the uncached ones; only without guidance.

    The errors of the final sample are taken to be independent, and relative to it as large as those of the
    features. That ranks plans; what is left to the PSNR is taken from the demo (docs/methods/tuned.md).

    Raises:
        DcacheError: guidance combines branches, which the estimate does not rank under.
    """
    if observed.guided:
        raise DcacheError(
            "quality= is estimated from predicted errors, which do not rank plans under guidance. Give "
            "speedup= instead, or calibrate on rendered pictures: dcache calibrate PIPE --method auto"
        )
    anchors, _ = planned(observed, computes)
    errors, _ = errors_and_terms(observed, computes)
    effects = np.asarray(observed.effects, np.float64)
    squared = float((effects**2 * errors_under_plan(errors, anchors)).sum())
    power = float(effects.sum() ** 2 * np.diag(observed.gram).mean())
    return 100.0 if squared <= 0.0 else min(100.0, QUALITY_OFFSET - 10.0 * float(np.log10(squared / power)))


def computes_for_quality(observed: ObservedCall, quality: float) -> int:
    """The fewest computed evaluations with this estimated quality.

    Raises:
        DcacheError: as `estimated_quality`.
    """
    count = len(observed.gram)
    return next((k for k in range(2, count) if estimated_quality(observed, k) >= quality), count)


def plan(profile: Profile, computes: int | None = None, site: str | None = None) -> Schedule:
    """The plan of a profile, which knows neither the sampler's effects nor the halves of a guided batch.

    The effects are differences of noise levels, and guided runs are planned as those of separate calls.

    Args:
        profile: with the site.
        computes: number of computed evaluations; None is 45 % of all.
        site: the site; None for the profile's `whole_site`.

    Raises:
        DcacheError: the site was not observed, or there is no such plan.
    """
    site = profile.whole_site if site is None else site
    computes = max(1, round(0.45 * profile.steps)) if computes is None else computes
    clock, taus = clock_values(profile)
    effects = noise_level_effects(profile.sigmas, profile.steps) or (1.0,) * profile.steps
    guided = profile.guidance is not None and profile.guidance > 1.0
    observed = ObservedCall(
        profile.tables(site).gram, clock, taus, np.asarray(effects), guided=guided, guidance=profile.guidance
    )
    anchors, terms = planned(observed, computes)
    return scheduled(profile, "tuned", {site: anchors}, **terms)


def levels(profile: Profile) -> Iterable[dict[str, Any]]:
    """Computes, descending from all evaluations but one to 1."""
    yield from ({"computes": k} for k in range(profile.steps - 1, 0, -1))
